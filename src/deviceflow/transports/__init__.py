"""What sends requests."""
