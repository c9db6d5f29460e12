"""Checks of the device authorization response: its fields, the security practice, and the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.core.wire import Failure, Response
from deviceflow.doctor._check import Check
from deviceflow.providers.idtoken import LEEWAY
from deviceflow.trail.stats import LONG_LIFE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock
    from deviceflow.providers.oauth import OAuth


SKEW: Final = 30.0
"""Seconds by which a server's clock may differ before the doctor reports it."""


def code_answer(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Check]:
    fields = answer.fields() if isinstance(answer, Response) else None
    if fields is None:
        return
    named = provider.quirks.answer_names
    life = round((flow.expires_at or 0) - flow.created_at)
    yield Check("code", "good", f"The server issued a code with a lifetime of {life} seconds.")
    if "verification_uri" not in fields and "verification_uri" not in named:
        yield Check(
            "code",
            "note",
            "The verification URI is in the field verification_url, which deviceflow reads too.",
            'answer_names = { verification_uri = "verification_url" }',
        )
    interval = provider.quirks.answered("interval", fields)
    if interval is None:
        yield Check(
            "code",
            "note",
            f"The response has no interval: {flow.interval:g} seconds are used.",
            f"interval = {flow.interval:g}",
        )
    elif isinstance(interval, bool) or not isinstance(interval, int):
        kind = type(interval).__name__
        yield Check(
            "code", "note", f"The interval is a {kind}; {flow.interval:g} seconds are used."
        )
    if flow.verification_uri_complete is None:
        yield Check(
            "code",
            "note",
            "The response has no verification_uri_complete: the person must type the code, unless"
            " the page reads the code from a URL parameter.",
            'complete_parameter = "user_code"',
        )


def practice(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Check]:
    """Report departures from RFC 10027."""
    fields = answer.fields() if isinstance(answer, Response) else None
    life = round((flow.expires_at or 0) - flow.created_at)
    notes = []
    if fields is not None and provider.quirks.answered("expires_in", fields) is None:
        notes.append(
            f"The response has no expires_in, which RFC 8628 section 3.2 requires: {life} seconds"
            " are assumed, but the code may be valid for longer."
        )
    elif life > LONG_LIFE:
        notes.append(
            f"The code is valid for {life} seconds. RFC 10027 section 6.1.2 recommends a short"
            f" lifetime: {LONG_LIFE:g} seconds are usual."
        )
    if flow.verification_uri_complete is not None:
        notes.append(
            "verification_uri_complete contains the code: a person who follows the link can approve"
            " without seeing the code, unless the page asks to compare it (RFC 8628 sections 3.3.1"
            " and 5.4)."
        )
    if not provider.scopes:
        notes.append(
            "The login requests no scope, so the server chooses the scopes (RFC 6749 section 3.3)."
            " RFC 10027 section 6.1.9 recommends few scopes."
        )
    if provider.revocation_endpoint is None:
        notes.append(
            "No revocation_endpoint is known: a leaked token must be revoked by hand at the server"
            " (RFC 10027 section 6.1.6)."
        )
    yield from (Check("practice", "note", note) for note in notes)


def server_clock(provider: OAuth, answer: Response | Failure, clock: Clock) -> Iterator[Check]:
    server = answer.date() if isinstance(answer, Response) else None
    if server is None:
        yield Check("clock", "note", "The server sends no Date header, so its clock is unknown.")
        return
    off = round(server - clock.time())
    if abs(off) <= SKEW:
        yield Check("clock", "good", "The server's clock and this machine's agree.")
        return
    signed = "openid" in provider.scopes or provider.authentication.method == "private_key_jwt"
    ahead = "ahead of" if off > 0 else "behind"
    refused = "would be" if signed and abs(off) > LEEWAY else "may be"
    yield Check(
        "clock",
        "bad" if refused == "would be" else "note",
        f"The server's clock is {abs(off)} seconds {ahead} this machine's clock. One of them is"
        f" wrong, and id tokens and signed assertions {refused} rejected.",
    )
