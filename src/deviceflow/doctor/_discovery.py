"""Checks of the server's metadata (RFC 8414)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deviceflow.core.text import NOTHING, CleanText
from deviceflow.core.wire import Failure
from deviceflow.doctor._advice import quoted
from deviceflow.doctor._check import Check
from deviceflow.providers.oauth import GRANT_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.wire import Fields, Response
    from deviceflow.doctor._recorder import Recorder
    from deviceflow.errors import ServerError
    from deviceflow.providers.oauth import OAuth


def no_discovery(recorder: Recorder, error: ServerError) -> Iterator[Check]:
    metadata = recorder.metadata()
    if metadata is not None:
        issuer, quirk = metadata.text("issuer"), None
        if metadata.text("device_authorization_endpoint") is None:
            quirk = 'device_authorization_endpoint = "https://…"'
        elif issuer and "{" in issuer:
            quirk = "issuer_template = true"
        elif issuer:
            quirk = f"issuer = {quoted(issuer)}"
        yield Check("discovery", "bad", str(error), quirk)
        return
    for request, result, _ in recorder.of("metadata"):
        yield Check("discovery", "bad", *_no_metadata(request.url, result))
    if not recorder.of("metadata"):
        yield Check("discovery", "bad", str(error))


def _no_metadata(url: str, result: Response | Failure) -> tuple[str, str | None]:
    if isinstance(result, Failure):
        return f"No response from {url}: {result.words}.", None
    if target := result.header("Location"):
        issuer = re.sub(
            r"/\.well-known/(openid-configuration|oauth-authorization-server)", "", target
        )
        quirk = f"issuer = {quoted(issuer)}" if issuer.startswith("https://") else None
        message = f"{url} redirects to {CleanText(target, NOTHING)} (status {result.status})"
        return f"{message}: use the issuer of that URL.", quirk
    if result.status != 200:
        return f"{url} has no metadata: status {result.status}.", None
    return f"{url} has no metadata: status 200, but the body is not a JSON object.", None


def discovery(provider: OAuth, metadata: Fields | None) -> Iterator[Check]:
    if metadata is None:
        return
    issuer = CleanText(metadata.text("issuer") or "", NOTHING)
    yield Check("discovery", "good", f"The issuer {issuer} has metadata.")
    grants = metadata.get("grant_types_supported")
    if isinstance(grants, list) and GRANT_TYPE not in grants:
        yield Check("discovery", "note", "grant_types_supported does not list the device grant.")
    challenges = metadata.get("code_challenge_methods_supported")
    if isinstance(challenges, list) and "S256" in challenges and not provider.uses_pkce:
        yield Check(
            "discovery",
            "note",
            "The server supports PKCE with S256, perhaps for the device grant too.",
            "pkce = true",
        )
    methods = metadata.get("token_endpoint_auth_methods_supported")
    used = provider.authentication.method
    if isinstance(methods, list) and used not in methods:
        # "none" is often left out where public clients are welcome all the same.
        others = [one for one in ("client_secret_basic", "client_secret_post") if one in methods]
        quirk = f"client_auth = {quoted(others[0])}" if others and used != "none" else None
        message = f"The metadata does not list the authentication method {used}."
        yield Check("client", "note", message, quirk)
