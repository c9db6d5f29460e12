"""What one login asks for, of which provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.provider import LoginRequest, Provider

    P = TypeVar("P", Provider, Provider | None)


def resolve_provider(provider: P, request: LoginRequest) -> P:
    """Return a provider with what one login asks for; None where there is none.

    Raises:
        UsageError: This is not a provider, but the name of one, for example; or as for
            `Provider.with_request`.
    """
    if provider is None:
        return provider
    if not hasattr(provider, "with_request"):
        raise UsageError(
            f"A login needs a provider, and this is of the type {type(provider).__name__}.",
            hint="For any server: OAuth(issuer=…, client_id=…). For a known provider:"
            " provider('github', client_id=…). For DVC Studio: Studio(url).",
        )
    return provider.with_request(**request)
