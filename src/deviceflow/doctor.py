"""Looks at a provider as a login would, and says what it found: `deviceflow doctor`."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from deviceflow.client.clock import SystemClock
from deviceflow.core.machine import Reason, State
from deviceflow.core.text import NOTHING, CleanText, Known
from deviceflow.core.wire import Failure, Response
from deviceflow.credentials.client_auth import authenticated
from deviceflow.errors import DeviceFlowError, ServerError
from deviceflow.providers.idtoken import LEEWAY
from deviceflow.providers.oauth import GRANT_TYPE
from deviceflow.trail.stats import LONG_LIFE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deviceflow.client._sync import Client
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Clock, Transport
    from deviceflow.core.provider import Token
    from deviceflow.core.wire import Fields, Request
    from deviceflow.providers.oauth import OAuth

SKEW: Final = 30.0
"""Seconds that a server's clock may be off before it is worth a word."""

ENDING: Final = 14
"""Days before a certificate's end from which on it is worth a word."""

_PATIENCE: Final = 10.0
_CODE_NAMES: Final = ("device_code", "user_code", "verification_uri", "expires_in", "interval")
_OTHER_ERROR_FIELDS: Final = ("error", "error_code", "errorCode", "code", "message", "detail")

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: What: `tls`, `discovery`, `client`, `code`, `practice`, `clock`, `poll`, `early poll`,
            `left behind`. Under `practice` is in what the server departs from RFC 10027, the
            security practice for cross-device flows.
        verdict: `good`; `note`, where it works but differs; `bad`, where a login would fail.
        said: What was found, in words.
        quirk: A line of TOML for the provider's entry that takes care of it, where one does.
    """

    part: str
    verdict: Verdict
    said: str
    quirk: str | None = None


class Exchange(NamedTuple):
    """A request, what came of it, and when, by the monotonic clock."""

    request: Request
    result: Response | Failure
    at: float


class Recorder:
    """A transport that keeps what was said, for a closer look than a login takes.

    Args:
        inner: What sends.
        clock: What tells when.

    Attributes:
        exchanges: All of it, in order.
    """

    def __init__(self, inner: Transport, clock: Clock | None = None) -> None:
        self._inner = inner
        self._clock = clock or SystemClock()
        self.exchanges: list[Exchange] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send by the transport inside."""
        result = self._inner.send(request, timeout)
        self.exchanges.append(Exchange(request, result, self._clock.monotonic()))
        return result

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()

    def of(self, purpose: str) -> list[Exchange]:
        """Return the exchanges of that purpose."""
        return [one for one in self.exchanges if one.request.purpose == purpose]

    def metadata(self) -> Fields | None:
        """Return the metadata that came last."""
        results = [one.result for one in self.of("metadata")]
        found = [r.fields() for r in results if isinstance(r, Response) and r.status == 200]
        return next((fields for fields in reversed(found) if fields is not None), None)


def examine(
    client: Client,
    recorder: Recorder,
    provider: OAuth,
    *,
    early_poll: bool = False,
    clock: Clock | None = None,
) -> Iterator[Finding]:
    """Walk through a login up to the point where a person would be needed.

    It asks for one code, polls once after the interval, and says what becomes of the code.

    Args:
        client: A client that sends by `recorder`.
        recorder: What it sends by.
        provider: Whom to look at.
        early_poll: Whether to poll once more at once, to see whether the server minds.
        clock: What tells the time, and waits out the interval; the client's own.

    Raises:
        DeviceFlowError: It could not be gone on with, for a reason on this side.
    """
    clock = clock or SystemClock()
    sound = True
    for origin in _origins(provider):
        found = list(_transport_security(origin, clock))
        yield from found
        sound = sound and not any(one.verdict == "bad" for one in found)
    if not sound:
        return
    try:
        flow = client.start(provider)
    except ServerError as error:
        yield from _no_code(provider, recorder, error)
        return
    code = flow.user_code or ""
    ends = flow.expires_at or clock.time()
    try:
        yield from _with_code(client, recorder, flow, early_poll=early_poll, clock=clock)
    except (DeviceFlowError, ImportError, KeyboardInterrupt):
        yield _left_behind(code, ends - clock.time())
        raise
    stands = client.get(flow.id)
    if stands.reason is Reason.DENIED or stands.state is State.EXPIRED:
        yield Finding("left behind", "note", f"The code {code} is not open any more.")
    elif stands.state is not State.AUTHORIZED:
        client.cancel(flow.id, "only looked at")
        yield _left_behind(code, ends - clock.time())


