"""The device grant (RFC 8628), built on Authlib's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from authlib.oauth2.rfc6749.errors import InvalidGrantError
from authlib.oauth2.rfc8628 import (
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    DeviceCredentialMixin,
    SlowDownError,
)
from flask import g, request, url_for

from deviceflow.core.sanitize import printable
from deviceflow.server.oauth_server import AUTH_METHODS, response, wanted
from deviceflow.server.pending import Asked, Status

if TYPE_CHECKING:
    from flask import Request

    from deviceflow.server.pending import PendingLogin, Poll


class Endpoint(DeviceAuthorizationEndpoint):  # type: ignore[misc]  # Authlib is untyped
    @property
    def EXPIRES_IN(self) -> int:  # noqa: N802  # Authlib's name
        expires_in: int = self.server.settings.expires_in
        return expires_in

    @property
    def INTERVAL(self) -> float:  # noqa: N802  # Authlib's name
        interval: float = self.server.settings.interval
        # Some clients cannot parse 5.0.
        return int(interval) if interval == int(interval) else interval

    def authenticate_client(self, request: Request) -> Any:
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
        target = wanted()
        asked = Asked(
            dialect="rfc8628",
            client=printable(client_id, 200),
            client_id=client_id,
            scopes=tuple(printable(scope or "").split()),
            resource=target.resource,
            audience=target.audience,
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


class DeviceGrant(DeviceCodeGrant):  # type: ignore[misc]  # Authlib is untyped
    TOKEN_ENDPOINTAUTH_METHODS = AUTH_METHODS

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
        login: PendingLogin = self.request.credential.poll.login
        target = wanted(login.asked.resource)
        if not self.server.logins.redeem(self.request.credential.poll):
            raise InvalidGrantError("The 'device_code' was already used")
        issued = self.server.grants.create(login, replace(target, scopes=None))
        return 200, response(issued), self.TOKEN_RESPONSE_HEADER
