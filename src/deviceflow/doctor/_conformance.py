"""Whether a server follows RFC 8628, RFC 8414, RFC 6749 and RFC 7009, as far as a client can see.

Nobody approves anything, unless the caller passes a person. A few codes are asked for, and left to
expire.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deviceflow.client.clock import default_clock
from deviceflow.core.provider import LONGEST_USER_CODE
from deviceflow.core.sanitize import is_loopback
from deviceflow.core.text import NOTHING, CleanText, PersonText, link
from deviceflow.core.wire import Failure, Response
from deviceflow.doctor._check import Check
from deviceflow.doctor._probe import Probe, error_of, media_type
from deviceflow.errors import ProtocolError, UsageError
from deviceflow.providers.oauth import GRANT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from deviceflow.core.ports import Clock
    from deviceflow.core.wire import Fields
    from deviceflow.doctor._recorder import Recorder
    from deviceflow.providers.oauth import OAuth

    Approve = Callable[[str, str], object]
    Found = Generator[Check, None, Fields | None]

EXPIRY_WAIT: Final = 60.0
"""Seconds of a code's lifetime up to which the check waits for its end."""

_INTERVAL: Final = 5.0
_LEAST_USER_CODE: Final = 8
_LEAST_DEVICE_CODE: Final = 22  # 128 bits, in base64
_NOBODY: Final = "deviceflow-conformance-nobody"
_UNKNOWN: Final = "deviceflow-conformance-unknown"


def conformance(
    recorder: Recorder,
    provider: OAuth,
    *,
    approve: Approve | None = None,
    clock: Clock | None = None,
) -> Iterator[Check]:
    """Check a server, and yield what was found: `bad` is against a standard, `note` is unusual.

    Args:
        recorder: What the requests are sent by.
        provider: The server, and a client that it knows.
        approve: Has a person approve a login: called with its user code and the page's URL, and
            expected to return when that is done. By default nobody approves.
        clock: The clock.

    Raises:
        UsageError: The provider does not speak RFC 8628's form-encoded requests.
    """
    clock = clock or default_clock()
    if provider.quirks.request != "form" or not provider.quirks.sends_grant_type:
        raise UsageError(
            f"{provider.quirks.title} has requests of its own, which no standard describes.",
            hint="Use the doctor without --conformance.",
        )
    probe = Probe(recorder, provider, clock)
    if provider.metadata_urls():
        metadata = yield from _metadata(probe)
        try:
            found = None if metadata is None else provider.with_metadata(metadata)
        except ProtocolError:
            found = None
        if found is None:
            yield Check(
                "metadata",
                "bad",
                "Without metadata of this issuer with the device grant, no endpoint is known.",
            )
            return
        probe = Probe(recorder, found, clock)
    code = yield from _codes(probe)
    if code is None:
        return
    yield from _code_errors(probe)
    yield from _polls(probe, code)
    yield from _token_errors(probe)
    if approve:
        yield from _approval(probe, approve)
    yield from _revocation(probe)
    yield from _expiry(probe, code)


# Metadata.


def _metadata(probe: Probe) -> Found:
    issuer = probe.provider.issuer or ""
    found: Fields | None = None
    missing: list[Check] = []
    for url in probe.provider.metadata_urls():
        result = probe.get(url)
        fields = result.fields() if isinstance(result, Response) else None
        if fields is None or not isinstance(result, Response) or result.status != 200:
            missing.append(Check("metadata", "bad", f"No metadata at {url}: {error_of(result)}."))
            continue
        found = found or fields
        what = f"The metadata at {url}"
        yield _rule(
            "metadata",
            "RFC 8414 3.2",
            f"{what} is JSON",
            _not(media_type(result), "application/json"),
        )
        yield _rule(
            "metadata",
            "RFC 8414 3.3",
            f"{what} names the issuer",
            _not(fields.text("issuer"), issuer),
        )
    # One of the two places is enough.
    yield from missing if found is None else _members(found)
    return found


def _members(metadata: Fields) -> Iterator[Check]:
    for name, source in (
        ("device_authorization_endpoint", "RFC 8628 4"),
        ("token_endpoint", "RFC 8414 2"),
    ):
        url = metadata.text(name)
        wrong = None if url and _is_safe(url) else f"{CleanText(str(url), NOTHING)}"
        yield _rule("metadata", source, f"{name} is an https URL, or on this machine", wrong)
    grants = metadata.get("grant_types_supported")
    listed = isinstance(grants, list) and GRANT_TYPE in grants
    yield _rule(
        "metadata",
        "RFC 8414 2",
        "grant_types_supported lists the device grant",
        None if listed else "another list" if grants else "none",
    )
    has = isinstance(metadata.get("response_types_supported"), list)
    yield _rule(
        "metadata", "RFC 8414 2", "response_types_supported is a list", None if has else "none"
    )


