"""Who a client is on the record, and the names that it makes up."""

from __future__ import annotations

import getpass
import itertools
import os
import platform
import secrets
import sys

from deviceflow import _forks as forks
from deviceflow.audit.origin import current
from deviceflow.core.ports import Origin
from deviceflow.core.secret import Secret


class Identity:
    """The names of one client, in one process; a forked child gets new ones.

    Args:
        origin: What the program says of it: the actor, the engine, the task. The actor is by
            default what `DEVICEFLOW_ACTOR` says, or the user of the operating system.
    """

    def __init__(self, origin: Origin = Origin()) -> None:  # noqa: B008  # it is immutable
        self._origin = origin._replace(host=platform.node(), actor=origin.actor or actor())
        self._numbers = itertools.count(1)
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._prefix = f"{secrets.token_hex(6)}.{self._pid}."

    def worker(self) -> str:
        """Return a name for one piece of work that no other has, in this process or elsewhere."""
        return f"{self._prefix}{next(self._numbers)}"

    @property
    def origin(self) -> Origin:
        """The client's origin, with what `deviceflow.origin` has set."""
        return current(self._origin)

    def origin_of(self, worker: str) -> Origin:
        """Return the origin of one piece of work."""
        return self.origin._replace(worker=worker, pid=self._pid)

    @staticmethod
    def new_flow_id() -> str:
        """Return an id that no other flow has, and that no command takes for an option."""
        while (flow_id := secrets.token_urlsafe(12)).startswith("-"):
            pass
        return flow_id

    @staticmethod
    def new_verifier() -> Secret:
        """Return a PKCE verifier (RFC 7636 section 4.1)."""
        return Secret(secrets.token_urlsafe(48))


def actor() -> str | None:
    """Return who runs the program: `DEVICEFLOW_ACTOR`, else the user's name."""
    return os.environ.get("DEVICEFLOW_ACTOR") or user_name()


def user_name() -> str | None:
    """Return the name of the operating system's user, or its number; None where it has neither."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        if sys.platform == "win32":
            return None
        return str(os.getuid())
