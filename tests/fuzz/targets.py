"""The targets. Each takes any bytes, and raises `AssertionError` if what has to hold does not.

An answer is written as in HTTP/1: the status, the headers, an empty line, the body.
"""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, get_args

from deviceflow import errors, export
from deviceflow.audit.events import render
from deviceflow.core.encryption import Plain, Sealer
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant
from deviceflow.core.provider import Outcome
from deviceflow.core.secret import Secret
from deviceflow.core.wire import Response, is_token_refused
from deviceflow.providers import idtoken
from deviceflow.providers.known import known
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.stores.sql.rows import DAMAGED, GRANTS, LOGINS, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.provider import Provider
    from deviceflow.stores.sql.rows import Table

NOW: Final = 1_800_000_000.0
DEVICE: Final = "Dv1ce-0123456789-SECRET"
USER: Final = "WDJB-MJHT"
TOKENS: Final = ("T0ken-0123456789-FIRST", "R3fresh-0123456789-NEXT")
KEY: Final = base64.urlsafe_b64encode(bytes(range(32))).decode()
ISSUER: Final = "https://as.example.com"


def _oauth(**more: Any) -> OAuth:
    ours: dict[str, Any] = {
        "client_id": "robot",
        "issuer": ISSUER,
        "device_authorization_endpoint": f"{ISSUER}/code",
        "token_endpoint": f"{ISSUER}/token",
    }
    return OAuth(**(ours | more))


PROVIDERS: Final[tuple[Provider, ...]] = (
    Studio("https://studio.example.com"),
    _oauth(pkce="on"),
    _oauth(require={"email": "alice@example.com"}),
    *(
        _oauth(name=name, quirks=known()[name], client_secret="env:NOWHERE")
        for name in ("github", "google", "trakt", "twitch")
    ),
)
"""One of each way to read an answer: other names of fields and errors, or statuses that decide."""

CODE: Final = Response(
    200,
    {},
    json.dumps(
        {
            "device_code": DEVICE,
            "user_code": USER,
            "verification_uri": "https://example.com/device",
            "verification_url": "https://example.com/device",
            "token_uri": "https://studio.example.com/token",
            "expires_in": 900,
            "interval": 5,
        }
    ).encode(),
)


def _answer(data: bytes) -> Response:
    head, _, body = data.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    fields = (line.partition(":") for line in lines)
    number = int(status) if status.isascii() and status.isdigit() and len(status) == 3 else 200
    return Response(number, {name: value.strip() for name, _, value in fields}, body)


def _received(flow: Flow, answer: Response) -> None:
    """Give a login an answer, and see what is on record then."""
    transition = flow.receive(answer, NOW + 10)
    event = json.dumps(render(flow, transition))
    assert transition.wait is None or 0 <= transition.wait < math.inf
    assert transition.detail is None or len(transition.detail) <= 200
    assert transition.detail is None or transition.detail.isprintable()
    # A word of the server's is a user code only once it was issued as one.
    codes = (USER,) if flow.user_code == USER else ()
    for secret in (DEVICE, *TOKENS, *codes):
        assert secret not in event
        assert secret not in f"{flow!r} {answer!r} {flow.token!r}"
    kept = export.to_dict(flow, secrets=True)
    again = export.from_dict(json.loads(json.dumps(kept)))
    assert json.dumps(export.to_dict(again, secrets=True)) == json.dumps(kept)


def device_answer(data: bytes) -> None:
    """The answer to a request for a code (RFC 8628 section 3.2)."""
    answer = _answer(data)
    for provider in PROVIDERS:
        read = provider.read_code(answer)
        assert read.outcome in get_args(Outcome)
        assert (read.code is not None) == (read.outcome == "issued")
        if read.code is not None:
            assert 1 <= read.code.interval <= 3600
            assert read.code.expires_in is not None
            assert 1 <= read.code.expires_in <= 30 * 86400
        _received(Flow("f1", provider, NOW, verifier=Secret("v" * 43)), answer)


def token_answer(data: bytes) -> None:
    """The answer to a poll (RFC 8628 section 3.5, RFC 6749 section 5)."""
    answer = _answer(data)
    for provider in PROVIDERS:
        read = provider.read_token(answer, NOW)
        assert read.outcome in get_args(Outcome)
        assert (read.token is not None) == (read.outcome == "issued")
        assert 0 <= read.interval <= 3600
        if read.token is not None:
            assert answer.status < 300
        flow = Flow("f1", provider, NOW, verifier=Secret("v" * 43))
        flow.receive(CODE, NOW)
        flow.poll(NOW + 5, 10.0)
        _received(flow, answer)
        assert (flow.token is not None) == flow.handover.token_kept


