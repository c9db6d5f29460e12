"""An id token that a person asked to keep, by the command, from a server that nobody here wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow.providers.idtoken import claims_of

if TYPE_CHECKING:
    from tests.integration.command import Command
    from tests.integration.oidc_provider import OIDCProvider

ASKED: Final = ("--client-id", "public", "--scopes", "openid email offline_access")


@pytest.mark.parametrize("kept", [True, False])
def test_id_token_is_kept_sealed_where_a_person_asks_for_it(
    deviceflow: Command, oidc_provider: OIDCProvider, kept: bool
) -> None:
    done = deviceflow(
        *("login", "cloud", "--issuer", oidc_provider.issuer, *ASKED),
        *(["--keep-id-token"] if kept else []),
        act=oidc_provider.approve,
    )
    assert done.code == 0, done.err

    whole = json.loads(deviceflow("token", "cloud", "--format", "json").out)
    plain = deviceflow("token", "cloud")

    assert whole["access_token"] == plain.out.strip()
    assert ("id_token" in whole) is kept
    if kept:
        claims = claims_of(whole["id_token"])
        assert claims is not None
        assert claims.get("iss") == oidc_provider.issuer
        stored = deviceflow.store.read_bytes()
        assert whole["id_token"].encode() not in stored
        assert whole["id_token"] not in deviceflow("status", "cloud", "--json").out


def test_refresh_renews_the_id_token(deviceflow: Command, oidc_provider: OIDCProvider) -> None:
    deviceflow(
        *("login", "cloud", "--issuer", oidc_provider.issuer, *ASKED, "--keep-id-token"),
        act=oidc_provider.approve,
    )
    first = json.loads(deviceflow("token", "cloud", "--format", "json").out)

    deviceflow("invalidate", "cloud")
    second = json.loads(deviceflow("token", "cloud", "--format", "json").out)

    assert second["access_token"] != first["access_token"]
    assert claims_of(second["id_token"]) is not None
