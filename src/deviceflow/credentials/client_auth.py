"""How a client shows who it is: its secret or a signed assertion, added right before sending."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlencode

from deviceflow.core.secret import Secret
from deviceflow.core.wire import Request
from deviceflow.credentials.secret_refs import resolve
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.wire import ClientAuth

ASSERTION_LIFETIME: Final = 60
"""Seconds for which a signed assertion is good."""

_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def needs_secret(request: Request) -> bool:
    """Tell whether `authenticated` has to read a secret, from a file perhaps, or to sign."""
    return request.auth is not None and request.auth.reference is not None


def authenticated(request: Request, now: float) -> Request:
    """Return the request with the client's secret or assertion in it.

    Args:
        request: The request; how the client authenticates is its `auth`.
        now: The time, in seconds since 1970.

    Raises:
        UsageError: The secret or key is missing, or cannot be used.
        ImportError: `private_key_jwt` needs the extra `oauth`.
    """
    auth = request.auth
    if auth is None or auth.reference is None:
        return request
    kept_as: Literal["client_secret", "private_key"] = "client_secret"
    if auth.method == "private_key_jwt":
        kept_as = "private_key"
    secret = resolve(auth.reference, kept_as)
    match auth.method:
        case "client_secret_basic":
            # Each part is form-encoded first (RFC 6749 section 2.3.1); a space as %20, not +, which
            # some servers do not decode.
            pair = f"{quote(auth.client_id, safe='')}:{quote(secret.reveal(), safe='')}"
            basic = base64.b64encode(pair.encode()).decode()
            headers = {**request.headers, "Authorization": f"Basic {basic}"}
            return Request(request.purpose, request.url, headers, request.body, credential=secret)
        case "client_secret_post":
            return _with_fields(request, {"client_secret": secret.reveal()}, secret)
        case _:
            assertion = Secret(_assertion(auth, secret, now))
            fields = {"client_assertion_type": _BEARER, "client_assertion": assertion.reveal()}
            return _with_fields(request, fields, assertion)


def _with_fields(request: Request, fields: Mapping[str, str], credential: Secret) -> Request:
    if request.headers.get("Content-Type") == "application/json":
        body = json.dumps(json.loads(request.body) | dict(fields)).encode()
    else:
        body = request.body + b"&" + urlencode(fields).encode()
    return Request(request.purpose, request.url, request.headers, body, credential=credential)


def _assertion(auth: ClientAuth, key: Secret, now: float) -> str:
    """Return the client's assertion about itself (RFC 7523 section 3)."""
    try:
        from joserfc import jwk, jws, jwt  # noqa: PLC0415  # an extra
        from joserfc.errors import JoseError  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ImportError(
            "private_key_jwt needs joserfc: pip install 'deviceflow[oauth]'", name=missing.name
        ) from None

    class Quiet(jws.JWSRegistry):
        # Of EdDSA joserfc warns, since RFC 9864 has a new name for it; servers know the old one.
        def get_alg(self, name: str) -> Any:
            return self.algorithms[name]

    claims = {
        "iss": auth.client_id,
        "sub": auth.client_id,
        "aud": auth.audience,
        "jti": secrets.token_urlsafe(16),
        "iat": int(now),
        "exp": int(now) + ASSERTION_LIFETIME,
    }
    for kind, algorithm in _ALGORITHMS:
        try:
            signing = jwk.import_key(_readable(key), kind)
            header = {"alg": algorithm, **({"kid": signing.kid} if signing.kid else {})}
            return jwt.encode(header, claims, signing, registry=Quiet())
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    raise UsageError(
        f"The private key at {auth.reference} cannot be used to sign.",
        hint="It is a PEM text or a JSON Web Key: RSA, EC on P-256, P-384 or P-521, or Ed25519.",
    )


def _readable(key: Secret) -> Any:
    """Return a JSON Web Key as a dict, and a PEM text as it is."""
    text = key.reveal()
    return json.loads(text) if text.startswith("{") else text


_ALGORITHMS: Final[tuple[tuple[Literal["RSA", "EC", "OKP"], str], ...]] = (
    ("RSA", "RS256"),
    ("EC", "ES256"),
    ("EC", "ES384"),
    ("EC", "ES512"),
    ("OKP", "EdDSA"),
)
