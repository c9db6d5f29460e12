"""Refreshing (RFC 6749 section 6), built on Authlib's grant type."""

from __future__ import annotations

from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.errors import InvalidGrantError
from authlib.oauth2.rfc6749.grants import RefreshTokenGrant
from flask import g

from deviceflow.server.oauth_server import AUTH_METHODS, KnownToken, response, wanted


class RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]  # Authlib is untyped
    """The grant type `refresh_token`. Only the last step decides about the refresh token.

    A request that is refused before, because of its client, its scopes or its resource, neither
    uses up a refresh token nor counts as a reuse.
    """

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_refresh_token(self, refresh_token: str) -> KnownToken | None:
        return KnownToken.find(self.server.grants, refresh_token, "refresh_token")

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        # Authlib's own method writes the token to the debug log.
        token: KnownToken = self.request.refresh_token
        target = wanted(token.view.granted_resource)
        fault = self.server.faults.take(token.view.user_code)
        if fault and fault.status:
            raise _UnavailableError("A test asked for this answer", status_code=fault.status)
        issued = self.server.grants.refresh(token.value, target)
        g.fault = fault
        if issued is None:
            raise InvalidGrantError("The 'refresh_token' is not valid")
        return 200, response(issued), self.TOKEN_RESPONSE_HEADER


class _UnavailableError(OAuth2Error):  # type: ignore[misc]  # Authlib is untyped
    error = "temporarily_unavailable"
