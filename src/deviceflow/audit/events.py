"""The event that each transition is, with the fields of `deviceflow.audit/1`. Pure: no I/O.

The JSON Schema lies beside this file but for its enumerations, which `schema()` fills in.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.actions import ACTIONS, LOG_IN
from deviceflow.core.pacing import clock_ahead
from deviceflow.core.ports import Origin
from deviceflow.core.sanitize import storable
from deviceflow.core.states import GrantState, Loss, Reason, State

if TYPE_CHECKING:
    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.grant import Grant
    from deviceflow.core.provider import Provider, Token

SCHEMA: Final = "deviceflow.audit/1"

STORE: Final = "store"
"""The flow id of such events, which have a chain of their own."""

FIELDS: Final = (
    "schema",
    "event_id",
    "time",
    "flow_id",
    "name",
    "seq",
    "action",
    "from",
    "to",
    "outcome",
    "reason",
    "detail",
    "dialect",
    "issuer",
    "client_id",
    "client_name",
    "scopes",
    "granted_scopes",
    "subject",
    "purpose",
    "attempt",
    "interval",
    "wait",
    "http_status",
    "duration",
    "clock_ahead",
    "in_doubt",
    "generation",
    "expires_at",
    "worker",
    "host",
    "pid",
    "engine",
    "task",
    "task_id",
    "actor",
    "address",
    "token_fingerprint",
    "previous_fingerprint",
    "code_fingerprint",
    "row_digest",
    "key_id",
    "omitted",
    "prev_hash",
    "hash",
    "mac",
)
"""An event's fields, in their order. The last nine are filled in by a trail, where one is kept."""

LISTS: Final = frozenset({"scopes", "granted_scopes"})
"""The fields that are lists of texts."""

WHOLE: Final = frozenset({"seq", "attempt", "generation", "http_status", "pid"})
"""The fields that are whole numbers."""

NUMBERS: Final = WHOLE | {"interval", "wait", "duration", "clock_ahead"}
"""The fields that are numbers.

`in_doubt` is true or false, and `omitted` an object. All fields besides are texts.
"""

REQUIRED: Final = frozenset(
    {"schema", "event_id", "time", "flow_id", "seq", "action", "outcome", "scopes", "in_doubt"}
    | {"prev_hash", "hash"}
)
"""The fields that are never null in a trail."""


_LAST: Final = 253_402_300_799.0  # the last second of the year 9999
_NOBODY: Final = Origin()


def render(flow: Flow, transition: Transition, origin: Origin = _NOBODY) -> dict[str, Any]:
    """Return the event that says what `transition` made of `flow`.

    It holds no secret, and not the user code either.

    Args:
        flow: The flow as it is after it.
        transition: What happened.
        origin: Who did it.
    """
    seq, at, action, source, dest, status, duration, wait, detail, ahead = transition
    event = _begun(flow.provider)
    event["event_id"] = f"{flow.id}.{seq}"
    event["time"] = text_of(at)
    event["flow_id"] = flow.id
    event["name"] = _storable(flow.name)
    event["seq"] = seq
    event["action"] = action.name
    event["from"] = source._value_
    event["to"] = dest._value_
    event["outcome"] = action.outcome
    event["reason"] = flow.reason and flow.reason._value_
    event["detail"] = _storable(detail)
    event["granted_scopes"] = _granted(flow.token)
    if action.issues_token:
        event["subject"] = _subject_of(flow.token)
    event["purpose"] = _storable(flow.purpose)
    event["attempt"] = flow.attempt
    event["interval"] = round(flow.interval, 4)
    event["wait"] = _rounded(wait)
    event["http_status"] = status
    event["duration"] = _rounded(duration)
    event["clock_ahead"] = _rounded(ahead)
    event["in_doubt"] = flow.in_doubt
    event["expires_at"] = _deadline(_expiry(flow))
    _add_origin(event, origin)
    return event


_known_settings: Final[dict[int, tuple[Provider, dict[str, Any]]]] = {}
"""The events of logins with the same settings, with what is alike in all of them.

By the `id` of the settings, which are kept as well, so that no other object can have the `id`.
"""

_MOST_SETTINGS: Final = 256


def _begun(provider: Provider) -> dict[str, Any]:
    """Return a new event with the fields that its login's settings decide; the others are null."""
    known = _known_settings.get(id(provider))
    if known is None or known[0] is not provider:
        if len(_known_settings) >= _MOST_SETTINGS:
            _known_settings.clear()
        known = _known_settings[id(provider)] = provider, _of_settings(provider)
    event = known[1].copy()  # a fraction of what it takes to build a dict of so many keys
    event["scopes"] = [*event["scopes"]]
    return event


def _of_settings(provider: Provider) -> dict[str, Any]:
    return {
        **dict.fromkeys(FIELDS),
        "schema": SCHEMA,
        "dialect": provider.dialect,
        "issuer": _storable(provider.server),
        "client_id": _storable(provider.client_id),
        "client_name": _storable(provider.client_name),
        "scopes": [storable(scope) for scope in provider.scopes],
    }


def _subject_of(token: Token | None) -> str | None:
    """Return who approved, as the id token says."""
    return None if token is None else token.subject


def _granted(token: Token | None) -> list[str] | None:
    if token is None or token.scopes is None:
        return None
    return [storable(scope) for scope in token.scopes]


