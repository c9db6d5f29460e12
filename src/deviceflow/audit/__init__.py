"""What is said and kept of a login: one event for each transition, of one published schema."""
