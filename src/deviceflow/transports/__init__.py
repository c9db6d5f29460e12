"""Transports: send requests and return responses."""