# The device authorization endpoint.


def _codes(probe: Probe) -> Found:
    result = probe.code()
    fields = result.fields() if isinstance(result, Response) else None
    if not isinstance(result, Response) or result.status != 200 or fields is None:
        came = error_of(result)
        yield _rule("code", "RFC 8628 3.2", "A request gets a code, with status 200", came)
        return None
    yield Check("code", "good", "A request gets a code, with status 200 (RFC 8628 3.2).")
    yield from _headers("code", "RFC 8628 3.2", "The code's answer", result, store="note")
    code = yield from _code_members(fields)
    second = _issued(probe.code())
    if second is not None and code is not None:
        same = second.text("device_code") == code or second.text("user_code") == fields.text(
            "user_code"
        )
        yield _rule("code", "RFC 8628 3.2", "Each login has codes of its own", same and "the same")
    for what, more in (
        ("unknown parameters are ignored", [("deviceflow_unknown", "1")]),
        ("parameters without a value are ignored", [("deviceflow_empty", ""), ("resource", "")]),
    ):
        result = probe.code(more=more)
        wrong = None if _issued(result) is not None else error_of(result)
        yield _rule("code", "RFC 8628 3.1", f"In a request, {what}", wrong)
    return fields if code is not None else None


def _code_members(fields: Fields) -> Generator[Check, None, str | None]:
    for name in ("device_code", "user_code", "verification_uri"):
        wrong = None if fields.text(name) else "none"
        yield _rule("code", "RFC 8628 3.2", f"{name} is a string", wrong)
    life, interval = fields.get("expires_in"), fields.get("interval")
    yield _rule("code", "RFC 8628 3.2", "expires_in is a number of seconds", _not_seconds(life))
    if interval is not None:
        yield _rule(
            "code", "RFC 8628 3.2", "interval is a number of seconds", _not_seconds(interval, 0.0)
        )
    page = fields.text("verification_uri") or ""
    yield _rule(
        "code",
        "RFC 8628 5.4",
        "verification_uri is an https URL, or on this machine",
        None if _is_safe(page) else "another",
    )
    complete = fields.text("verification_uri_complete")
    if complete is not None:
        user_code = fields.text("user_code") or ""
        plain = "".join(filter(str.isalnum, user_code))
        has = plain in "".join(filter(str.isalnum, complete))
        yield _rule(
            "code",
            "RFC 8628 3.3.1",
            "verification_uri_complete has the user code in it",
            None if has else "another URL",
            otherwise="note",
        )
    user_code, device_code = fields.text("user_code") or "", fields.text("device_code") or ""
    short = sum(map(str.isalnum, user_code)) < _LEAST_USER_CODE
    yield _rule(
        "code",
        "RFC 8628 5.1, 6.1",
        f"The user code has {_LEAST_USER_CODE} characters or more",
        f"{len(user_code)}" if short else None,
        otherwise="note",
    )
    yield _rule(
        "code",
        "RFC 8628 5.2",
        "The device code is too long to guess",
        f"{len(device_code)} characters" if len(device_code) < _LEAST_DEVICE_CODE else None,
    )
    return device_code or None


def _code_errors(probe: Probe) -> Iterator[Check]:
    again = [("client_id", probe.provider.client_id)]
    cases: tuple[tuple[str, Response | Failure, tuple[str, ...], str], ...] = (
        (
            "A request with client_id twice",
            probe.code(more=again),
            ("invalid_request",),
            "RFC 8628 3.1",
        ),
        (
            "A request without client_id",
            probe.code(without=("client_id",)),
            ("invalid_request", "invalid_client"),
            "RFC 8628 3.1",
        ),
    )
    for what, result, wanted, source in cases:
        yield _refused("code", source, what, result, wanted)
    if probe.provider.authentication.method == "none":
        result = probe.code(client_id=_NOBODY)
        wanted = ("invalid_client", "unauthorized_client")
        if _issued(result) is not None:
            yield Check("code", "note", "The server takes any client id.")
        else:
            yield _refused("code", "RFC 8628 3.2", "An unknown client", result, wanted)
    asked = {"client_id": probe.provider.client_id}
    result = probe.get(probe.provider.device_authorization_endpoint or "", **asked)
    got = "a code" if _issued(result) is not None else None
    yield _rule("code", "RFC 8628 3.1", "A GET gets no code", got)