def retry_after(data: bytes) -> None:
    """`Retry-After`, and `Date` in a second line (RFC 9110 sections 10.2.3 and 6.6.1)."""
    value, _, date = data.decode("latin-1").partition("\n")
    answer = Response(503, {"Retry-After": value} | ({"Date": date} if date else {}), b"")

    assert 0 <= answer.retry_after(NOW) <= 3600
    sent = answer.date()
    assert sent is None or math.isfinite(sent)


def www_authenticate(data: bytes) -> None:
    """The status, and `WWW-Authenticate` in a second line (RFC 6750 section 3)."""
    head, _, challenge = data.decode("latin-1").partition("\n")
    status = int(head) if head.isascii() and head.isdigit() and len(head) == 3 else 401
    refused = is_token_refused(status, challenge, (401,))

    if status < 400:
        assert not refused
    elif status != 401:
        assert not refused or "invalid_token" in challenge.lower()
    else:
        assert refused or "insufficient_scope" in challenge.lower()


def id_token(data: bytes) -> None:
    """An id token, or the claims of one (OpenID Connect Core section 2)."""
    text = data.decode(errors="replace")
    inner = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for sent in (text, f"e30.{inner}.c2ln"):
        claims = idtoken.claims_of(sent)
        if claims is None:
            continue
        for issuer in (ISSUER, f"{ISSUER}/{{tenantid}}", None):
            problem = idtoken.problem_with(claims, issuer=issuer, client_id="robot", now=NOW)
            if problem is None:
                audience = claims.get("aud")
                assert "robot" in (audience if isinstance(audience, list) else [audience])
                assert claims.get("exp") >= NOW - idtoken.LEEWAY
                assert issuer != ISSUER or claims.get("iss") == ISSUER
            else:
                assert len(problem) < 100
        required = {"email": "alice@example.com"}
        wrong = idtoken.wrong_approver(required, claims, pinned=True)
        if wrong is None:
            assert claims.get("email").lower() == required["email"]
            assert claims.get("email_verified") in (True, "true")
        assert idtoken.wrong_approver(required, claims, pinned=False) is not None


def store_row(data: bytes) -> None:
    """Columns of a row, as a JSON object: changed by nobody with a key, then by one who has it."""
    try:
        changed = json.loads(data)
    except (ValueError, RecursionError):
        changed = {"record": data.decode("latin-1"), "progress": data.decode("latin-1")}
    if isinstance(changed, dict):
        for sealer in (Plain(), Sealer([KEY])):
            _row(sealer, LOGINS, _login(), changed)
            _row(sealer, GRANTS, Grant("g1", "nightly", PROVIDERS[1], NOW), changed)


def _login() -> Flow:
    flow = Flow("f1", PROVIDERS[1], NOW, verifier=Secret("v" * 43))
    flow.receive(CODE, NOW)
    return flow


def _row(sealer: Plain | Sealer, table: Table[Any], record: Any, changed: dict[str, Any]) -> None:
    rows = Rows("store", lambda: sealer)
    digest, columns = rows.columns(record, seal=True)
    rows.sign(columns, digest, "head")
    values = columns.reveal()
    row = [changed.get(name, values[name]) for name in table.columns]
    read = _read(rows, table, row)
    assert read is None or (rows.digest(table, row), row[-2]) == (digest, "head")
    with suppress(*DAMAGED):
        signed = sealer.mac(f"{rows.digest(table, row)} {row[-2]}")
        _read(rows, table, [*row[:-1], signed])


def _read(rows: Rows, table: Table[Any], row: list[Any]) -> Any:
    try:
        read = rows.record(table, row)
    except errors.DeviceFlowError as problem:
        shown = f"{problem} {problem!r} {problem.hint}"
        assert all(secret not in shown for secret in (DEVICE, *TOKENS, KEY))
        return None
    assert DEVICE not in repr(read)
    if isinstance(read, Flow):
        assert read.wait_seconds(NOW) >= 0
        json.dumps(export.to_dict(read, secrets=True))
    return read


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: one
    for one in (device_answer, token_answer, retry_after, www_authenticate, id_token, store_row)
}
"""The targets by their names, which are those of the folders of their seeds."""