def _left_behind(code: str, seconds: float) -> Finding:
    return Finding(
        "left behind",
        "note",
        f"The code {code} stays open at the server for {max(0, round(seconds))} seconds more. Do"
        " not approve it: nobody waits for its token.",
    )


def _with_code(
    client: Client, recorder: Recorder, flow: Flow, *, early_poll: bool, clock: Clock
) -> Iterator[Finding]:
    provider: Any = flow.provider
    metadata, (_, answered, at) = recorder.metadata(), recorder.of("code")[-1]
    yield from _discovery(provider, metadata)
    yield from _code(provider, flow, answered)
    yield from _practice(provider, flow, answered)
    yield from _clock(provider, answered, clock)
    while not recorder.of("token") and not client.get(flow.id).state.ended:
        wait = client.step(flow.id).wait_seconds
        if not recorder.of("token"):
            clock.sleep(wait)
    stands = client.get(flow.id)
    if not recorder.of("token"):
        yield Finding("poll", "bad", "The code's life was over before the first poll was due.")
        return
    polled = recorder.of("token")[-1]
    known = Known(flow.device_code, flow.verifier, user_code=flow.user_code)
    yield from _poll(stands, polled.result, polled.at - at, known)
    if stands.token is not None:
        yield _taken_back(recorder, stands, stands.token, clock)
    elif early_poll and not stands.state.ended:
        request = authenticated(stands.request(), clock.time())
        early = recorder.send(request, _PATIENCE)
        yield from _early(recorder, stands, early, polled.at, clock, known)


# The way there.


def _origins(provider: OAuth) -> list[str]:
    """Return where the login goes, as far as that is known beforehand, each place once."""
    urls = (provider.issuer, provider.device_authorization_endpoint, provider.token_endpoint)
    parts = [urlsplit(url) for url in urls if url]
    return list(dict.fromkeys(f"{one.scheme}://{one.netloc}" for one in parts))


def _transport_security(origin: str, clock: Clock) -> Iterator[Finding]:
    parts = urlsplit(origin)
    host, port = parts.hostname or "", parts.port or 443
    if parts.scheme != "https":
        yield Finding("tls", "note", f"{origin} is plain http: good for a test here only.")
        return
    if select_proxy(origin, get_environ_proxies(origin)):
        yield Finding("tls", "note", f"{host} is reached by a proxy, so TLS was not looked at.")
        return
    try:
        with (
            socket.create_connection((host, port), timeout=_PATIENCE) as raw,
            _context().wrap_socket(raw, server_hostname=host) as secured,
        ):
            version, certificate = secured.version(), secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as untrusted:
        yield Finding(
            "tls",
            "bad",
            f"{host}: its certificate is not trusted here: {untrusted.verify_message}. Where it is"
            " from an authority of your own, name that one's file in REQUESTS_CA_BUNDLE.",
        )
        return
    except OSError as trouble:
        yield Finding("tls", "bad", f"{host} port {port} cannot be reached by TLS: {trouble}.")
        return
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - clock.time()) / 86400)
    verdict: Verdict = "note" if days < ENDING else "good"
    yield Finding("tls", verdict, f"{host}: {version}, certificate good for {days} days.")