# The token endpoint.


def _polls(probe: Probe, code: Fields) -> Iterator[Check]:
    device_code, interval = code.text("device_code") or "", _interval(code)
    probe.clock.sleep(interval + 0.1)
    result = probe.token(device_code)
    wanted = ("authorization_pending",)
    yield _refused("poll", "RFC 8628 3.5", "A poll before the approval", result, wanted)
    if isinstance(result, Response):
        yield from _headers("poll", "RFC 6749 5.2", "The answer to a poll", result, store="note")
    early = probe.token(device_code)
    error = _error(early)
    if error == "slow_down":
        yield _refused("poll", "RFC 8628 3.5", "An early poll", early, ("slow_down",))
        probe.clock.sleep(interval + 0.1)
        again = _error(probe.token(device_code))
        kept = "the interval as before" if again == "authorization_pending" else None
        what = "After slow_down, the interval is 5 seconds longer"
        yield _rule("poll", "RFC 8628 3.5", what, kept, otherwise="note")
    elif error == "authorization_pending":
        yield Check(
            "poll", "note", "An early poll gets authorization_pending: the server counts no time."
        )
    else:
        yield _refused("poll", "RFC 8628 3.5", "An early poll", early, ("slow_down",))


def _token_errors(probe: Probe) -> Iterator[Check]:
    fields = _issued(probe.code())
    device_code = (fields and fields.text("device_code")) or _UNKNOWN
    cases: list[tuple[str, Response | Failure, tuple[str, ...], str]] = [
        (
            "A request without grant_type",
            probe.token(device_code, without=("grant_type",)),
            ("invalid_request",),
            "RFC 6749 5.2",
        ),
        (
            "An unknown grant_type",
            probe.token(device_code, grant_type=_UNKNOWN),
            ("unsupported_grant_type",),
            "RFC 6749 5.2",
        ),
        (
            "A poll without device_code",
            probe.token(device_code, without=("device_code",)),
            ("invalid_request",),
            "RFC 6749 5.2",
        ),
        (
            "A poll with device_code twice",
            probe.token(device_code, more=[("device_code", device_code)]),
            ("invalid_request",),
            "RFC 6749 3.2",
        ),
        (
            "A poll with an unknown device_code",
            probe.token(_UNKNOWN),
            ("invalid_grant",),
            "RFC 6749 5.2",
        ),
    ]
    if probe.provider.authentication.method == "none":
        other = probe.token(device_code, client_id=_NOBODY)
        refusals = ("invalid_grant", "invalid_client", "unauthorized_client")
        cases.append(("Another client's device_code", other, refusals, "RFC 8628 3.4"))
    for what, result, wanted, source in cases:
        yield _refused("token", source, what, result, wanted)
    result = probe.poll_by_get(device_code)
    got = _error(result) in ("authorization_pending", "slow_down")
    yield _rule("token", "RFC 6749 3.2", "A GET is not a poll", error_of(result) if got else None)


def _approval(probe: Probe, approve: Approve) -> Iterator[Check]:
    fields = _issued(probe.code())
    if fields is None:
        return
    device_code, interval = fields.text("device_code") or "", _interval(fields)
    page = link(
        fields.text("verification_uri_complete") or fields.text("verification_uri"), NOTHING
    )
    approve(PersonText(fields.text("user_code") or "", LONGEST_USER_CODE), page or "")
    result = probe.token(device_code)
    while _error(result) in ("authorization_pending", "slow_down"):
        interval += 5.0 if _error(result) == "slow_down" else 0.0
        probe.clock.sleep(interval + 0.1)
        result = probe.token(device_code)
    token = _token(result)
    if token is None:
        yield _rule("token", "RFC 6749 5.1", "An approval gets a token", error_of(result))
        return
    yield Check("token", "good", "An approval gets a token, with status 200 (RFC 6749 5.1).")
    assert isinstance(result, Response)  # noqa: S101  # it has a token
    yield from _headers("token", "RFC 6749 5.1", "The answer with the token", result, store="bad")
    for name in ("access_token", "token_type"):
        has = token.text(name)
        yield _rule("token", "RFC 6749 5.1", f"{name} is a string", None if has else "none")
    again = probe.token(device_code)
    yield _refused("token", "RFC 6749 5.2", "A used device_code", again, ("invalid_grant",))
    for name in ("refresh_token", "access_token"):
        value = token.text(name)
        if value and (revoked := probe.revoke(value, token_type_hint=name)) is not None:
            wrong = None if _is_ok(revoked) else error_of(revoked)
            what = f"To revoke the {name} gets status 200"
            yield _rule("revocation", "RFC 7009 2.2", what, wrong)


