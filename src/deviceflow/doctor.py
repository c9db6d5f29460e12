"""Looks at a provider as a login would, and says what it found: `deviceflow doctor`."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from deviceflow.errors import DeviceFlowError
from deviceflow.machine import State
from deviceflow.messages import Failure, Response
from deviceflow.untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.client import Client
    from deviceflow.flow import Flow
    from deviceflow.messages import Fields, Request
    from deviceflow.providers.oauth import OAuth
    from deviceflow.transport import Transport

GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
SKEW: Final = 30.0
"""Seconds that a server's clock may be off before it is worth a word."""

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: What: `discovery`, `tls`, `code`, `clock`, `poll`, `early poll`, `left behind`.
        verdict: `good`; `note`, where it works but differs; `bad`, where a login would fail.
        said: What was found, in words.
        quirk: The field of a provider entry that takes care of it, where one is needed.
    """

    part: str
    verdict: Verdict
    said: str
    quirk: str | None = None


class Recorder:
    """A transport that keeps what came last, for a closer look than a login takes."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.metadata: Fields | None = None
        self.last: Response | Failure | None = None

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send by the transport inside."""
        self.last = self._inner.send(request, timeout)
        if request.purpose == "metadata" and isinstance(self.last, Response):
            self.metadata = self.last.fields()
        return self.last

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()


def examine(
    client: Client,
    recorder: Recorder,
    provider: OAuth,
    *,
    early_poll: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Finding]:
    """Walk through a login up to the point where a person would be needed.

    Args:
        client: A client that sends by `recorder`.
        recorder: What it sends by.
        provider: Whom to look at.
        early_poll: Whether to poll once more at once, to see whether the server minds.
        sleep: What waits out the interval.
    """
    if provider.issuer:
        yield from _transport_security(provider.issuer)
    try:
        flow = client.start(provider)
    except DeviceFlowError as error:
        part = "discovery" if recorder.metadata is None and provider.metadata_urls() else "code"
        yield Finding(part, "bad", str(error))
        return
    if recorder.metadata is not None:
        yield from _discovery(provider, recorder.metadata)
    elif flow.token_endpoint:
        yield from _transport_security(flow.token_endpoint)
    yield from _code(provider, flow, recorder.last)
    yield from _clock(recorder.last)
    wait = client.step(flow.id).wait_seconds
    if wait:
        sleep(wait)
        wait = client.step(flow.id).wait_seconds
    yield from _poll("poll", client.get(flow.id), recorder.last)
    if early_poll and not client.get(flow.id).state.ended:
        stands = client.get(flow.id)
        request = stands.request()
        yield _early(stands, recorder.send(request, 10.0))
    stands = client.get(flow.id)
    if not stands.state.ended:
        left = round((stands.expires_at or time.time()) - time.time())
        client.cancel(flow.id, "only looked at")
        yield Finding(
            "left behind",
            "note",
            f"The code {printable(flow.user_code or '', 40)} stays open at the server for"
            f" {left} seconds more. Do not approve it; nobody waits for its token.",
        )


def _transport_security(url: str) -> Iterator[Finding]:
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield Finding("tls", "note", f"{url} is plain http: good for a test on this machine only.")
        return
    host, port = parts.hostname or "", parts.port or 443
    try:
        with (
            socket.create_connection((host, port), timeout=10) as raw,
            ssl.create_default_context().wrap_socket(raw, server_hostname=host) as secured,
        ):
            version, certificate = secured.version(), secured.getpeercert() or {}
    except OSError as trouble:
        # Behind a proxy this says little, and the login itself will tell.
        yield Finding("tls", "note", f"{host} could not be looked at directly: {trouble}.")
        return
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - time.time()) / 86400)
    verdict: Verdict = "note" if days < 14 else "good"
    yield Finding("tls", verdict, f"{host}: {version}, certificate good for {days} days.")


def _discovery(provider: OAuth, metadata: Fields) -> Iterator[Finding]:
    yield Finding("discovery", "good", f"Metadata of {metadata.text('issuer')} found.")
    grants = metadata.get("grant_types_supported")
    if isinstance(grants, list) and GRANT not in grants:
        yield Finding("discovery", "note", "grant_types_supported does not list the device grant.")
    methods = metadata.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" in methods and not provider.uses_pkce:
        yield Finding(
            "discovery",
            "note",
            "PKCE with S256 is offered; on the device grant too, perhaps.",
            "pkce",
        )
    if metadata.text("revocation_endpoint") is None:
        yield Finding("discovery", "note", "No revocation_endpoint: tokens are revoked by hand.")


def _code(provider: OAuth, flow: Flow, answer: Response | Failure | None) -> Iterator[Finding]:
    fields = answer.fields() if isinstance(answer, Response) else None
    if fields is None:
        return
    life = round((flow.expires_at or 0) - flow.created_at)
    yield Finding("code", "good", f"A code that lives for {life} seconds.")
    named = provider.quirks.answer_names
    if "verification_uri" not in fields and "verification_uri" not in named:
        yield Finding("code", "note", "The page is in verification_url.", "answer_names")
    if fields.get(named.get("interval", "interval")) is None:
        yield Finding("code", "note", "No interval: polls are 5 seconds apart.", "interval")
    elif not isinstance(fields.get("interval"), int):
        kind = type(fields.get("interval")).__name__
        yield Finding("code", "note", f"The interval is not a whole number but a {kind}.")
    if flow.verification_uri_complete is None:
        yield Finding(
            "code", "note", "No verification_uri_complete: the person types.", "complete_parameter"
        )


def _clock(answer: Response | Failure | None) -> Iterator[Finding]:
    server = answer.date() if isinstance(answer, Response) else None
    if server is None:
        yield Finding("clock", "note", "The server sends no Date, so its clock is not known.")
        return
    off = round(server - time.time())
    if abs(off) > SKEW:
        ahead = "ahead of" if off > 0 else "behind"
        yield Finding(
            "clock",
            "bad",
            f"The server's clock is {abs(off)} seconds {ahead} this machine's: one is wrong, and"
            " signed assertions and id tokens may be refused.",
        )
    else:
        yield Finding("clock", "good", "The server's clock and this machine's agree.")


def _poll(part: str, flow: Flow, answer: Response | Failure | None) -> Iterator[Finding]:
    if not isinstance(answer, Response):
        yield Finding(part, "bad", "No answer came to the poll.")
        return
    if flow.state is not State.AWAITING_USER or flow.failures:
        said = f"status {answer.status}: {flow.detail or 'not understood'}"
        yield Finding(
            part, "bad", f"A poll should be told 'pending', and was told {said}.", "errors"
        )
        return
    if flow.slow_downs:
        yield Finding(part, "note", "Too fast, at the interval that it asked for.", "margin")
        return
    yield Finding(part, "good", "Pending, as it should be.")
    if answer.status != 400:
        yield Finding(part, "note", f"'Pending' comes with status {answer.status}, and not 400.")


def _early(flow: Flow, answer: Response | Failure) -> Finding:
    if isinstance(answer, Failure):
        return Finding("early poll", "note", "No answer came to a poll that was too early.")
    meant = flow.provider.read_token(answer).outcome
    if meant == "slow_down" or answer.status == 429:
        return Finding("early poll", "good", "A poll that is too early is told to slow down.")
    if meant == "pending":
        return Finding("early poll", "good", "A poll that is too early does no harm.")
    return Finding("early poll", "note", f"A poll that was too early was answered: {meant}.")


def as_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON types."""
    return {name: getattr(finding, name) for name in ("part", "verdict", "said", "quirk")}
