"""What callers get of a grant: an access token that can be used now."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from deviceflow.core.wire import is_token_refused
from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from deviceflow.core.grant import Grant
    from deviceflow.core.secret import Secret
    from deviceflow.core.text import CleanText


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token of a grant. The refresh token stays in the store.

    As a context manager, it learns of a refusal: if an exception with the response of a server that
    refused the token leaves the block, such as what `raise_for_status` raises, the token is
    invalidated as by `invalidate`, and the exception is passed on::

        with client.get_token("nightly") as token:
            fetch_report(token).raise_for_status()

    A token of an `AsyncClient` is used with `async with`.

    Attributes:
        access_token: The access token, hidden: `token.access_token.reveal()`.
        token_type: The token type, usually `Bearer`.
        expires_at: When the token expires, in seconds since 1970; None if the server does not say.
        scopes: The granted scopes; None if the server does not say, which means as requested.
        generation: How many times the grant has got tokens, with this one.
        invalid_token_statuses: The HTTP statuses by which a server says that the token is not
            valid.
        id_token: The id token of the last login or refresh that had one, hidden, for web identity
            such as AWS's or Kubernetes'; None unless the provider has `keep_id_token`.
    """

    access_token: Secret
    token_type: CleanText
    expires_at: float | None
    scopes: tuple[CleanText, ...] | None
    generation: int
    invalid_token_statuses: tuple[int, ...] = field(default=(401,), repr=False, compare=False)
    _invalidate: Callable[[AccessToken], Any] | None = field(
        default=None, repr=False, compare=False
    )
    id_token: Secret | None = None

    @classmethod
    def of(cls, grant: Grant, invalidate: Callable[[str, AccessToken], Any] | None = None) -> Self:
        """Return the access token of a grant that has one.

        Args:
            grant: The grant.
            invalidate: The client's method; it is given the grant's name and this token.
        """
        token = grant.token
        assert token is not None  # noqa: S101  # the caller has looked
        return cls(
            token.access_token,
            token.token_type,
            token.expires_at,
            token.scopes,
            grant.generation,
            grant.provider.invalid_token_statuses,
            invalidate and partial(invalidate, grant.name),
            token.id_token,
        )

    def invalidate(self) -> bool:
        """Say that a server refused the token, as `Client.invalidate` does.

        Raises:
            UsageError: The token is not of a `Client`, but for example of an `AsyncClient`.
        """
        if self._invalidate is None or iscoroutinefunction(self._invalidate):
            raise UsageError(
                "This access token is not of a Client.",
                hint="With an AsyncClient: async with token, or await client.invalidate(…).",
            )
        return bool(self._invalidate(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._is_refused_by(error):
            try:
                self.invalidate()
            except DeviceFlowError as problem:  # the caller's own error is passed on
                error.add_note(f"deviceflow: {problem}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._is_refused_by(error) and self._invalidate is not None:
            try:
                await self._invalidate(self)
            except DeviceFlowError as problem:
                error.add_note(f"deviceflow: {problem}")

    def _is_refused_by(self, error: BaseException | None) -> TypeGuard[Exception]:
        """Tell whether an exception of an HTTP library says that a server refused the token."""
        if not isinstance(error, Exception):
            return False
        response = getattr(error, "response", None)
        response = error if response is None else response
        names = ("status_code", "status", "code")  # of requests and httpx, of aiohttp, of urllib
        found = (getattr(response, name, None) for name in names)
        status = next((number for number in found if isinstance(number, int)), 0)
        read = getattr(getattr(response, "headers", None), "get", None)
        challenge = read("WWW-Authenticate") if callable(read) else None
        challenge = challenge if isinstance(challenge, str) else None
        return is_token_refused(status, challenge, self.invalid_token_statuses)

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
        if self.id_token is not None:
            token["id_token"] = self.id_token.reveal()
        return token