def _expiry(probe: Probe, code: Fields) -> Iterator[Check]:
    life = code.get("expires_in")
    if _not_seconds(life) or life > EXPIRY_WAIT:
        yield Check(
            "expiry",
            "note",
            f"Not checked: the code lives for more than {EXPIRY_WAIT:g} seconds.",
        )
        return
    probe.clock.sleep(life + 1.0)
    result = probe.token(code.text("device_code") or "")
    if _error(result) == "invalid_grant":
        yield Check(
            "expiry",
            "note",
            "After its lifetime the code is unknown (invalid_grant), not expired (expired_token,"
            " RFC 8628 3.5).",
        )
        return
    wanted = ("expired_token",)
    yield _refused("expiry", "RFC 8628 3.5", "A poll after the code's lifetime", result, wanted)


# The revocation endpoint.


def _revocation(probe: Probe) -> Iterator[Check]:
    result = probe.revoke(_UNKNOWN)
    if result is None:
        yield Check("revocation", "note", "The server has no revocation_endpoint (RFC 7009).")
        return
    for what, answered in (
        ("An unknown token gets status 200", result),
        ("An unknown token_type_hint is ignored", probe.revoke(_UNKNOWN, token_type_hint=_UNKNOWN)),
    ):
        if answered is not None:
            wrong = None if _is_ok(answered) else error_of(answered)
            yield _rule("revocation", "RFC 7009 2.2", what, wrong)
    missing = probe.revoke(_UNKNOWN, without=("token",))
    if missing is not None:
        wanted = ("invalid_request",)
        yield _refused("revocation", "RFC 7009 2.1", "A request without token", missing, wanted)
    sent = {"token": _UNKNOWN, "client_id": probe.provider.client_id}
    got = probe.get(probe.provider.revocation_endpoint or "", **sent)
    yield _rule(
        "revocation", "RFC 7009 2.1", "A GET revokes nothing", "200" if _is_ok(got) else None
    )


# What all of them share.


def _rule(part: str, source: str, expected: str, came: object, *, otherwise: Any = "bad") -> Check:
    """Return the check of one rule: it holds if nothing else came."""
    if not came:
        return Check(part, "good", f"{expected} ({source}).")
    return Check(part, otherwise, f"Expected: {expected} ({source}). Came: {came}.")


def _refused(
    part: str, source: str, what: str, result: Response | Failure, wanted: tuple[str, ...]
) -> Check:
    fits = isinstance(result, Response) and result.status in (400, 401) and _error(result) in wanted
    expected = f"{what} gets {' or '.join(wanted)}"
    return _rule(part, source, expected, None if fits else error_of(result))


def _headers(part: str, source: str, what: str, result: Response, *, store: Any) -> Iterator[Check]:
    wrong = _not(media_type(result), "application/json")
    yield _rule(part, source, f"{what} is application/json", wrong)
    kept = "no-store" in (result.header("Cache-Control") or "").lower()
    asked = f"{what} has Cache-Control: no-store"
    yield _rule(part, "RFC 6749 5.1", asked, None if kept else "none", otherwise=store)


def _issued(result: Response | Failure) -> Fields | None:
    fields = result.fields() if isinstance(result, Response) and result.status == 200 else None
    return fields if fields is not None and fields.text("device_code") else None


def _token(result: Response | Failure) -> Fields | None:
    fields = result.fields() if isinstance(result, Response) and result.status == 200 else None
    return fields if fields is not None and fields.text("access_token") else None


def _error(result: Response | Failure) -> str | None:
    fields = result.fields() if isinstance(result, Response) else None
    return fields.text("error") if fields else None


def _is_ok(result: Response | Failure) -> bool:
    return isinstance(result, Response) and result.status == 200


def _interval(code: Fields) -> float:
    interval = code.get("interval")
    return _INTERVAL if _not_seconds(interval, 0.0) else float(interval)


def _not(came: str | None, wanted: str) -> str | None:
    return None if came == wanted else CleanText(came or "none", NOTHING)


def _not_seconds(value: Any, least: float = 1.0) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return type(value).__name__
    return None if math.isfinite(value) and value >= least else f"{value}"


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
