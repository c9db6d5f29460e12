"""What callers get of a grant: an access token that can be used now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from deviceflow.core.grant import Grant
    from deviceflow.core.secret import Secret
    from deviceflow.core.text import CleanText


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token of a grant. The refresh token stays in the store.

    Attributes:
        access_token: The access token, hidden: `token.access_token.reveal()`.
        token_type: The token type, usually `Bearer`.
        expires_at: When the token expires, in seconds since 1970; None if the server does not say.
        scopes: The granted scopes; None if the server does not say, which means as requested.
        generation: How many times the grant has got tokens, with this one.
    """

    access_token: Secret
    token_type: CleanText
    expires_at: float | None
    scopes: tuple[CleanText, ...] | None
    generation: int

    @classmethod
    def of(cls, grant: Grant) -> Self:
        """Return the access token of a grant that has one."""
        token = grant.token
        assert token is not None  # noqa: S101  # the caller has looked
        expires_at, scopes = token.expires_at, token.scopes
        return cls(token.access_token, token.token_type, expires_at, scopes, grant.generation)

    def as_dict(self) -> dict[str, Any]:
        """Return the token in clear, as Authlib and requests-oauthlib expect it."""
        token: dict[str, Any] = {
            "access_token": self.access_token.reveal(),
            "token_type": self.token_type,
        }
        if self.expires_at is not None:
            token["expires_at"] = int(self.expires_at)
        if self.scopes is not None:
            token["scope"] = " ".join(self.scopes)
        return token
