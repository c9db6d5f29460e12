"""The authorization server as Authlib's classes have it: its clients, and its requests."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.integrations.flask_oauth2.requests import FlaskOAuth2Payload, FlaskOAuth2Request
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError
from flask import request

from deviceflow.core.sanitize import printable
from deviceflow.server.tokens import Wanted

if TYPE_CHECKING:
    from flask import Flask, Request

    from deviceflow.server.faults import Faults
    from deviceflow.server.grants import Grants
    from deviceflow.server.pending import PendingLogins
    from deviceflow.server.settings import Settings
    from deviceflow.server.tokens import Issued, Kind, TokenView

AUTH_METHODS: Final = ["none", "client_secret_basic", "client_secret_post"]
_SINGLE: Final = (
    "audience",
    "client_id",
    "client_secret",
    "device_code",
    "grant_type",
    "purpose",
    "refresh_token",
    "scope",
    "token",
    "token_type_hint",
)


class Client(ClientMixin):  # type: ignore[misc]  # Authlib is untyped
    def __init__(self, client_id: str, secret: str | None) -> None:
        self._client_id = client_id
        self._secret = secret

    @property
    def is_confidential(self) -> bool:
        return self._secret is not None

    def get_client_id(self) -> str:
        return self._client_id

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_client_secret(self, client_secret: str) -> bool:
        # Many clients send a secret to every server, also to one that knows of none.
        return self._secret is None or hmac.compare_digest(
            self._secret.encode(), client_secret.encode()
        )

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method != "none" or self._secret is None

    def check_grant_type(self, _grant_type: str) -> bool:
        return True  # of those that are registered


class _Form(FlaskOAuth2Payload):  # type: ignore[misc]  # Authlib is untyped
    @property
    def data(self) -> Any:
        # Authlib also reads the query, which must not carry codes (RFC 6749 section 3.2).
        return self._request.form


class _Request(FlaskOAuth2Request):  # type: ignore[misc]  # Authlib is untyped
    def __init__(self, request: Request) -> None:
        # Authlib accepts plain http for localhost, but older versions refuse 127.0.0.1. The real
        # host was checked before.
        OAuth2Request.__init__(
            self, request.method, f"http://localhost:0{request.path}", headers=request.headers
        )
        self._request = request
        self.payload = _Form(request)


class Server(AuthorizationServer):  # type: ignore[misc]  # Authlib is untyped
    def __init__(
        self,
        app: Flask,
        settings: Settings,
        logins: PendingLogins,
        grants: Grants,
        faults: Faults,
    ) -> None:
        super().__init__(app)
        self.settings = settings
        self.logins = logins
        self.grants = grants
        self.faults = faults

    def query_client(self, client_id: str) -> Client | None:
        secret = self.settings.client_secrets.get(client_id)
        known = secret is not None or self.settings.any_client
        return Client(client_id, secret) if known else None

    def create_oauth2_request(self, _: object) -> _Request:
        if repeated := [name for name in _SINGLE if len(request.form.getlist(name)) > 1]:
            raise InvalidRequestError(f"Multiple '{repeated[0]}' in request")
        return _Request(request)

    def authenticate_client(
        self, request: _Request, methods: list[str], endpoint: str = "token"
    ) -> Any:
        try:
            return super().authenticate_client(request, methods, endpoint)
        except UnicodeDecodeError:  # which Authlib does not catch for the Authorization header
            raise InvalidClientError(status_code=401) from None


class KnownToken(TokenMixin):  # type: ignore[misc]  # Authlib is untyped
    """A token that the server issued, valid or not, as Authlib asks about it."""

    def __init__(self, value: str, view: TokenView) -> None:
        self.value = value
        self.view = view

    @classmethod
    def find(cls, grants: Grants, value: str, kind: Kind | None = None) -> Self | None:
        view = grants.find(value)
        return None if view is None or kind not in (None, view.kind) else cls(value, view)

    def check_client(self, client: Client) -> bool:
        return bool(self.view.client_id == client.get_client_id())

    def get_scope(self) -> str:
        return " ".join(self.view.scopes)

    def is_expired(self) -> bool:
        return not self.view.active

    def is_revoked(self) -> bool:
        return not self.view.active


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]  # Authlib is untyped
    """The resource is not a URL, or was not granted (RFC 8707 section 2)."""

    error = "invalid_target"


def wanted(granted: tuple[str, ...] = ()) -> Wanted:
    """Return what the request asks for.

    Args:
        granted: The resources that the person approved; empty if the login named none.

    Raises:
        InvalidTargetError: A resource is not an absolute URL, has a fragment, or was not granted.
    """
    form = request.form
    # RFC 6749 section 3.1: a parameter without a value is as if it were omitted.
    resource = tuple(dict.fromkeys(filter(None, form.getlist("resource"))))
    for one in resource:
        if printable(one, 2000) != one or not _is_target(one):
            raise InvalidTargetError("A 'resource' must be an absolute URI without a fragment")
        if granted and one not in granted:
            raise InvalidTargetError("This 'resource' was not granted")
    scope = printable(form.get("scope", ""))
    return Wanted(
        scopes=tuple(scope.split()) or None,
        resource=resource,
        audience=printable(form.get("audience", ""), 2000) or None,
    )


def response(issued: Issued) -> dict[str, Any]:
    """Return the body of a token response (RFC 6749 section 5.1)."""
    body: dict[str, Any] = {"access_token": issued.access_token, "token_type": "Bearer"}
    if issued.expires_in is not None:
        body["expires_in"] = issued.expires_in
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    if issued.scopes:
        body["scope"] = " ".join(issued.scopes)
    return body


def _is_target(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return bool(parts.scheme) and "#" not in uri
