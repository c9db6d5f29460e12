"""Logins whose processes die, are suspended, or are many: `python -m tests.crash`.

Everything is real: processes, signals, an authorization server behind a port, stores on disk. Only
the time is not: it stands in a file that all of them read, and whoever sleeps moves it on.
"""
