"""Logs in with requests_oauth2client, with the loop that its documentation shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from requests_oauth2client import DeviceAuthorizationPollingJob, OAuth2Client

if TYPE_CHECKING:
    from tests.comparison.scenarios import Endpoints


def login(where: Endpoints) -> str:
    """Return the access token."""
    client = OAuth2Client(
        token_endpoint=where.token_endpoint,
        device_authorization_endpoint=where.device_authorization_endpoint,
        client_id=where.client_id,
    )
    codes = client.authorize_device(scope="read write")
    job = DeviceAuthorizationPollingJob(client, codes)
    token = None
    while token is None:
        token = job()
    return token.access_token
