"""Stores of logins: memory, a SQLite file, PostgreSQL."""
