"""`deviceflow audit show`: the events of a login or a grant, its descent, and how it stood.

A grant's token descends from the login of a person, by as many refreshes as it has generations.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import STORE, text_of
from deviceflow.cli import arguments, options, streams, trail
from deviceflow.cli.commands.audit_facts import facts, moment, outcome
from deviceflow.core.actions import action_of
from deviceflow.core.sanitize import printable
from deviceflow.errors import UnknownLoginError, UsageError
from deviceflow.trail import query
from deviceflow.trail.grant_view import Grant, parties, standing
from deviceflow.trail.login_view import counted, span

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator, Mapping, Sequence

    from deviceflow.stores.sql import SQLStore
    from deviceflow.trail.grant_view import Generation, NeedSpell, Standing
    from deviceflow.trail.login_view import Line, Login

_LATEST: Final = 5  # generations that are shown before the one in use
_LOGINS: Final = 20  # of one grant, whose chains are read
_HEADINGS: Final = ("TIME (UTC)", "STATE", "FOR", "WHY")


class ShowOptions(options.JobOptions):
    """The options of `show`."""

    id: str | None
    all: bool
    at: float | None


def add_show(parser: ArgumentParser) -> None:
    """Add the options of `show`."""
    parser.add_argument(
        "id",
        nargs="?",
        metavar="NAME|ID",
        help="a grant or a login by its name or id; by default the newest login",
    )
    parser.add_argument(
        "--all", action="store_true", help="one line per event and generation, without grouping"
    )
    parser.add_argument(
        "--at",
        type=arguments.moment,
        metavar="TIME",
        help="how it stood at that time: 2d ago, or 2026-01-31T08:00 (UTC)",
    )
    options.add_json(parser)


def show(args: ShowOptions) -> int:
    """Run `show`."""
    if args.id == STORE and args.at is not None:
        raise UsageError("The store's events have no state.", hint="Omit --at.")
    with closing(trail.store(args)) as kept:
        if args.id == STORE and not query.notes(kept):
            if args.json:
                streams.show(json.dumps({"flow_id": STORE, "events": []}))
            streams.say("The trail has no store events.")
            return 0
        found = query.one(kept, args.id) if args.id else _newest(kept)
        logins = _logins_of(kept, found) if isinstance(found, Grant) and args.at is None else {}
    if args.at is not None:
        _show_standing(args, found, args.at)
    else:
        _show_events(args, found, logins)
    return 0


def _show_events(args: ShowOptions, found: Login, logins: Mapping[str, Login | None]) -> None:
    if args.json:
        said = facts(found, _origin(found, logins))
        if isinstance(found, Grant):
            said |= {"descent": _descent(found, logins), "needs": list(map(_need, found.needs()))}
        streams.show(json.dumps(said | {"events": found.events}))
        return
    if found.id != STORE:
        for line in _head(found, _origin(found, logins)):
            streams.show(line)
    if isinstance(found, Grant):
        for line in _descent_lines(found, logins, whole=args.all):
            streams.show(line)
    rows = [_HEADINGS, *(_row(line) for line in found.story(whole=args.all))]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for row in rows:
        streams.show(
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        )


def _row(line: Line) -> tuple[str, str, str, str]:
    lasted = "" if line.lasted is None else span(line.lasted)
    return moment(line.time), printable(line.state, 20), lasted, printable(line.message)


def _newest(kept: SQLStore) -> Login:
    with query.logins(kept) as found:
        for login in found:
            return login
    raise UnknownLoginError("The trail has no logins.", hint="Start one with: deviceflow start")


def _origin(found: Login, logins: Mapping[str, Login | None]) -> Login | None:
    """Return the login that a grant's tokens descend from."""
    return logins.get(found.login_id or "") if isinstance(found, Grant) else None


def _head(login: Login, origin: Login | None) -> Iterator[str]:
    name = f"{printable(login.name, 200)}  " if login.name else ""
    yield f"{name}{printable(login.id)}  {outcome(login)}"
    client, issuer = (printable(text or "?", 200) for text in (login.client, login.issuer))
    yield f"{client} at {issuer}"
    scopes = login.events[0]["scopes"]
    if scopes:
        yield f"for {printable(' '.join(scopes), 200)}"
    if login.purpose:
        yield f"purpose: {printable(login.purpose, 200)}"
    for part, who, at in parties(login, origin):
        when = "" if at is None else f", {moment(at)[:19]}"
        yield f"{part}: {printable(who, 400)}{when}"


# What a token descends from.


def _logins_of(kept: SQLStore, grant: Grant) -> dict[str, Login | None]:
    """Return the logins that a grant got tokens from, those of them that the trail still has."""
    ids = [one.login_id for one in grant.generations() if one.login_id is not None]
    found: dict[str, Login | None] = dict.fromkeys(ids[-_LOGINS:])
    return found | query.some(kept, [*found])


def _descent(grant: Grant, logins: Mapping[str, Login | None]) -> list[dict[str, Any]]:
    return [
        {
            "generation": one.number,
            "since": text_of(one.since),
            "until": None if one.until is None else text_of(one.until),
            "action": one.action and one.action.name,
            "token_fingerprint": one.fingerprint,
            "expires_at": None if one.expires_at is None else text_of(one.expires_at),
            "login": one.login_id and _login_facts(one, logins.get(one.login_id)),
        }
        for one in grant.generations()
    ]


def _login_facts(generation: Generation, login: Login | None) -> dict[str, Any]:
    if login is None:
        return {"flow_id": generation.login_id}
    issued = _issued(login)
    return facts(login) | {
        "code_fingerprint": _last(login.events, "code_fingerprint"),
        "token_fingerprint": issued and issued["token_fingerprint"],
        "is_its_token": _is_its_token(generation, issued),
    }


