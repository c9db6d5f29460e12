"""A worker drives all logins of a store: `deviceflow worker`, and for programs `Worker`."""

from deviceflow.worker._worker import Counts, Retention, Step, Worker

__all__ = ["Counts", "Retention", "Step", "Worker"]
