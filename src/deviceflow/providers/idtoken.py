"""Read and validate id tokens (OpenID Connect Core section 3.1.3.7).

The signature is not checked: the token comes directly from the token endpoint over TLS, which that
section accepts instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from deviceflow.core.wire import read_jwt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.wire import Fields

LEEWAY: Final = 120.0
"""Seconds by which the server's clock may differ from this machine's."""


EXPIRED: Final = "the id token has expired"
"""What `problem_with` says of an id token that says everything else as it should."""


def claims_of(id_token: str) -> Fields | None:
    """Return the claims of an id token, or None if it is not a JSON Web Token."""
    return read_jwt(id_token)


def problem_with(claims: Fields, *, issuer: str | None, client_id: str, now: float) -> str | None:
    """Return a message about what is wrong with the claims, or None.

    Args:
        claims: The id token's claims.
        issuer: The expected issuer, if known; `{tenantid}` stands for the claim `tid`.
        client_id: The expected audience.
        now: The time, in seconds since 1970.
    """
    token_issuer, audience = claims.text("iss"), claims.get("aud")
    if token_issuer is None or (issuer is not None and not issued_by(issuer, claims)):
        return "the id token is from another issuer"
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        return "the id token is for another client"
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        return "the id token was issued to another client"
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return "the id token has no expiry time (exp)"
    # Written so that NaN fails, and integers too large for a float do not raise.
    return None if expires >= now - LEEWAY else EXPIRED


def issued_by(issuer: str, claims: Fields) -> bool:
    """Return whether the claims are from that issuer, which may be a template with `{tenantid}`."""
    found = claims.text("iss")
    if "{tenantid}" not in issuer:
        return found == issuer
    tenant = claims.text("tid") or ""
    # Only a plain name: a slash in the tenant could make another URL match.
    return bool(re.fullmatch(r"[\w.-]+", tenant)) and found == issuer.replace("{tenantid}", tenant)


def wrong_approver(
    required: Mapping[str, str], claims: Fields | None, *, pinned: bool
) -> str | None:
    """Return why the approver does not match the policy, or None.

    It fails closed: without an id token, nobody matches.

    Args:
        required: The required values of claims; `tenant` means `tid`.
        claims: The id token's validated claims.
        pinned: Whether the settings name the issuer. An email address from any issuer proves
            nothing.
    """
    if claims is None:
        return "the server sent no id token that says who approved"
    for name, wanted in required.items():
        claim = "tid" if name == "tenant" else name
        value = claims.get(claim)
        if not isinstance(value, str) or not _same(claim, value, wanted):
            return f"approved by another {name}"
        if claim == "email" and not (pinned and _verified(claims.get("email_verified"))):
            return "approved with an email that the issuer has not verified"
    return None


def _verified(claim: object) -> bool:
    return claim is True or claim == "true"


def _same(claim: str, value: str, wanted: str) -> bool:
    # Outside ASCII, different letters can become equal in lower case.
    if claim == "email" and value.isascii() and wanted.isascii():
        return value.lower() == wanted.lower()
    return value == wanted
