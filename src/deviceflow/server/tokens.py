"""What a token request asks for, what it gets, and what the server knows of a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["access_token", "refresh_token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one token request asks for.

    Attributes:
        scopes: The scopes; None means all that were granted (RFC 6749 section 6).
        resource: Where the token will be used (RFC 8707); empty means as granted.
        audience: Who the token is for, for servers that take this parameter; None means as granted.
    """

    scopes: tuple[str, ...] | None = None
    resource: tuple[str, ...] = ()
    audience: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What a client receives.

    Attributes:
        access_token: The access token.
        expires_in: Its remaining lifetime in seconds; None if it does not expire.
        scopes: Its scopes.
        refresh_token: The refresh token; None if the response contains none.
    """

    access_token: str = field(repr=False)
    expires_in: int | None
    scopes: tuple[str, ...]
    refresh_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """A token at one moment.

    Attributes:
        kind: Which of the two it is.
        user_code: The user code of the login that it came from.
        client_id: The client that it was issued to; None in Studio's dialect.
        scopes: Its scopes.
        audience: The resources and the audience that it is for.
        granted_resource: The resources that the person approved; empty if the login named none.
        issued_at: When it was issued, in the clock's seconds.
        expires_at: When it expires, in the clock's seconds; None if it does not.
        generation: How many tokens the grant had with it: 1 after the login.
        active: Whether it is valid now.
    """

    kind: Kind
    user_code: str
    client_id: str | None
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    granted_resource: tuple[str, ...]
    issued_at: float
    expires_at: float | None
    generation: int
    active: bool
