"""Logs in with deviceflow, as its own pages show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow import Client, OAuth

if TYPE_CHECKING:
    from tests.comparison.scenarios import Endpoints


def login(where: Endpoints, client: Client | None = None) -> str:
    """Return the access token.

    Args:
        where: The server.
        client: What drives the login; by default one that waits in real time.
    """
    client = client or Client()
    provider = OAuth(
        client_id=where.client_id,
        device_authorization_endpoint=where.device_authorization_endpoint,
        token_endpoint=where.token_endpoint,
        scopes="read write",
    )
    flow = client.start(provider)
    return client.wait_for_token(flow.id).access_token.reveal()
