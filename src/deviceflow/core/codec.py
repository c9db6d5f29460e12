"""Convert a flow to JSON types and back, and check records that are read.

Anybody can read the open part. The hidden part contains the secrets, by kind. It is sealed before
it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from deviceflow.core.provider import LONGEST_USER_CODE, Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Handover, Reason, State
from deviceflow.core.text import PersonText, link, trusted

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.text import CleanText

SCHEMA: Final = "deviceflow.flow/1"

Kind = Literal["code", "token", "revoke"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The kinds of secrets: device code and verifier, token, and tokens to revoke."""


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


Check = Callable[[object], bool]

RECORDED: Final[Mapping[str, Check]] = {
    "created_at": _is_seconds,
    "ended_at": _is_time,
    "name": _is_text,
    "needs_approver": _is_flag,
    "purpose": _is_text,
    "settings": _is_text,
    "token_endpoint": _is_text,
    "user_code": _is_text,
    "verification_uri": _is_text,
    "verification_uri_complete": _is_text,
}
"""The fields that stay while a login waits, each with its check; `extra` is one of them."""

PROGRESS: Final[Mapping[str, Check]] = {
    "attempt": _is_count,
    "detail": _is_text,
    "due_at": _is_seconds,
    "expires_at": _is_time,
    "failures": _is_count,
    "handover": lambda value: value in [*Handover],
    "id": lambda value: isinstance(value, str),
    "in_doubt": _is_flag,
    "interval": lambda value: _is_seconds(value) and value != 0,
    "last_poll_owed": _is_flag,
    "moved_at": _is_seconds,
    "orphaned_tokens": _is_count,
    "revocations": _is_count,
    "seq": _is_count,
    "slow_downs": _is_count,
    "unreadable": _is_count,
}
"""The fields that transitions change, each with its check; `state` and `reason` are of them."""

_AS_THEY_ARE: Final[Mapping[str, Check]] = {**RECORDED, **PROGRESS, "head": _is_text}


_CLEANED: Final[Mapping[str, Callable[[Any], object]]] = {
    "detail": trusted,
    "handover": Handover,
    "extra": lambda pairs: tuple((str(name), _text(value)) for name, value in pairs),
    "user_code": lambda text: PersonText(text, LONGEST_USER_CODE),
    "verification_uri": link,
    "verification_uri_complete": link,
}


def _text(value: object) -> CleanText | None:
    return trusted(value) if isinstance(value, str) else None


def again(name: str, value: Any) -> Any:
    """Return a stored field in its type. Text is cleaned again.

    Somebody who can write to the store may have changed the field.
    """
    clean = _CLEANED.get(name)
    return value if clean is None or value is None else clean(value)


def open_part(flow: Flow) -> dict[str, Any]:
    """Return the flow without its provider and its secrets."""
    return {**recorded(flow), **progress(flow), "head": flow.head}


def recorded(flow: Flow) -> dict[str, Any]:
    """Return what of the open part stays while the login waits."""
    return {name: getattr(flow, name) for name in RECORDED} | {"extra": dict(flow.extra)}


def progress(flow: Flow) -> dict[str, Any]:
    """Return what of the open part transitions change."""
    fields = {name: getattr(flow, name) for name in PROGRESS}
    return fields | {"state": flow.state.value, "reason": flow.reason and flow.reason.value}


def hidden_part(flow: Flow, kind: Kind) -> Any:
    """Return the flow's secrets of a kind in clear, or None if it has none."""
    if kind == "token":
        return flow.token and flow.token.to_dict()
    if kind == "revoke":
        return [[name, token.reveal()] for name, token in flow.to_revoke] or None
    code = [secret and secret.reveal() for secret in (flow.device_code, flow.verifier)]
    return code if any(code) else None


def fill(flow: Flow, record: Mapping[str, Any]) -> None:
    """Set the flow's fields from the open part of a record.

    Raises:
        LookupError: A field is missing.
        ValueError: A field is invalid.
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
    if (flow.state is State.AUTHORIZED) != (flow.handover is not Handover.NONE):
        raise ValueError("handover")


def fill_hidden(flow: Flow, kind: Kind, hidden: Any) -> None:
    """Set the flow's secrets of one kind. It raises the same errors as `fill`."""
    if kind == "token":
        flow.token = None if hidden is None else Token.from_dict(hidden)
    elif kind == "revoke":
        flow.to_revoke = tuple((str(name), Secret.of(text)) for name, text in hidden or ())
    else:
        code, verifier = hidden or (None, None)
        flow.device_code = None if code is None else Secret.of(code)
        flow.verifier = None if verifier is None else Secret.of(verifier)
