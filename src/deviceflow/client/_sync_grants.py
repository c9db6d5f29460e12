"""The methods of `Client` that are about grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack

from deviceflow.client import grant_check, grant_end, grant_login, grant_token
from deviceflow.client.asking import resolve_provider
from deviceflow.client.grant_end import UNUSED, SweptGrants
from deviceflow.client.turns import NOTIFIED_AT_ONCE, NOTIFY_FOR
from deviceflow.core.secret import Secret
from deviceflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from deviceflow.client.context import Context
    from deviceflow.client.grant_check import GrantCheck
    from deviceflow.client.grant_token import Mint
    from deviceflow.client.world import World
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.grant_view import GrantView
    from deviceflow.core.login import Login
    from deviceflow.core.provider import LoginRequest, Provider

_P = ParamSpec("_P")
_T = TypeVar("_T")


def given_token(token: AccessToken | Secret | str | None) -> AccessToken | Secret | None:
    """Return an access token that a caller gave, hidden."""
    return Secret(token) if isinstance(token, str) else token


def brought_token(token: object) -> Secret:
    """Return a refresh token that a caller brought, hidden.

    Raises:
        InvalidArgumentError: There is none. The message does not quote what came instead.
    """
    secret = Secret(token) if isinstance(token, str) else token
    if not isinstance(secret, Secret) or not secret.reveal():
        raise InvalidArgumentError(
            "The refresh token must be a Secret or a str, and not empty.",
            hint="Many servers issue a refresh token only for the scope offline_access. Without"
            " one, log in: Client.log_in.",
        )
    return secret


class GrantClient:
    """What a client can do with grants."""

    _context: Context

    def _run(
        self,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        raise NotImplementedError

    def _at_once(self, works: Any, places: int = 0, seconds: float = 0.0) -> Any:
        raise NotImplementedError

    def get_token(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        min_ttl: float = 60.0,
        purpose: str | None = None,
        mint: Mint = "later",
        timeout: float | None = None,
        **request: Unpack[LoginRequest],
    ) -> AccessToken:
        """Return an access token of the grant that can be used now.

        If the token has enough life left, it comes from the store, or from this client's memory if
        the client read it within the last second. Otherwise one process refreshes the token. The
        other processes use the old token while it lives, or wait for the new one. If a person must
        log in, `get_token` raises `LoginPending`: ask again later. If a login of the same name is
        open, each call steps that login when it is due, and moves its token to the grant.

        Args:
            name: The grant's name.
            provider: Where to log in; None for an existing grant.
            min_ttl: How many seconds the token must live at least. At most half of the token's
                lifetime counts, so that not every call refreshes a short-lived token.
            purpose: Why the grant is needed, as for `start`.
            mint: When to request a code if a person must log in: `later`, when the person is there
                (`log_in`, or `deviceflow login`); or `now`, and `LoginPending.login` has the
                code.
            timeout: How many seconds the call may take; None for as long as its requests and the
                refresh of another process take. A refresh gets what is left of the time, and is
                not sent with less than a second. If the server answers later than that, the answer
                is lost, as at the end of `Client(deadline=…)`. Notifications, and tokens that the
                store did not take, are not cut off.
            **request: What to ask for, as for `start`.

        Raises:
            LoginPending: A person must log in.
            WaitTimeoutError: There was no token in time. Nothing was changed.
            UnknownGrantError: There is no grant of that name, and `provider` is None.
            UsageError: The grant, or the open login of its name, has another server or asks for
                something else.
            UnreachableError: The token has expired, and the server does not answer. Nothing is
                lost.
            StoreError: The store failed. If tokens had arrived, this client keeps them, and the
                next call saves them.
        """
        return self._run(
            grant_token.get_token, name, provider, purpose, request, min_ttl, mint, timeout
        )

    def invalidate(self, name: str, token: AccessToken | Secret | str | None = None) -> bool:
        """Say that a resource server refused an access token, and refresh the grant.

        If the grant cannot be refreshed, or the server refuses that as well, a person must log in:
        the client records the need and notifies the program, as `get_token` does.

        Args:
            name: The grant's name.
            token: The access token that was refused; None for the one in use.

        Returns:
            Whether the grant had that token, which nobody gets any more. If not, another process
            has replaced the token already, and nothing changes. Nothing changes either if the
            grant's former token was refused within the last 60 seconds: a server that refuses every
            token costs each grant one refresh a minute. That limit does not apply without `token`.

        Raises:
            UnknownGrantError: There is no grant of that name.
            StoreError: The store failed, as for `get_token`.
        """
        refused = given_token(token)
        del token
        return self._run(grant_end.invalidate, name, refused)

    def check(self, name: str) -> GrantCheck:
        """Ask the server whether the access token of a grant is still valid.

        The client asks by introspection (RFC 7662) or at the userinfo endpoint (OpenID Connect
        Core section 5.3), if the server's metadata names one that this client may use. If the
        server says that the token is not valid, the client invalidates the token, refreshes the
        grant, and asks again. A check does not count as a use of the grant.

        Raises:
            LoginPending: A person must log in: there is no token, or the server has ended the
                grant.
            UnknownGrantError: There is no grant of that name.
            ServerError: The server, or its metadata, cannot be reached.
            StoreError: The store failed, as for `get_token`.
        """
        checked: GrantCheck = self._run(grant_check.check, name)
        return checked

    def log_in(
        self,
        name: str,
        provider: Provider | None = None,
        *,
        purpose: str | None = None,
        again: bool = False,
        open_browser: bool = True,
        timeout: float | None = None,
        on_step: Callable[[Login], object] | None = None,
        **request: Unpack[LoginRequest],
    ) -> GrantView:
        """Log in for a grant: show a fresh code, and wait until a person has approved.

        If the grant gives tokens already, `log_in` starts no login, unless the grant is in doubt,
        or the call says `again`. Then the login replaces the tokens, and the former ones are
        revoked if the server can do that (RFC 7009).

        Args:
            name: The grant's name.
            provider: Where to log in; None for an existing grant.
            purpose: As for `start`.
            again: Whether to log in although the grant gives tokens.
            open_browser: Whether to open the page in the person's browser.
            timeout: How many seconds to wait at most; None to wait for as long as the code lives.
            on_step: As for `wait`. It is called with the new code, too, before the first step.
            **request: What to ask for, as for `start`.

        Raises:
            UnknownGrantError: There is no grant of that name, and `provider` is None.
            DeviceFlowError: As for `start` and `wait_for_token`.
        """
        self._run(
            grant_login.log_in,
            name,
            resolve_provider(provider, request),
            purpose,
            open_browser=open_browser,
            timeout=timeout,
            on_step=on_step,
            again=again,
        )
        return self.grant(name)

    def adopt_grant(
        self,
        name: str,
        provider: Provider,
        *,
        refresh_token: Secret | str,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> GrantView:
        """Store a grant that continues with a refresh token that another program obtained.

        The call sends nothing but a request for the server's metadata, if the provider needs them.
        The first `get_token` refreshes. From then on, only this grant may use the refresh token: a
        server that rotates refresh tokens may revoke all tokens if it sees an old one again (RFC
        9700 section 4.14.2). So end the other program first, and remove its copy.

        Args:
            name: The grant's name.
            provider: The server that issued the refresh token, with the same client id.
            refresh_token: The refresh token.
            purpose: As for `start`.
            **request: What the login asked for, as for `start`; `get_token` must ask for the same.

        Raises:
            InvalidArgumentError: There is no refresh token.
            UsageError: The grant gives tokens already. Or the provider does not refresh tokens. Or
                the provider has `require`, or the client an `approver`: nobody knows who approved
                this token.
            ServerError: The server's metadata could not be fetched.
        """
        brought = brought_token(refresh_token)
        del refresh_token
        self._run(
            grant_login.adopt_refresh_token,
            name,
            resolve_provider(provider, request),
            purpose,
            brought,
        )
        return self.grant(name)

    def log_out(self, name: str) -> GrantView:
        """End a grant: wipe its tokens, and revoke them if the server can do that (RFC 7009).

        The call also ends an open login of this name, because whoever has its code could bring the
        grant back. If a revocation fails, `sweep_grants` tries again.

        Raises:
            UnknownGrantError: There is no grant of that name.
        """
        return self._run(grant_end.log_out, name)

    def grant(self, name: str) -> GrantView:
        """Return a grant as it is now. This sends nothing, and records nothing.

        Raises:
            UnknownGrantError: There is no grant of that name.
        """
        return self._run(grant_end.get, name)

    def grants(self) -> Iterator[GrantView]:
        """Yield all grants, sorted by name. The client logs and skips a grant it cannot read."""
        seen = self._run(grant_end.list_all)
        yield from seen

    def sweep_grants(self, *, unused: float = UNUSED, limit: int = 100) -> SweptGrants:
        """Refresh ahead the grants that are in use, and revoke the tokens of ended grants.

        Call `sweep_grants` from a periodic task, beside `sweep`. Each grant has its own moment in
        the last third of its token's life. The requests run in threads, up to 128 at a time, and
        the servers take turns: one that hangs delays no others. Then the program is notified of
        needs, by up to 10 threads at a time, which begin no notification after 20 seconds.

        Args:
            unused: After how many seconds without use a grant is no longer refreshed ahead.
            limit: How many grants to handle at most.
        """
        swept = SweptGrants([], [])
        for done in self._at_once(self._run(grant_end.due, unused, limit)):
            swept.add(done)
        notices = self._run(grant_end.due_notices, limit)
        for done in self._at_once(notices, NOTIFIED_AT_ONCE, NOTIFY_FOR):
            swept.add(done)
        return swept

    def doubt_grants(self) -> int:
        """Mark all grants as in doubt, and return their number.

        Call this once after you have restored the store from a backup. A backup has old refresh
        tokens, and a server that sees one again may revoke all tokens of the grant. So the client
        uses the access token of a grant in doubt until it expires, and refreshes only then.
        """
        return self._run(grant_end.doubt)
