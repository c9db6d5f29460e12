"""The methods of `Client` that are about grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from deviceflow.client import grant_end, grant_login, grant_token
from deviceflow.client.grant_end import UNUSED
from deviceflow.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.client.context import Context
    from deviceflow.client.grant_end import SweptGrants
    from deviceflow.client.grant_token import Mint
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.grant_view import GrantView
    from deviceflow.core.provider import LoginRequest, Provider


def given_token(token: AccessToken | Secret | str) -> Secret:
    """Return an access token that a caller gave, hidden."""
    if isinstance(token, str):
        return Secret(token)
    return token if isinstance(token, Secret) else token.access_token


class GrantClient:
    """What a client can do with grants."""

    _context: Context

    def _run(self, operation: Any) -> Any:
        raise NotImplementedError

    def get_token(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        min_ttl: float = 60.0,
        purpose: str | None = None,
        mint: Mint = "later",
        **request: Unpack[LoginRequest],
    ) -> AccessToken:
        """Return an access token that can be used now, of the grant of a name.

        With enough life left, the token comes from the store, or from this client's memory, where
        it was read within the last second. Otherwise one process refreshes it, and the others go on
        with what they have while that lives, or wait. Where a person must log in, `LoginPending` is
        raised: ask again later. Each call takes the step that is due of an open login of the same
        name, and takes the login's token for the grant once it is there.

        Args:
            name: The grant's name.
            provider: Where to log in; None for a grant that there is already.
            min_ttl: How many seconds the token must live, at least. At most half of its lifetime
                counts, so that short-lived tokens are not refreshed at every call.
            purpose: Why the grant is needed, as for `start`.
            mint: When to ask for a code, where a person must log in: `later`, when somebody is
                there to see it (`log_in`, or `deviceflow grants login`); or `now`, and
                `LoginPending.login` has it.
            **request: What to ask for, as for `start`.

        Raises:
            LoginPending: A person must log in.
            UnknownGrantError: There is no grant of that name, and no provider was given.
            UsageError: The grant, or the open login of its name, is of another server or asks for
                something else.
            UnreachableError: The token has expired, and the server gives no answer. Nothing is
                lost.
            StoreError: The store failed. Tokens that had come are kept in this client, and the next
                call saves them.
        """
        operation = grant_token.get_token(
            self._context, name, provider, purpose, request, min_ttl, mint
        )
        token: AccessToken = self._run(operation)
        return token

    def invalidate(self, name: str, token: AccessToken | Secret | str) -> bool:
        """Say that a resource server refused an access token: the next call gets another one.

        Args:
            name: The grant's name.
            token: The token that was refused.

        Returns:
            Whether the token was the one in use. If not, nothing was done: others were quicker.

        Raises:
            UnknownGrantError: There is no grant of that name.
        """
        refused = given_token(token)
        del token
        operation = grant_end.invalidate(self._context, name, refused)
        return bool(self._run(operation))

    def log_in(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        purpose: str | None = None,
        open_browser: bool = True,
        timeout: float | None = None,
        **request: Unpack[LoginRequest],
    ) -> GrantView:
        """Log in for a grant: show a fresh code, and wait until a person has approved.

        A grant that gives tokens is left as it is.

        Args:
            name: The grant's name.
            provider: Where to log in; None for a grant that there is already.
            purpose: As for `start`.
            open_browser: Whether to open the page in the person's browser.
            timeout: How many seconds to wait; None for as long as the code lives.
            **request: What to ask for, as for `start`.

        Raises:
            UnknownGrantError: There is no grant of that name, and no provider was given.
            DeviceFlowError: As for `start` and `wait_for_token`.
        """
        asked = provider and provider.with_request(**request)
        operation = grant_login.log_in(
            self._context, name, asked, purpose, open_browser=open_browser, timeout=timeout
        )
        self._run(operation)
        return self.grant(name)

    def log_out(self, name: str) -> GrantView:
        """End a grant: wipe its tokens, and revoke them where the server can do that (RFC 7009).

        An open login of its name is ended as well: who has its code could bring the grant back. A
        revocation that fails is tried again by `sweep_grants`.

        Raises:
            UnknownGrantError: There is no grant of that name.
        """
        view: GrantView = self._run(grant_end.log_out(self._context, name))
        return view

    def grant(self, name: str) -> GrantView:
        """Return a grant as it is now; nothing is sent, and nothing recorded.

        Raises:
            UnknownGrantError: There is no grant of that name.
        """
        view: GrantView = self._run(grant_end.get(name))
        return view

    def grants(self) -> Iterator[GrantView]:
        """Yield all grants by their names. One that cannot be read is logged and skipped."""
        seen: list[GrantView] = self._run(grant_end.list_all())
        yield from seen

    def sweep_grants(self, *, unused: float = UNUSED, limit: int = 100) -> SweptGrants:
        """Refresh ahead the grants that are in use, and revoke what is left of ended ones.

        For a periodic task, beside `sweep`. Each grant is refreshed at another moment of the last
        third of its token's life.

        Args:
            unused: For how many seconds a grant may go unused; longer ones are left to lapse.
            limit: How many grants to look after, at most.
        """
        swept: SweptGrants = self._run(grant_end.sweep(self._context, unused, limit))
        return swept

    def doubt_grants(self) -> int:
        """Mark all grants as in doubt, and return how many: for a store that was restored.

        A backup has old refresh tokens. A server that sees one again may revoke all tokens of the
        grant. So a grant in doubt is used as long as its access token lives, and refreshed only
        then.
        """
        return int(self._run(grant_end.doubt(self._context)))
