"""What drives logins."""
