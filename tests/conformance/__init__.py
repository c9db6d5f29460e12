"""The conformance kit on clients: `python -m tests.conformance`."""
