"""What an id token says, and whether it may be believed (OpenID Connect Core 3.1.3.7).

The token came straight from the token endpoint over TLS, which that section accepts in place of a
check of its signature.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

from deviceflow.core.wire import Fields, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

LEEWAY: Final = 120.0
"""Seconds by which the server's clock and ours may differ."""


def claims_of(id_token: str) -> Fields | None:
    """Return the claims in an id token, or None where it is no JSON Web Token."""
    parts = id_token.split(".")
    if len(parts) != 3:
        return None
    payload = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        read = read_json(base64.b64decode(payload, altchars=b"-_", validate=True))
    except ValueError:
        return None
    return Fields(read) if isinstance(read, dict) else None


def problem_with(claims: Fields, *, issuer: str | None, client_id: str, now: float) -> str | None:
    """Return what is wrong with the claims, in words, or None.

    Args:
        claims: The id token's claims.
        issuer: Who must have issued it, where that is known; `{tenantid}` stands for its `tid`.
        client_id: Who it must be for.
        now: The time, in seconds since 1970.
    """
    said, audience = claims.text("iss"), claims.get("aud")
    if said is None or (issuer is not None and not issued_by(issuer, claims)):
        return "the id token is from another issuer"
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        return "the id token is for another client"
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        return "the id token was given to another client"
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return "the id token does not say when it expires"
    # Compared so that it holds for whatever JSON can spell: NaN, and numbers beyond any float.
    return None if expires >= now - LEEWAY else "the id token has expired"


def issued_by(issuer: str, claims: Fields) -> bool:
    """Tell whether the claims are from that issuer, which may be a template with `{tenantid}`."""
    said = claims.text("iss")
    if "{tenantid}" not in issuer:
        return said == issuer
    tenant = claims.text("tid") or ""
    # A tenant is a name, not a way to another address.
    return bool(re.fullmatch(r"[\w.-]+", tenant)) and said == issuer.replace("{tenantid}", tenant)


def wrong_approver(
    required: Mapping[str, str], claims: Fields | None, *, pinned: bool
) -> str | None:
    """Return why whoever approved is not whom the policy wants, or None.

    It fails closed: no id token, no proof.

    Args:
        required: What claims must be; `tenant` means `tid`.
        claims: The id token's claims, checked.
        pinned: Whether the issuer is known beforehand. An email is worth what its issuer is.
    """
    if claims is None:
        return "the server sent no id token that says who approved"
    for name, wanted in required.items():
        claim = "tid" if name == "tenant" else name
        said = claims.get(claim)
        if not isinstance(said, str) or not _same(claim, said, wanted):
            return f"approved by another {name}"
        if claim == "email" and not (pinned and _verified(claims.get("email_verified"))):
            return "approved with an email that the issuer has not verified"
    return None


def _verified(said: object) -> bool:
    return said is True or said == "true"


def _same(claim: str, said: str, wanted: str) -> bool:
    # Beyond ASCII, letters that differ become the same without their case.
    if claim == "email" and said.isascii() and wanted.isascii():
        return said.lower() == wanted.lower()
    return said == wanted
