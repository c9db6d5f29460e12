"""Logs in with MSAL, as its sample for the device flow does, at an authority of any vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msal

from tests.comparison.outcome import RefusedError

if TYPE_CHECKING:
    from tests.comparison.scenarios import Endpoints


def login(where: Endpoints) -> str:
    """Return the access token.

    Raises:
        RefusedError: MSAL returned an error, which it does instead of raising one.
    """
    app = msal.PublicClientApplication(where.client_id, oidc_authority=where.issuer)
    flow = app.initiate_device_flow(scopes=["read", "write"])
    if "user_code" not in flow:
        raise RefusedError(flow)
    result = app.acquire_token_by_device_flow(flow)
    if "access_token" not in result:
        raise RefusedError(result)
    return str(result["access_token"])
