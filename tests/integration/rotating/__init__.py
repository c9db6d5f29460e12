"""Real authorization servers that rotate refresh tokens, each in a process of its own."""
