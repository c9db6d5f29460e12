"""The OAuth endpoints, and the metadata that names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.errors import InvalidRequestError
from authlib.oauth2.rfc8628 import DEVICE_CODE_GRANT_TYPE
from flask import Blueprint, Response, g, request, url_for

from deviceflow.server.device_grant import DeviceGrant, Endpoint
from deviceflow.server.oauth_server import AUTH_METHODS, Server
from deviceflow.server.refresh_grant import RefreshGrant
from deviceflow.server.token_endpoints import Introspection, Revocation, describe, protector

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.typing import ResponseReturnValue

    from deviceflow.server.faults import Fault, Faults
    from deviceflow.server.grants import Grants
    from deviceflow.server.pending import PendingLogins, Poll
    from deviceflow.server.settings import Settings


def create_oauth(
    app: Flask, settings: Settings, logins: PendingLogins, grants: Grants, faults: Faults
) -> Blueprint:
    """Return the endpoints for tokens, and the metadata that names them (RFC 8414)."""
    oauth = Blueprint("oauth", __name__)
    server = Server(app, settings, logins, grants, faults)
    for endpoint in (Endpoint, Revocation, Introspection):
        server.register_endpoint(endpoint)
    server.register_grant(DeviceGrant)
    if settings.refresh_tokens != "none":
        server.register_grant(RefreshGrant)

    oauth.register_error_handler(
        OAuth2Error, lambda error: server.handle_error_response(request, error)
    )

    @oauth.post("/oauth/device_authorization")
    def device_authorization() -> ResponseReturnValue:
        answer: Response = server.create_endpoint_response(Endpoint.ENDPOINT_NAME)
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
        fault: Fault | None = g.get("fault")
        return faults.spoil(fault, answer) if fault else answer

    @oauth.post("/oauth/revoke")
    def revoke() -> ResponseReturnValue:
        answer: Response = server.create_endpoint_response(Revocation.ENDPOINT_NAME)
        return answer

    @oauth.post("/oauth/introspect")
    def introspect() -> ResponseReturnValue:
        answer: Response = server.create_endpoint_response(Introspection.ENDPOINT_NAME)
        return answer

    guard = protector(grants, settings)

    @oauth.get("/oauth/resource")
    def resource() -> ResponseReturnValue:
        return describe(guard.acquire_token().view)

    oauth.add_url_rule("/.well-known/oauth-authorization-server", view_func=_metadata(settings))
    return oauth


def _metadata(settings: Settings) -> Callable[[], ResponseReturnValue]:
    refreshes = settings.refresh_tokens != "none"

    def metadata() -> ResponseReturnValue:
        return {
            "issuer": request.url_root.rstrip("/"),
            "device_authorization_endpoint": url_for(".device_authorization", _external=True),
            "token_endpoint": url_for(".token", _external=True),
            "revocation_endpoint": url_for(".revoke", _external=True),
            "introspection_endpoint": url_for(".introspect", _external=True),
            "grant_types_supported": [
                DEVICE_CODE_GRANT_TYPE,
                *(["refresh_token"] if refreshes else []),
            ],
            # Any scope is accepted: this is the one that means something to the server.
            "scopes_supported": list(filter(None, [refreshes and settings.refresh_scope])),
            # Required by RFC 8414 section 2, and these grant types have none.
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": AUTH_METHODS,
            "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
            "introspection_endpoint_auth_methods_supported": AUTH_METHODS,
            # Of our own: a device authorization request may say why (`purpose`).
            "deviceflow_purpose_supported": True,
        }

    return metadata
