"""How events keep what is about a person: in clear, as a keyed fingerprint, or not at all.

`DEVICEFLOW_AUDIT_SUBJECT` says it of who approved, and `DEVICEFLOW_AUDIT_ADDRESS` of the address
that a need's page was used from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow import _environment
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.audit.chain import AuditKey

PERSONAL: Final = ("subject", "address")
"""The fields of an event that are about a person."""

WITHHELD: Final = "withheld"
"""What a field says if there was a value, and a setting keeps it out."""

FINGERPRINT: Final = "fingerprint:"
"""What a field begins with whose value is a keyed hash."""

_WAYS: Final = ("clear", "fingerprint", "no")


class Personal:
    """The settings of one client.

    Args:
        linked: Whether somebody links the client's events, with an audit key or without one.

    Raises:
        UsageError: A setting is none of `clear`, `fingerprint` and `no`.
    """

    def __init__(self, *, linked: bool) -> None:
        self._hidden: dict[str, str] = {}
        for name in PERSONAL:
            way = _environment.personal(name)
            if way not in _WAYS:
                raise UsageError(
                    f"DEVICEFLOW_AUDIT_{name.upper()} is {way!r}.",
                    hint="Use clear, fingerprint or no.",
                )
            if way != "clear":
                self._hidden[name] = way if linked else "no"

    def hide(self, event: dict[str, Any]) -> dict[str, Any]:
        """Hide what the settings say in a new event. `seal` completes a fingerprint."""
        for name, way in self._hidden.items():
            if event[name] is not None:
                event[name] = WITHHELD if way == "no" else Secret(event[name])
        return event


def seal(event: dict[str, Any], key: AuditKey | None) -> None:
    """Replace what `hide` left to be fingerprinted, before the event is hashed."""
    for name in PERSONAL:
        if isinstance(event[name], Secret):
            event[name] = WITHHELD if key is None else FINGERPRINT + key.fingerprint(event[name])