def _issued(login: Login) -> Mapping[str, Any] | None:
    return next((e for e in login.events if action_of(e["action"]).issues_token), None)


def _last(events: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((event[name] for event in reversed(events) if event[name] is not None), None)


def _is_its_token(generation: Generation, issued: Mapping[str, Any] | None) -> bool | None:
    """Tell whether a generation's token is the login's; None if the fingerprints cannot tell."""
    if issued is None or None in (generation.fingerprint, issued["token_fingerprint"]):
        return None
    if issued["key_id"] != generation.key_id:
        return None
    return bool(issued["token_fingerprint"] == generation.fingerprint)


def _descent_lines(
    grant: Grant, logins: Mapping[str, Login | None], *, whole: bool
) -> Iterator[str]:
    """Yield the token's descent: each login, and the refreshes after it."""
    generations = grant.generations()
    yield "descent of the token:" if generations else "no token yet"
    if grant.events[0]["seq"] != 1:
        yield "  earlier events were pruned"
    first_shown = 0 if whole else len(generations) - _LATEST - 1
    left_out = 0
    for place, one in enumerate(generations):
        if one.action is not None and one.login_id is None and place < first_shown:
            left_out += 1
            continue
        if left_out:
            yield "  … 1 refresh" if left_out == 1 else f"  … {left_out:,} refreshes"
            left_out = 0
        if one.login_id is not None:
            yield from _login_lines(one, logins)
        yield _generation_line(one)


def _login_lines(one: Generation, logins: Mapping[str, Login | None]) -> Iterator[str]:
    login_id = str(one.login_id)
    login = logins.get(login_id)
    shown = printable(login_id, 40)
    if login is None:
        yield f"  login {shown}: the trail has no events of it any more"
        return
    approved = login.approved_after
    when = "" if approved is None else f", approved after {span(approved)}"
    who = printable(login.requested.words(), 200)
    yield f"  login {shown}: requested {moment(login.started)[:19]} by {who}{when}"
    if _is_its_token(one, _issued(login)) is False:
        yield "    its token has another fingerprint than this generation's"


def _generation_line(one: Generation) -> str:
    how = "it came earlier" if one.action is None else _HOW.get(one.action, "refreshed")
    lasted = "in use" if one.until is None else f"for {span(max(0.0, one.until - one.since))}"
    token = f", token {one.fingerprint}" if one.fingerprint else ""
    return f"  generation {one.number}: {moment(one.since)[:19]}, {how}{printable(token)}, {lasted}"


_HOW: Final = {
    "log_in": "from that login",
    "adopt_grant": "a refresh token that a program brought",
    "use_late_answer": "from a late answer",
}


# How it stood.


def _show_standing(args: ShowOptions, found: Login, at: float) -> None:
    stood = standing(found, at)
    if stood is None:
        raise UnknownLoginError(
            f"The trail has no events of {printable(found.id)} before {moment(at)[:19]} UTC: the"
            f" first one is of {moment(found.started)[:19]}.",
            hint="Choose a later time: --at TIME.",
            flow_id=found.id,
        )
    if args.json:
        streams.show(json.dumps(_standing_facts(found, stood)))
        return
    kind = "grant" if isinstance(found, Grant) else "login"
    name = f"{printable(found.name)} " if found.name else ""
    streams.show(f"{kind} {name}{printable(found.id)} at {moment(at)[:19]} UTC")
    for name, text in _standing_lines(stood):
        streams.show(f"  {name}: {printable(text)}")


def _standing_lines(stood: Standing) -> Iterator[tuple[str, str]]:
    state = f"{stood.state}: {stood.reason}" if stood.reason else stood.state
    since = span(max(0.0, stood.at - stood.since))
    yield "state", f"{state}, since {moment(stood.since)[:19]} ({since})"
    if stood.in_doubt:
        yield "in doubt", "the server may have issued tokens that did not arrive"
    if stood.generation is not None:
        yield "generation", str(stood.generation)
    if stood.token_fingerprint is not None:
        yield "token", stood.token_fingerprint
    elif stood.code_fingerprint is not None and stood.generation is None:
        yield "user code", stood.code_fingerprint
    if stood.expires_at is not None:
        left = stood.expires_at - stood.at
        words = f"{span(left)} left" if left > 0 else f"{span(-left)} ago"
        yield "expires", f"{moment(stood.expires_at)[:19]} ({words})"
    if stood.generation is not None:
        yield "need", _need_words(stood.need, stood.at)
    yield "last event", str(stood.seq)


def _need_words(need: NeedSpell | None, at: float) -> str:
    if need is None:
        return "none"
    told = counted(need.notified, "notification")
    lasted = span(max(0.0, at - need.since))
    return f"{need.id or '?'}, since {moment(need.since)[:19]} ({lasted}), {told}"


def _standing_facts(found: Login, stood: Standing) -> dict[str, Any]:
    return {
        "flow_id": found.id,
        "name": found.name,
        "kind": "grant" if isinstance(found, Grant) else "login",
        "at": text_of(stood.at),
        "state": stood.state,
        "reason": stood.reason,
        "since": text_of(stood.since),
        "seq": stood.seq,
        "in_doubt": stood.in_doubt,
        "generation": stood.generation,
        "token_fingerprint": stood.token_fingerprint,
        "code_fingerprint": stood.code_fingerprint,
        "expires_at": None if stood.expires_at is None else text_of(stood.expires_at),
        "need": stood.need and _need(stood.need),
    }


def _need(need: NeedSpell) -> dict[str, Any]:
    return {
        "id": need.id,
        "since": text_of(need.since),
        "until": None if need.until is None else text_of(need.until),
        "notified": need.notified,
    }
