"""Revocation (RFC 7009), introspection (RFC 7662), and a resource to use a token at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authlib.integrations.flask_oauth2 import ResourceProtector
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.errors import InvalidRequestError
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from flask import abort, request

from deviceflow.server.oauth_server import AUTH_METHODS, KnownToken

if TYPE_CHECKING:
    from deviceflow.server.grants import Grants
    from deviceflow.server.oauth_server import Client
    from deviceflow.server.settings import Settings
    from deviceflow.server.tokens import TokenView


class _AnyHint:
    # Authlib refuses an unknown hint, which is to be ignored (RFC 7009 section 2.2).
    def check_params(self, request: Any, _client: object) -> None:
        if not request.form.get("token"):
            raise InvalidRequestError("Missing 'token' in payload")


class Revocation(_AnyHint, RevocationEndpoint):  # type: ignore[misc]  # Authlib is untyped
    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, _token_type_hint: str | None) -> KnownToken | None:
        return KnownToken.find(self.server.grants, token_string)

    def revoke_token(self, token: KnownToken, _request: object) -> None:
        self.server.grants.revoke(token.value)


class Introspection(_AnyHint, IntrospectionEndpoint):  # type: ignore[misc]  # Authlib is untyped
    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, _token_type_hint: str | None) -> KnownToken | None:
        return KnownToken.find(self.server.grants, token_string)

    def check_permission(self, token: KnownToken, client: Client, _request: object) -> bool:
        # RFC 7662 section 4: or anybody who finds a token could ask what it is good for.
        return client.is_confidential or token.check_client(client)

    def introspect_token(self, token: KnownToken) -> dict[str, Any]:
        return describe(token.view)


def describe(view: TokenView) -> dict[str, Any]:
    """Return what a resource server may know of a valid token (RFC 7662 section 2.2)."""
    described: dict[str, Any] = {
        "active": True,
        "client_id": view.client_id,
        "iat": int(view.issued_at),
        "iss": request.url_root.rstrip("/"),
        "scope": " ".join(view.scopes),
        "sub": "local",
    }
    if view.kind == "access_token":
        described |= {"token_type": "Bearer"}
    if view.expires_at is not None:
        described["exp"] = int(view.expires_at)
    if view.audience:
        described["aud"] = list(view.audience)
    return described


def protector(grants: Grants, settings: Settings) -> ResourceProtector:
    """Return what checks the access token of a request (RFC 6750)."""

    class Guard(ResourceProtector):  # type: ignore[misc]  # Authlib is untyped
        def acquire_token(self, *scopes: Any, **claims: Any) -> Any:
            try:
                return super().acquire_token(*scopes, **claims)
            except OAuth2Error as refusal:
                if refusal.status_code == settings.invalid_token_status:
                    raise
                abort(settings.invalid_token_status)  # without a challenge, as other servers do

    class Validator(BearerTokenValidator):  # type: ignore[misc]  # Authlib is untyped
        def authenticate_token(self, token_string: str) -> KnownToken | None:
            return KnownToken.find(grants, token_string, "access_token")

    guard = Guard()
    guard.register_token_validator(Validator())
    return guard
