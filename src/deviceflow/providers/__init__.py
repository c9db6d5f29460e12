"""The servers that can be logged in to, and what their answers mean. Pure: no I/O."""
