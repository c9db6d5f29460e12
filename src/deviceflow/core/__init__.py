"""The rules: states, actions, one login. Pure: no I/O, no clock, no environment."""