def render_grant(grant: Grant, transition: Transition, origin: Origin = _NOBODY) -> dict[str, Any]:
    """Return the event that says what `transition` made of a grant. It holds no secret.

    Args:
        grant: The grant as it is after it.
        transition: What happened.
        origin: Who did it.
    """
    event = _begun(grant.provider)
    event |= {
        "event_id": f"{grant.id}.{transition.seq}",
        "time": text_of(transition.at),
        "flow_id": grant.id,
        "name": _storable(grant.name),
        "seq": transition.seq,
        "action": transition.action.name,
        "from": str(transition.source),
        "to": str(transition.dest),
        "outcome": transition.action.outcome,
        "reason": grant.reason and str(grant.reason),
        "detail": _storable(transition.detail),
        "granted_scopes": _granted(grant.token),
        "subject": grant.subject if transition.action is LOG_IN else None,
        "purpose": _storable(grant.purpose),
        "attempt": grant.attempt,
        "wait": _rounded(transition.wait),
        "http_status": transition.status,
        "duration": _rounded(transition.duration),
        "clock_ahead": _rounded(transition.ahead),
        "in_doubt": grant.in_doubt,
        "generation": grant.generation,
        "expires_at": _deadline(grant.expires_at),
    }
    _add_origin(event, origin)
    return event


def render_store_event(
    action: Action,
    at: float,
    seq: int,
    detail: str | None,
    origin: Origin = _NOBODY,
    *,
    previous: str | None = None,
) -> dict[str, Any]:
    """Return the event of something that belongs to no flow, but to the store.

    Args:
        action: What happened: one of `deviceflow.core.actions.STORE_EVENTS`.
        at: When, in seconds since 1970.
        seq: Its number in the chain of such events.
        detail: More of it, in words.
        origin: Who did it.
        previous: The time of the event before it, as that event has it.
    """
    event: dict[str, Any] = {
        **dict.fromkeys(FIELDS),
        "schema": SCHEMA,
        "event_id": f"{STORE}.{seq}",
        "time": text_of(at),
        "flow_id": STORE,
        "seq": seq,
        "action": action.name,
        "outcome": action.outcome,
        "detail": _storable(detail),
        "clock_ahead": _rounded(_ahead(previous, at)),
        "scopes": [],
        "in_doubt": False,
    }
    _add_origin(event, origin)
    return event


def _ahead(previous: str | None, at: float) -> float | None:
    try:
        before = datetime.fromisoformat(previous or "").timestamp()
    except ValueError:
        return None  # the first event, or a time that somebody has put there
    return clock_ahead(before, at)


def _add_origin(event: dict[str, Any], origin: Origin) -> None:
    event["worker"] = _storable(origin.worker)
    event["host"] = _storable(origin.host)
    event["pid"] = origin.pid
    event["engine"] = _storable(origin.engine)
    event["task"] = _storable(origin.task)
    event["task_id"] = _storable(origin.task_id)
    event["actor"] = _storable(origin.actor)
    event["address"] = _storable(origin.address)


_hours: Final[dict[int, str]] = {}
"""How the hours begin that were written lately, by their number since 1970."""

_MOST_HOURS: Final = 64


def text_of(seconds: float) -> str:
    """Return a time, given in seconds since 1970, as events have it."""
    second = int(seconds)
    micro = round((seconds - second) * 1e6)
    number, second = divmod(second, 3600)
    if seconds < 0 or micro == 1_000_000:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    hour = _hours.get(number)
    if hour is None:
        if len(_hours) >= _MOST_HOURS:
            _hours.clear()
        hour = _hours[number] = datetime.fromtimestamp(3600 * number, UTC).isoformat()[:14]
    return f"{hour}{second // 60:02}:{second % 60:02}.{micro // 1000:03}+00:00"


def _expiry(flow: Flow) -> float | None:
    if flow.token is not None:
        return flow.token.expires_at
    return None if flow.state.ended else flow.expires_at


def _deadline(seconds: float | None) -> str | None:
    return None if seconds is None else text_of(min(max(0.0, seconds), _LAST))


def _storable(text: object) -> str | None:
    # A number that a program gave for a text would come back from a database as one; and of an
    # enum's member, which may be a text as well, this is the text.
    if text is None:
        return None
    if type(text) is not str:
        text = str.__str__(text) if isinstance(text, str) else str(text)
    # As `storable` begins, without the call.
    return text if text.isascii() and text.isprintable() else storable(text)


def _rounded(seconds: float | None) -> float | None:
    # Short enough for each language to write it alike, which a canonical form needs.
    return None if seconds is None else round(seconds, 4)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `deviceflow.audit/1`, with what the table of actions says."""
    from importlib.resources import files  # noqa: PLC0415  # costs, and few ask

    text = files("deviceflow.audit").joinpath("audit-1.schema.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    properties = read["properties"]
    properties["action"]["enum"] = [*ACTIONS]
    properties["outcome"]["enum"] = [*dict.fromkeys(a.outcome for a in ACTIONS.values())]
    properties["reason"]["enum"] = [None, *map(str, Reason), *map(str, Loss)]
    read["$defs"]["state"]["enum"] = [*map(str, State), *map(str, GrantState), None]
    return read
