"""The events of a login: one for each transition, of one published schema."""
