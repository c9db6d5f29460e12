"""Convert a grant to JSON types and back, and check records that are read.

As in `deviceflow.core.codec`, anybody can read the open part, and the hidden parts are sealed
before they are stored.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from deviceflow.core.need import NO_ANSWER, WHY, Need
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss, NeedEnd
from deviceflow.core.text import trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.grant import Grant

Kind = Literal["access", "refresh", "aside", "revoke", "link"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The kinds of secrets: access token, refresh token, late answers, tokens to revoke, and the link
of the need's page."""


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and isfinite(cast("float", value))


def _is_time_or_none(value: object) -> bool:
    return value is None or _is_time(value)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


_AS_THEY_ARE: Final[Mapping[str, Callable[[object], bool]]] = {
    "attempt": _is_count,
    "detail": _is_text,
    "due_at": _is_time,
    "ended_at": _is_time_or_none,
    "ends_old": _is_flag,
    "failures": _is_count,
    "flow_id": _is_text,
    "generation": _is_count,
    "invalid": _is_flag,
    "issued_at": _is_time,
    "issued_clock": _is_text,
    "issued_uptime": _is_time_or_none,
    "moved_at": _is_time,
    "needs_approver": _is_flag,
    "purpose": _is_text,
    "refusals": _is_count,
    "refused_at": _is_time,
    "replays": _is_count,
    "revocations": _is_count,
    "sent_at": _is_time,
    "sent_clock": _is_text,
    "sent_uptime": _is_time_or_none,
    "seq": _is_count,
    "subject": _is_text,
    "window_at": _is_time,
}
"""The fields that a record takes from the grant unchanged, each with its check."""

_OF_NEED: Final[Mapping[str, Callable[[object], bool]]] = {
    "id": lambda value: isinstance(value, str),
    "reason": lambda value: value in WHY or value == NO_ANSWER,
    "since": _is_time,
    "notify_at": _is_time_or_none,
    "notified": _is_count,
    "notified_at": _is_time_or_none,
    "failures": _is_count,
    "ended_at": _is_time_or_none,
    "host": _is_text,
    "codes_at": _is_time,
}
"""The fields that a record takes from a need unchanged, each with its check."""

_CLEANED: Final = ("detail", "subject")


def open_part(grant: Grant) -> dict[str, Any]:
    """Return the grant without its providers and its secrets."""
    need = grant.need
    return {
        **{name: getattr(grant, name) for name in _AS_THEY_ARE},
        "id": grant.id,
        "state": grant.state.value,
        "reason": grant.reason and grant.reason.value,
        "in_doubt": grant.in_doubt,
        "need": need and _open_part_of(need),
        "outage": grant.outage and _open_part_of(grant.outage),
        "untold": [_open_part_of(need) for need in grant.untold],
    }


def _open_part_of(need: Need) -> dict[str, Any]:
    """Return a need without its link."""
    return {name: getattr(need, name) for name in _OF_NEED} | {"end": need.end and str(need.end)}


def _need_of(record: Mapping[str, Any]) -> Need:
    values = {name: record[name] for name in _OF_NEED}
    if not all(_OF_NEED[name](value) for name, value in values.items()):
        raise ValueError("need")
    end = record["end"]
    if (end is None) != (values["ended_at"] is None):
        raise ValueError("end")
    return Need(**values, end=None if end is None else NeedEnd(end), link=Secret(""))


def hidden_part(grant: Grant, kind: Kind) -> Any:
    """Return the grant's secrets of a kind in clear, or None if it has none."""
    token = grant.token
    match kind:
        case "access":
            return token and token.to_dict() | {"refresh_token": None}
        case "refresh":
            return token and token.refresh_token and token.refresh_token.reveal()
        case "aside":
            return [late.to_dict() for late in grant.aside] or None
        case "revoke":
            return [[name, secret.reveal()] for name, secret in grant.to_revoke] or None
        case _:
            return grant.need and grant.need.link.reveal()


def fill(grant: Grant, record: Mapping[str, Any]) -> None:
    """Set the grant's fields from the open part of a record, the need without its link.

    Raises:
        LookupError: A field is missing.
        ValueError: A field is invalid.
        TypeError: Likewise.
    """
    for name, fits in _AS_THEY_ARE.items():
        value = record[name]
        if not fits(value):
            raise ValueError(name)
        setattr(grant, name, trusted(value) if name in _CLEANED and value is not None else value)
    grant.state = GrantState(record["state"])
    grant.reason = None if record["reason"] is None else Loss(record["reason"])
    if (grant.state is GrantState.LOST) != (grant.reason is not None):
        raise ValueError("reason")
    grant.need = None if record["need"] is None else _need_of(record["need"])
    grant.outage = None if record["outage"] is None else _need_of(record["outage"])
    grant.untold = tuple(map(_need_of, record["untold"]))


def fill_hidden(grant: Grant, kind: Kind, hidden: Any) -> None:
    """Set the grant's secrets of one kind; `access` comes before `refresh`.

    It raises the same errors as `fill`.
    """
    match kind:
        case "access":
            grant.token = Token.from_dict(hidden)
        case "refresh":
            if grant.token is None:
                raise ValueError(kind)
            grant.token.refresh_token = Secret.of(hidden)
        case "aside":
            grant.aside = tuple(map(Token.from_dict, hidden))
        case "revoke":
            grant.to_revoke = tuple((str(name), Secret.of(text)) for name, text in hidden)
        case _:
            if grant.need is None:
                raise ValueError(kind)
            grant.need = grant.need._replace(link=Secret.of(hidden))