def _context() -> ssl.SSLContext:
    """Return what trusts whom `requests` trusts."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    trusted = next(filter(None, map(os.environ.get, names)), DEFAULT_CA_BUNDLE_PATH)
    folder = os.path.isdir(trusted)  # noqa: PTH112
    return ssl.create_default_context(
        cafile=None if folder else trusted, capath=trusted if folder else None
    )


# What the server says of itself.


def _no_code(provider: OAuth, recorder: Recorder, error: ServerError) -> Iterator[Finding]:
    """Say why there is no code."""
    if not (asked := recorder.of("code")):
        yield from _no_discovery(recorder, error)
        return
    yield from _discovery(provider, recorder.metadata())
    result = asked[-1].result
    if isinstance(result, Failure):
        tried = f"{result.kind}, {len(asked)} times tried"
        yield Finding("code", "bad", f"{asked[-1].request.url} gave no answer: {tried}.")
        return
    said, quirk = _explained(provider, result)
    yield Finding("code", "bad", f"No code: status {result.status}, {said}", quirk)


def _no_discovery(recorder: Recorder, error: ServerError) -> Iterator[Finding]:
    metadata = recorder.metadata()
    if metadata is not None:
        said, quirk = metadata.text("issuer"), None
        if metadata.text("device_authorization_endpoint") is None:
            quirk = 'device_authorization_endpoint = "https://…"'
        elif said and "{" in said:
            quirk = "issuer_template = true"
        elif said:
            quirk = f"issuer = {_quoted(said)}"
        yield Finding("discovery", "bad", str(error), quirk)
        return
    for request, result, _ in recorder.of("metadata"):
        yield Finding("discovery", "bad", *_no_metadata(request.url, result))
    if not recorder.of("metadata"):
        yield Finding("discovery", "bad", str(error))


def _no_metadata(url: str, result: Response | Failure) -> tuple[str, str | None]:
    if isinstance(result, Failure):
        return f"{url} gave no answer: {result.kind}.", None
    if target := result.header("Location"):
        issuer = re.sub(
            r"/\.well-known/(openid-configuration|oauth-authorization-server)", "", target
        )
        quirk = f"issuer = {_quoted(issuer)}" if issuer.startswith("https://") else None
        said = f"{url} leads elsewhere (status {result.status}), to {CleanText(target, NOTHING)}"
        return f"{said}: give the issuer as it is spelled there.", quirk
    if result.status != 200:
        return f"{url} has no metadata: status {result.status}.", None
    return f"{url} has no metadata: status 200, but not a JSON object.", None


def _discovery(provider: OAuth, metadata: Fields | None) -> Iterator[Finding]:
    if metadata is None:
        return
    issuer = CleanText(metadata.text("issuer") or "", NOTHING)
    yield Finding("discovery", "good", f"Metadata of {issuer} found.")
    grants = metadata.get("grant_types_supported")
    if isinstance(grants, list) and GRANT_TYPE not in grants:
        yield Finding("discovery", "note", "grant_types_supported does not list the device grant.")
    challenges = metadata.get("code_challenge_methods_supported")
    if isinstance(challenges, list) and "S256" in challenges and not provider.uses_pkce:
        yield Finding(
            "discovery",
            "note",
            "PKCE with S256 is offered; on the device grant too, perhaps.",
            "pkce = true",
        )
    methods = metadata.get("token_endpoint_auth_methods_supported")
    used = provider.authentication.method
    if isinstance(methods, list) and used not in methods:
        # "none" is often left out where public clients are welcome all the same.
        others = [one for one in ("client_secret_basic", "client_secret_post") if one in methods]
        quirk = f"client_auth = {_quoted(others[0])}" if others and used != "none" else None
        yield Finding("client", "note", f"{used} is not among the ways to authenticate.", quirk)


# The code.


def _code(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Finding]:
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


def _practice(provider: OAuth, flow: Flow, answer: Response | Failure) -> Iterator[Finding]:
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


def _clock(provider: OAuth, answer: Response | Failure, clock: Clock) -> Iterator[Finding]:
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


# The polls.


def _poll(flow: Flow, answer: Response | Failure, after: float, known: Known) -> Iterator[Finding]:
    if isinstance(answer, Failure):
        yield Finding("poll", "bad", f"No answer came to a poll: {answer.kind}.")
        return
    when = f"{after:.1f} seconds after the code, the interval being {flow.interval:g}"
    if flow.state is State.AUTHORIZED:
        yield Finding("poll", "note", "Somebody has approved the code already.")
    elif flow.state is not State.AWAITING_USER or flow.failures:
        said, quirk = _explained(flow.provider, answer, known, pending=True)
        yield Finding(
            "poll",
            "bad",
            f"A poll before the approval should be told 'pending', and was told: status"
            f" {answer.status}, {said}",
            quirk,
        )
    elif flow.slow_downs:
        yield Finding(
            "poll",
            "note",
            f"Told to slow down (status {answer.status}) at the first poll, {after:.1f} seconds"
            " after the code: it wants more than the interval that it names.",
            "margin = 1",
        )
    else:
        yield Finding("poll", "good", f"Pending, with status {answer.status}, {when}.")
        if answer.status != 400:
            yield Finding(
                "poll",
                "note",
                f"RFC 8628 says status 400, and not {answer.status}. What it means is understood,"
                " so nothing has to be set.",
            )


def _early(
    recorder: Recorder,
    flow: Flow,
    answer: Response | Failure,
    last: float,
    clock: Clock,
    known: Known,
) -> Iterator[Finding]:
    if isinstance(answer, Failure):
        yield Finding("early poll", "note", f"No answer came: {answer.kind}.")
        return
    after = f"{recorder.exchanges[-1].at - last:.1f} seconds after the one before"
    meant = flow.provider.read_token(answer)
    if meant.outcome == "slow_down" or answer.status == 429:
        named = f" It names an interval of {meant.interval:g} seconds." if meant.interval else ""
        yield Finding(
            "early poll", "good", f"Told to slow down (status {answer.status}), {after}.{named}"
        )
    elif meant.outcome == "pending":
        yield Finding("early poll", "good", f"Pending all the same, {after}: it does no harm.")
    elif meant.token is not None:
        yield _taken_back(recorder, flow, meant.token, clock)
    else:
        said, quirk = _explained(flow.provider, answer, known, pending=True)
        yield Finding(
            "early poll",
            "note",
            f"Neither pending nor slow_down, {after}: status {answer.status}, {said}",
            quirk and quirk.replace("authorization_pending", "slow_down"),
        )


def _taken_back(recorder: Recorder, flow: Flow, token: Token, clock: Clock) -> Finding:
    """Revoke a token that nobody wanted, and say what became of it."""
    secrets = {"refresh_token": token.refresh_token, "access_token": token.access_token}
    revoked = False
    for kind, secret in secrets.items():
        request = secret and flow.provider.revocation_request(secret, kind)
        if request:
            result = recorder.send(authenticated(request, clock.time()), _PATIENCE)
            revoked = isinstance(result, Response) and result.status == 200
    done = "it was revoked" if revoked else "it has to be revoked at the server, by hand"
    return Finding(
        "left behind",
        "note" if revoked else "bad",
        f"Somebody approved the code meanwhile. A token was issued that nobody needs: {done}.",
    )


# In words.

_ADVICE: Final = {
    "invalid_client": "the client id, its secret, or the way it is sent is wrong.",
    "invalid_grant": "the code is not known where it was issued: are both endpoints one server's?",
    "invalid_scope": "a scope is asked for that the client may not have.",
    "unauthorized_client": "switch the device grant on where the client is registered.",
    "unsupported_grant_type": "the server, or this endpoint, has no device grant.",
    "access_denied": "the server refuses it without asking anybody.",
    "expired_token": "the code is over already.",
}


def _explained(
    provider: Any, answer: Response, known: Known = NOTHING, *, pending: bool = False
) -> tuple[str, str | None]:
    """Say what an answer says that was not understood, or not welcome.

    Args:
        provider: Who answered.
        answer: The answer.
        known: The secrets that it may echo.
        pending: Whether it should have said that the approval is pending.

    Returns:
        Words, and the line of an entry by which it would be understood.
    """
    fields, quirks = answer.fields(), provider.quirks
    status = f'statuses = {{ "{answer.status}" = "authorization_pending" }}'
    if fields is None:
        if answer.status == 415:
            return "and a form is not what it takes.", 'request = "json"'
        quirk = status if pending and 400 <= answer.status < 500 else None
        return "and no JSON object: is it the endpoint, or a page?", quirk
    error = quirks.error(fields)
    if error is not None:
        said = CleanText(error, known, looks=True)
        quirk = None
        if error not in _ADVICE and pending:
            quirk = f'errors = {{ {_quoted(said)} = "authorization_pending" }}'
        return f"{said}: {_ADVICE.get(error, 'an error of its own.')}", quirk
    for name in _OTHER_ERROR_FIELDS:
        if answer.status >= 400 and (text := fields.text(name)):
            said = CleanText(text, known, looks=True)
            return f"{said!r} in the field {name}.", f"error_fields = [{_quoted(name)}]"
    if pending:
        return f"and no error in it, but {_names(fields, known)}.", status
    renamed = _renamed(fields)
    if renamed:
        pairs = ", ".join(f"{ours} = {_quoted(theirs)}" for ours, theirs in renamed.items())
        return f"with names of its own: {_names(fields, known)}.", f"answer_names = {{ {pairs} }}"
    return f"and a part of the code is missing: it has {_names(fields, known)}.", None


def _renamed(fields: Fields) -> dict[str, str]:
    """Return the names of RFC 8628 with what they are called here, as far as it is plain."""
    plain = {re.sub(r"[^a-z]", "", name.lower()).replace("url", "uri"): name for name in fields}
    found = {ours: plain.get(ours.replace("_", "")) for ours in _CODE_NAMES}
    return {ours: theirs for ours, theirs in found.items() if theirs and theirs != ours}


def _names(fields: Iterable[str], known: Known) -> str:
    return CleanText(", ".join(fields), known) or "nothing"


def _quoted(text: str) -> str:
    return json.dumps(CleanText(text, NOTHING), ensure_ascii=False)


def as_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON types."""
    return asdict(finding)
