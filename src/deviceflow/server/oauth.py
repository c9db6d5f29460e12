"""The RFC 8628 dialect, built on Authlib's device grant."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.integrations.flask_oauth2.requests import FlaskOAuth2Payload, FlaskOAuth2Request
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
)
from authlib.oauth2.rfc8628 import (
    DEVICE_CODE_GRANT_TYPE,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    DeviceCredentialMixin,
    SlowDownError,
)
from flask import Blueprint, Response, g, request, url_for

from deviceflow.core.sanitize import printable
from deviceflow.server.pending import Asked, Status

if TYPE_CHECKING:
    from flask import Flask, Request
    from flask.typing import ResponseReturnValue

    from deviceflow.server.pending import PendingLogins, Poll
    from deviceflow.server.settings import Settings

_AUTH_METHODS: Final = ["none", "client_secret_basic", "client_secret_post"]
_SINGLE: Final = ("grant_type", "client_id", "client_secret", "device_code", "scope", "purpose")


def create_oauth(app: Flask, settings: Settings, logins: PendingLogins) -> Blueprint:
    """Return the endpoints of RFC 8628, and the metadata that names them (RFC 8414)."""
    oauth = Blueprint("oauth", __name__)
    server = _Server(app, settings, logins)
    oauth.register_error_handler(
        OAuth2Error, lambda error: server.handle_error_response(request, error)
    )

    @oauth.post("/oauth/device_authorization")
    def device_authorization() -> ResponseReturnValue:
        answer: Response = server.create_endpoint_response(_Endpoint.ENDPOINT_NAME)
        return answer

    @oauth.post("/oauth/token")
    def token() -> ResponseReturnValue:
        # Authlib reports a missing grant type as unsupported_grant_type, which is wrong (RFC 6749
        # section 5.2).
        if not request.form.get("grant_type"):
            raise InvalidRequestError("Missing 'grant_type' in payload")
        answer: Response = server.create_token_response()
        poll: Poll | None = g.get("poll")
        if poll:
            poll.record.answer = answer.get_json().get("error", "issued")
        return answer

    @oauth.get("/.well-known/oauth-authorization-server")
    def metadata() -> ResponseReturnValue:
        return {
            "issuer": request.url_root.rstrip("/"),
            "device_authorization_endpoint": url_for(".device_authorization", _external=True),
            "token_endpoint": url_for(".token", _external=True),
            "grant_types_supported": [DEVICE_CODE_GRANT_TYPE],
            # Required by RFC 8414 section 2, and this grant has none.
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": _AUTH_METHODS,
            # Of our own: a device authorization request may say why (`purpose`).
            "deviceflow_purpose_supported": True,
        }

    return oauth


class _Client(ClientMixin):  # type: ignore[misc]  # Authlib is untyped
    def __init__(self, client_id: str, secret: str | None) -> None:
        self._client_id = client_id
        self._secret = secret

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

    def check_grant_type(self, grant_type: str) -> bool:
        return bool(grant_type == DEVICE_CODE_GRANT_TYPE)


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


class _Server(AuthorizationServer):  # type: ignore[misc]  # Authlib is untyped
    def __init__(self, app: Flask, settings: Settings, logins: PendingLogins) -> None:
        super().__init__(app)
        self.settings = settings
        self.logins = logins
        self.register_endpoint(_Endpoint)
        self.register_grant(_Grant)

    def query_client(self, client_id: str) -> _Client | None:
        secret = self.settings.client_secrets.get(client_id)
        known = secret is not None or self.settings.any_client
        return _Client(client_id, secret) if known else None

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


class _Endpoint(DeviceAuthorizationEndpoint):  # type: ignore[misc]  # Authlib is untyped
    @property
    def EXPIRES_IN(self) -> int:  # noqa: N802  # Authlib's name
        expires_in: int = self.server.settings.expires_in
        return expires_in

    @property
    def INTERVAL(self) -> float:  # noqa: N802  # Authlib's name
        interval: float = self.server.settings.interval
        # Some clients cannot parse 5.0.
        return int(interval) if interval == int(interval) else interval

    def authenticate_client(self, request: _Request) -> Any:
        g.client = super().authenticate_client(request)
        return g.client

    def generate_user_code(self) -> str:
        user_code: str = self.server.logins.new_user_code()
        return user_code

    def get_verification_uri(self) -> str:
        return url_for("pages.enter", _external=True)

    def save_device_credential(
        self, client_id: str, scope: str | None, data: dict[str, Any]
    ) -> None:
        # Some versions of Authlib pass no client id here if the client used HTTP Basic.
        client_id = g.client.get_client_id()
        asked = Asked(
            dialect="rfc8628",
            client=printable(client_id, 200),
            client_id=client_id,
            scopes=tuple(printable(scope or "").split()),
            purpose=printable(request.form.get("purpose", ""), 200).strip() or None,
        )
        self.server.logins.add(asked, data["device_code"], data["user_code"])


class _Credential(DeviceCredentialMixin):  # type: ignore[misc]  # Authlib is untyped
    def __init__(self, poll: Poll) -> None:
        self.poll = poll

    def get_client_id(self) -> str | None:
        return self.poll.login.asked.client_id

    def get_scope(self) -> str:
        return " ".join(self.poll.login.asked.scopes)

    def get_user_code(self) -> str:
        return self.poll.login.user_code

    def is_expired(self) -> bool:
        return self.poll.login.status is Status.EXPIRED


class _Grant(DeviceCodeGrant):  # type: ignore[misc]  # Authlib is untyped
    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH_METHODS

    def authenticate_token_endpoint_client(self) -> Any:
        self.request.client = super().authenticate_token_endpoint_client()
        return self.request.client

    def query_device_credential(self, device_code: str) -> _Credential:
        # RFC 6749 section 5.2 has invalid_grant for unknown codes, used codes, and codes of
        # another client. Authlib uses invalid_request and unauthorized_client for some.
        poll: Poll | None = self.server.logins.poll(device_code, "rfc8628")
        if poll is None:
            raise InvalidGrantError("Unknown 'device_code'")
        g.poll = poll
        credential = _Credential(poll)
        if credential.get_client_id() != self.request.client.get_client_id():
            raise InvalidGrantError("The 'device_code' was issued to another client")
        if poll.login.status is Status.USED:
            raise InvalidGrantError("The 'device_code' was already used")
        return credential

    def validate_device_credential(self, credential: _Credential) -> Any:
        if not credential.is_expired() and self._slow_down(credential, "before"):
            raise SlowDownError
        return super().validate_device_credential(credential)

    def query_user_grant(self, _user_code: str) -> tuple[str, bool] | None:
        status = g.poll.login.status
        return None if status is Status.WAITING else ("local", status is Status.APPROVED)

    def should_slow_down(self, credential: _Credential) -> bool:
        return self._slow_down(credential, "after")

    def _slow_down(self, credential: _Credential, when: str) -> bool:
        if self.server.settings.rate_check != when or not credential.poll.too_early:
            return False
        self.server.logins.slow_down(credential.poll)
        return True

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        # Authlib's own method writes the token to the debug log.
        credential = self.request.credential
        if not self.server.logins.redeem(credential.poll):
            raise InvalidGrantError("The 'device_code' was already used")
        token = self.generate_token(
            user=self.request.user, scope=credential.get_scope(), include_refresh_token=False
        )
        return 200, token, self.TOKEN_RESPONSE_HEADER
