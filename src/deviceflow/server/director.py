"""A test's hand on a server in the same process: decide, spoil the next answers, read requests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

from flask import g, make_response, request

from deviceflow.server.faults import Fault
from deviceflow.server.pending import PendingLogins, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask import Flask, Response

    from deviceflow.server.faults import Faults
    from deviceflow.server.grants import Grants
    from deviceflow.server.settings import Settings

Decide = Literal["approve", "deny", "expire"]
Kind = Literal["metadata", "code", "poll", "refresh", "revoke", "introspect", "resource"]

_KINDS: Final[Mapping[str, Kind]] = {
    "/.well-known/oauth-authorization-server": "metadata",
    "/oauth/device_authorization": "code",
    "/api/device-login": "code",
    "/oauth/token": "poll",
    "/api/device-login/token": "poll",
    "/oauth/revoke": "revoke",
    "/oauth/introspect": "introspect",
    "/oauth/resource": "resource",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request that a program sent, and how it was answered.

    Attributes:
        kind: What it asked for.
        at: When it came, in the clock's seconds.
        fields: The fields of its form or JSON object. They contain secrets.
        status: The status of the answer.
        error: Its error code; None if it has none.
        cut: Whether the answer was cut off.
    """

    kind: Kind
    at: float
    fields: Mapping[str, Any] = field(repr=False)
    status: int
    error: str | None = None
    cut: bool = False

    def __str__(self) -> str:
        told = [str(self.status), *filter(None, [self.error]), *(["(cut off)"] if self.cut else [])]
        return f"{self.kind} at {self.at:.1f} → {' '.join(told)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    what: Literal["fail", "cut", "slow_down"]
    to: frozenset[Kind]
    status: int = 503
    retry_after: float | None = None
    body: str | None = None
    length: int | None = None


class Director:
    """Directs one application. Thread-safe.

    Args:
        app: The application, which has answered no request yet.
        settings: Its settings.
        logins: Its logins.
        grants: Its grants.
        faults: What spoils its answers.
        clock: Its clock.

    Attributes:
        auto_approve: Whether each login is approved at once.
        after_polls: After how many polls each login is decided, and how; None if not by itself.
    """

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        logins: PendingLogins,
        grants: Grants,
        faults: Faults,
        clock: Callable[[], float],
    ) -> None:
        self.auto_approve = False
        self.after_polls: tuple[int, Decide] | None = None
        self.logins = logins
        self._settings = settings
        self._grants = grants
        self._faults = faults
        self._clock = clock
        self._lock = Lock()
        self._orders: deque[_Order] = deque()
        self._seen: list[Seen] = []
        app.before_request(self._before)
        app.after_request(self._after)

    def seen(self) -> list[Seen]:
        """Return the requests of programs so far."""
        with self._lock:
            return self._seen[:]

    def fail(
        self,
        to: frozenset[Kind],
        status: int,
        times: int,
        retry_after: float | None,
        body: str | None,
    ) -> None:
        """Answer the next requests of these kinds with a status, and do nothing else."""
        order = _Order(what="fail", to=to, status=status, retry_after=retry_after, body=body)
        self._plan(order, times)

    def cut(self, to: frozenset[Kind], length: int | None) -> None:
        """Do what the next request of these kinds asks for, and send a part of the answer."""
        self._plan(_Order(what="cut", to=to, length=length), 1)

    def slow_down(self, times: int) -> None:
        """Answer the next polls with `slow_down`, and lengthen the interval."""
        self._plan(_Order(what="slow_down", to=frozenset({"poll"})), times)

    def decide(self, do: Decide, user_code: str | None) -> str | None:
        """Decide a login.

        Args:
            do: What the person does, or what time does.
            user_code: The login's code; None for the only one that waits.

        Returns:
            What is wrong, if anything is.
        """
        if user_code is None:
            waiting = [one for one, _ in self.logins.log() if one.status is Status.WAITING]
            if len(waiting) != 1:
                codes = ", ".join(one.user_code for one in waiting)
                return f"several logins wait: {codes}" if waiting else "no login waits for a person"
            user_code = waiting[0].user_code
        match do:
            case "approve":
                done = self.logins.decide(user_code, Status.APPROVED)
            case "deny":
                done = self.logins.decide(user_code, Status.DENIED)
            case "expire":
                done = self.logins.expire(user_code)
        if done:
            return None
        login = self.logins.find(user_code)
        status = f"the login {user_code} is {login.status}" if login else "it was never issued"
        return f"the code {user_code!r} does not wait: {status}"

    def rotate_refresh_tokens(self, grace: float) -> None:
        """From now on, give each login a refresh token, and replace it with each refresh."""
        self._settings = replace(
            self._settings, refresh_tokens="rotate", refresh_scope="", reuse_grace=grace
        )
        self._grants.change(self._settings)

    def _plan(self, order: _Order, times: int) -> None:
        with self._lock:
            self._orders.extend([order] * times)

    def _before(self) -> Response | None:
        kind = _KINDS.get(request.path.rstrip("/"))
        sent = request.get_json(silent=True) if request.is_json else request.form.to_dict()
        fields = sent if isinstance(sent, dict) else {}
        if kind == "poll" and fields.get("grant_type") == "refresh_token":
            kind = "refresh"
        g.directed = (kind, fields, self._clock())
        if kind == "poll":
            self._decide_by_number(str(fields.get("device_code") or fields.get("code") or ""))
        g.order = order = self._next(kind)
        if order is None or order.what == "cut":
            return None
        if order.what == "slow_down":
            return self._slow_down(fields)
        response = make_response(
            {"error": "temporarily_unavailable"} if order.body is None else order.body, order.status
        )
        if order.retry_after is not None:
            response.headers["Retry-After"] = f"{order.retry_after:g}"
        return response

    def _decide_by_number(self, device_code: str) -> None:
        if self.after_polls is None:
            return
        number, do = self.after_polls
        for login, polls in self.logins.log():
            if login.device_code == device_code and len(polls) >= number:
                self.decide(do, login.user_code)

    def _next(self, kind: Kind | None) -> _Order | None:
        with self._lock:
            found = next((order for order in self._orders if kind in order.to), None)
            if found:
                self._orders.remove(found)
            return found

    def _slow_down(self, fields: Mapping[str, Any]) -> Response:
        studio = "code" in fields
        code = str(fields.get("code" if studio else "device_code", ""))
        poll = self.logins.poll(code, "studio" if studio else "rfc8628")
        if poll:
            self.logins.slow_down(poll)
            poll.record.answer = "slow_down"
        return make_response({"detail" if studio else "error": "slow_down"}, 400)

    def _after(self, response: Response) -> Response:
        kind, fields, at = g.get("directed", (None, {}, 0.0))
        if kind is None:
            return response
        body = response.get_json(silent=True)
        body = body if isinstance(body, dict) else {}
        if kind == "code" and self.auto_approve and response.status_code == 200:
            self.logins.decide(str(body["user_code"]), Status.APPROVED)
        error = (body.get("error") or body.get("detail")) if response.status_code >= 400 else None
        order: _Order | None = g.order
        cut = order is not None and order.what == "cut"
        one = Seen(
            kind=kind, at=at, fields=fields, status=response.status_code, error=error, cut=cut
        )
        with self._lock:
            self._seen.append(one)
        if order is None or not cut:
            return response
        half = len(response.get_data()) // 2
        return self._faults.spoil(
            Fault(cut=half if order.length is None else order.length), response
        )
