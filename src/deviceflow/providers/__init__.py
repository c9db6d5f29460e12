"""Providers: what to send to a server, and how to read its responses. Pure functions, no I/O."""
