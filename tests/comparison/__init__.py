"""What deviceflow and two other libraries do on the same scripted servers."""
