"""A flow as JSON types: what of it is in a record, and what makes a record one to go on with.

The open part can be read by anybody. The hidden part holds the secrets, by kind, and is sealed
before it is kept anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from deviceflow.core.machine import Reason, State
from deviceflow.core.provider import LONGEST_USER_CODE, Token
from deviceflow.core.secret import Secret
from deviceflow.core.text import PersonText, link, ours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.flow import Flow
    from deviceflow.core.text import CleanText

SCHEMA: Final = "deviceflow.flow/1"

Kind = Literal["code", "token", "revoke"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The kinds of secrets: what is polled with, what came of it, and what is left to revoke."""


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 <= cast("float", value) < 1e12


def _is_time(value: object) -> bool:
    return value is None or _is_seconds(value)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


_AS_THEY_ARE: Final[Mapping[str, Callable[[object], bool]]] = {
    "attempt": _is_count,
    "created_at": _is_seconds,
    "detail": _is_text,
    "due_at": _is_seconds,
    "ended_at": _is_time,
    "expires_at": _is_time,
    "failures": _is_count,
    "handover": lambda value: value in (None, "collected", "acknowledged", "purged"),
    "head": _is_text,
    "id": lambda value: isinstance(value, str),
    "in_doubt": _is_flag,
    "interval": lambda value: _is_seconds(value) and value != 0,
    "last_poll_owed": _is_flag,
    "moved_at": _is_seconds,
    "name": _is_text,
    "purpose": _is_text,
    "seq": _is_count,
    "slow_downs": _is_count,
    "stray_tokens": _is_count,
    "token_endpoint": _is_text,
    "unreadable": _is_count,
    "user_code": _is_text,
    "verification_uri": _is_text,
    "verification_uri_complete": _is_text,
}
"""What is in a record as it is in the flow, and what it must be."""


_CLEANED: Final[Mapping[str, Callable[[Any], object]]] = {
    "detail": ours,
    "extra": lambda pairs: tuple((str(name), _text(value)) for name, value in pairs),
    "user_code": lambda text: PersonText(text, LONGEST_USER_CODE),
    "verification_uri": link,
    "verification_uri_complete": link,
}


def _text(value: object) -> CleanText | None:
    return ours(value) if isinstance(value, str) else None


def again(name: str, value: Any) -> Any:
    """Return a part of a flow, as it was kept, in its type: cleaned once more, if it is text.

    Whoever can write where it was kept may have changed it.
    """
    clean = _CLEANED.get(name)
    return value if clean is None or value is None else clean(value)


def open_part(flow: Flow) -> dict[str, Any]:
    """Return all of the flow but its provider and its secrets."""
    record = {name: getattr(flow, name) for name in _AS_THEY_ARE}
    record["state"] = flow.state.value
    record["reason"] = flow.reason and flow.reason.value
    record["extra"] = dict(flow.extra)
    return record


def hidden_part(flow: Flow, kind: Kind) -> Any:
    """Return the flow's secrets of a kind in clear, or None where it has none."""
    if kind == "token":
        return flow.token and flow.token.to_dict()
    if kind == "revoke":
        return [[name, token.reveal()] for name, token in flow.to_revoke] or None
    code = [secret and secret.reveal() for secret in (flow.device_code, flow.verifier)]
    return code if any(code) else None


def fill(flow: Flow, record: Mapping[str, Any]) -> None:
    """Make the flow what the open part of a record says.

    Raises:
        LookupError: Something is missing in it.
        ValueError: Something in it is not what it must be.
        TypeError: Likewise.
        AttributeError: Likewise.
    """
    for name, fits in _AS_THEY_ARE.items():
        value = record[name]
        if not fits(value):
            raise ValueError(name)
        setattr(flow, name, again(name, value))
    flow.state = State(record["state"])
    flow.reason = None if record["reason"] is None else Reason(record["reason"])
    flow.extra = again("extra", record["extra"].items())
    if (flow.state is State.FAILED) != (flow.reason is not None):
        raise ValueError("reason")


def fill_hidden(flow: Flow, kind: Kind, hidden: Any) -> None:
    """Give the flow its secrets of a kind back; raises what `fill` does."""
    if kind == "token":
        flow.token = None if hidden is None else Token.from_dict(hidden)
    elif kind == "revoke":
        flow.to_revoke = tuple((str(name), Secret.of(text)) for name, text in hidden or ())
    else:
        code, verifier = hidden or (None, None)
        flow.device_code = None if code is None else Secret.of(code)
        flow.verifier = None if verifier is None else Secret.of(verifier)
