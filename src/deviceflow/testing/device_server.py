"""A server for one test: it runs in a thread, and the test decides what happens there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, Self

from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deviceflow.server.director import Seen
    from deviceflow.server.settings import Settings

    Request = Literal["code", "poll", "refresh"]

_ALL: tuple[Request, ...] = ("code", "poll", "refresh")


class DeviceServer:
    """The local authorization server on a free port, in a thread (extra `server`).

    The server speaks RFC 8628 and DVC Studio's dialect. It carries out each of the test's orders
    once, in the order in which the test gave them, on the requests that come next.

    Args:
        settings: How the server behaves.
        clock: A function that returns the time in seconds since 1970. The server measures lifetimes
            and intervals by this clock.

    Attributes:
        url: The server's URL, without a trailing slash.

    Raises:
        ImportError: The extra `server` is not installed.
    """

    def __init__(
        self, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        from deviceflow.server import LocalServer, Settings  # noqa: PLC0415  # an extra
        from deviceflow.server.app import create_directed  # noqa: PLC0415

        settings = settings or Settings()
        app, self._director = create_directed(settings, clock)
        self._server = LocalServer(settings, app=app)
        self.url: str = self._server.url

    # What a program needs to log in here.

    def oauth(self, **settings: Any) -> OAuth:
        """Return this server as a provider, for a client `test`.

        Args:
            **settings: `OAuth`'s arguments, such as `scopes`.
        """
        return OAuth(**({"client_id": "test", "issuer": self.url} | settings))

    def studio(self) -> Studio:
        """Return this server as a DVC Studio."""
        return Studio(self.url)

    # What a person does.

    @property
    def auto_approve(self) -> bool:
        """Whether each login that begins from now on is approved at once."""
        return self._director.auto_approve

    @auto_approve.setter
    def auto_approve(self, approve: bool) -> None:
        self._director.auto_approve = approve

    def approve(self, code: str | None = None) -> None:
        """Approve a login.

        Args:
            code: Its user code; by default that of the one login that waits.

        Raises:
            AssertionError: No such login waits, or several do and no code is given.
        """
        self._decide("approve", code)

    def deny(self, code: str | None = None) -> None:
        """Deny a login. The arguments are `approve`'s."""
        self._decide("deny", code)

    def expire(self, code: str | None = None) -> None:
        """End a code's life now. The arguments are `approve`'s."""
        self._decide("expire", code)

    def after_polls(self, number: int, do: Literal["approve", "deny", "expire"]) -> None:
        """Decide each login that begins from now on after a number of polls.

        Use this with a call that blocks until the login has ended.

        Args:
            number: How many polls to answer before the decision.
            do: The decision.
        """
        self._director.after_polls = (number, do)

    # What goes wrong.

    def fail_next(
        self,
        status: int = 503,
        times: int = 1,
        *,
        of: Sequence[Request] = _ALL,
        retry_after: float | None = None,
        body: str | None = None,
    ) -> None:
        """Answer the next requests with a status, and do nothing of what they ask for.

        Args:
            status: The status.
            times: How many requests.
            of: Which kinds of requests are meant: for a code, a poll, a refresh.
            retry_after: The seconds in the header `Retry-After`.
            body: The body; by default the JSON error `temporarily_unavailable`.
        """
        self._director.fail(frozenset(of), status, times, retry_after, body)

    def cut_next_answer(self, length: int | None = None, *, of: Sequence[Request] = _ALL) -> None:
        """Do what the next request asks for, and break the connection before the answer's end.

        Args:
            length: How many bytes of the body to send: 0 sends no answer at all. By default half.
            of: As for `fail_next`.
        """
        self._director.cut(frozenset(of), length)

    def slow_down_next(self, times: int = 1) -> None:
        """Answer the next polls with `slow_down`, and from then on expect 5 s more between polls.

        Args:
            times: How many polls.
        """
        self._director.slow_down(times)

    def rotate_refresh_tokens(self, grace: float = 0.0) -> None:
        """From now on, give each login a refresh token, and replace it with each refresh.

        If an old refresh token comes again, the server revokes the grant with all its tokens (RFC
        9700 section 4.14).

        Args:
            grace: For how many seconds after a refresh the old refresh token gets the same new one.
        """
        self._director.rotate_refresh_tokens(grace)

    # What was seen.

    @property
    def requests(self) -> list[Seen]:
        """What programs have sent so far, and how each request was answered."""
        return self._director.seen()

    @property
    def polls(self) -> list[str]:
        """How each poll was answered: an error code, or `issued`; a status if there is neither."""
        polls = (one for one in self.requests if one.kind == "poll")
        return [one.error or ("issued" if one.status == 200 else str(one.status)) for one in polls]

    @property
    def user_codes(self) -> list[str]:
        """The user codes of all logins, oldest first."""
        return [login.user_code for login, _ in self._director.logins.log()]

    # Its life.

    def close(self) -> None:
        """Stop the server."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(self, do: Literal["approve", "deny", "expire"], code: str | None) -> None:
        problem = self._director.decide(do, code)
        if problem:
            raise AssertionError(f"Cannot {do}: {problem}.{self._so_far()}")

    def _so_far(self) -> str:
        lines = [f"  {number}. {one}" for number, one in enumerate(self.requests, 1)]
        return "\n".join(["\nRequests so far:", *(lines or ["  none"])])
