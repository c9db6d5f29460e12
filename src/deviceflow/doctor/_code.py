"""What the answer with the code says, and in what it departs from the standards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.core.wire import Failure, Response
from deviceflow.doctor._finding import Finding
from deviceflow.providers.idtoken import LEEWAY
from deviceflow.trail.stats import LONG_LIFE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock
    from deviceflow.providers.oauth import OAuth


SKEW: Final = 30.0
"""Seconds that a server's clock may be off before it is worth a word."""


def code_answer(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Finding]:
    fields = answer.fields() if isinstance(answer, Response) else None
    if fields is None:
        return
    named = provider.quirks.answer_names
    life = round((flow.expires_at or 0) - flow.created_at)
    yield Finding("code", "good", f"A code that lives for {life} seconds.")
    if "verification_uri" not in fields and "verification_uri" not in named:
        yield Finding(
            "code",
            "note",
            "The page's address is in verification_url, which is understood as well.",
            'answer_names = { verification_uri = "verification_url" }',
        )
    interval = provider.quirks.answered("interval", fields)
    if interval is None:
        yield Finding(
            "code",
            "note",
            f"No interval: polls are {flow.interval:g} seconds apart.",
            f"interval = {flow.interval:g}",
        )
    elif isinstance(interval, bool) or not isinstance(interval, int):
        kind = type(interval).__name__
        yield Finding(
            "code", "note", f"The interval is a {kind}, and is read as {flow.interval:g} seconds."
        )
    if flow.verification_uri_complete is None:
        yield Finding(
            "code",
            "note",
            "No verification_uri_complete: the person types the code, unless the page takes it"
            " from its address.",
            'complete_parameter = "user_code"',
        )


def practice(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Finding]:
    """Say in what the server departs from RFC 10027."""
    fields = answer.fields() if isinstance(answer, Response) else None
    life = round((flow.expires_at or 0) - flow.created_at)
    said = []
    if fields is not None and provider.quirks.answered("expires_in", fields) is None:
        said.append(
            f"No expires_in, which RFC 8628 section 3.2 requires: {life} seconds are assumed, and"
            " the code may live longer at the server."
        )
    elif life > LONG_LIFE:
        said.append(
            f"The code lives for {life} seconds. RFC 10027 section 6.1.2 wants codes short-lived:"
            f" {LONG_LIFE:g} seconds are usual."
        )
    if flow.verification_uri_complete is not None:
        said.append(
            "verification_uri_complete has the code in the link: whoever is sent the link can"
            " approve without reading a code anywhere, unless the page makes them compare it (RFC"
            " 8628 sections 3.3.1 and 5.4)."
        )
    if not provider.scopes:
        said.append(
            "No scope is asked for, so the server decides which to grant (RFC 6749 section 3.3)."
            " RFC 10027 section 6.1.9 wants few."
        )
    if provider.revocation_endpoint is None:
        said.append(
            "No revocation_endpoint is known: a token that fell into the wrong hands has to be"
            " revoked at the server, by hand (RFC 10027 section 6.1.6)."
        )
    yield from (Finding("practice", "note", one) for one in said)


def server_clock(provider: OAuth, answer: Response | Failure, clock: Clock) -> Iterator[Finding]:
    server = answer.date() if isinstance(answer, Response) else None
    if server is None:
        yield Finding("clock", "note", "The server sends no Date, so its clock is not known.")
        return
    off = round(server - clock.time())
    if abs(off) <= SKEW:
        yield Finding("clock", "good", "The server's clock and this machine's agree.")
        return
    signed = "openid" in provider.scopes or provider.authentication.method == "private_key_jwt"
    ahead = "ahead of" if off > 0 else "behind"
    refused = "would be" if signed and abs(off) > LEEWAY else "may be"
    yield Finding(
        "clock",
        "bad" if refused == "would be" else "note",
        f"The server's clock is {abs(off)} seconds {ahead} this machine's: one of them is wrong,"
        f" and id tokens and signed assertions {refused} refused.",
    )
