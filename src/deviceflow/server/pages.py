"""The pages where a person enters the code, reads who asks for what, and approves or denies."""

from __future__ import annotations

import hmac
import math
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, make_response, redirect, render_template, request, session, url_for

from deviceflow.core.sanitize import printable
from deviceflow.server.pending import Status, normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask.typing import ResponseReturnValue

    from deviceflow.server.guesses import Guesses
    from deviceflow.server.pending import Decision, PendingLogin, PendingLogins

_MINUTE: Final = 60
_DECISIONS: Final[Mapping[str, Decision]] = {"approve": Status.APPROVED, "deny": Status.DENIED}
_APPROVED: Final = "This code has been approved already, and it works only once. "
_ENDED: Final = {
    Status.EXPIRED: "This code has expired. Start the login again in your program.",
    Status.DENIED: "This login has been denied already. Start it again in your program"
    " if that was a mistake.",
    Status.APPROVED: _APPROVED + "Your program should notice in a few seconds.",
    Status.USED: _APPROVED + "If your program still waits, start the login again.",
}


def create_pages(logins: PendingLogins, guesses: Guesses, clock: Callable[[], float]) -> Blueprint:
    """Return the verification pages (RFC 8628 section 3.3). They need no JavaScript.

    The server has one user and no sign-in: whoever can open its pages can approve.
    """
    pages = Blueprint("pages", __name__)
    views = _Pages(logins, guesses, clock)
    pages.before_request(_refuse_forgeries)
    pages.register_error_handler(_TryAgain, _try_again)
    pages.add_url_rule("/", "home", _home)
    pages.add_url_rule("/device", "enter", _enter)
    pages.add_url_rule("/auth/device-login", "enter_studio", _enter)
    pages.add_url_rule("/device", "confirm", views.confirm, methods=["POST"])
    pages.add_url_rule("/device/decision", "decide", views.decide, methods=["POST"])
    pages.add_url_rule("/device/done", "done", _done)
    return pages


class _TryAgain(Exception):  # noqa: N818  # an answer, not a fault
    def __init__(self, why: str, status: int = 400, *, wait: int = 0) -> None:
        super().__init__(why)
        self.status = status
        self.wait = wait


def _try_again(refusal: _TryAgain) -> ResponseReturnValue:
    response = make_response(_form(error=str(refusal)), refusal.status)
    if refusal.wait:
        response.headers["Retry-After"] = str(refusal.wait)
    return response


def _refuse_forgeries() -> None:
    # The CSRF token is the only check: browsers send `Origin: null` from a page with
    # `Referrer-Policy: no-referrer`.
    sent, expected = request.form.get("csrf_token", ""), session.get("csrf", "")
    known = expected and hmac.compare_digest(sent.encode(), expected.encode())
    if request.method == "POST" and not known:
        raise _TryAgain("This page was out of date, or your browser did not keep its cookie.", 403)


def _home() -> ResponseReturnValue:
    return redirect(url_for(".enter"))


def _enter() -> ResponseReturnValue:
    # A code in the link only fills in the field. An attacker may have sent the link, so the person
    # must confirm the code (RFC 8628 section 5.4).
    return _form()


class _Pages:
    def __init__(self, logins: PendingLogins, guesses: Guesses, clock: Callable[[], float]) -> None:
        self._logins = logins
        self._guesses = guesses
        self._clock = clock

    def confirm(self) -> ResponseReturnValue:
        login = self._entered()
        if login.status is not Status.WAITING:
            raise _TryAgain(_ENDED[login.status])
        return render_template(
            "confirm.html", csrf_token=_csrf_token(), login=login, **_times(login, self._clock())
        )

    def decide(self) -> ResponseReturnValue:
        wanted = _DECISIONS.get(request.form.get("decision", ""))
        if wanted is None:
            raise _TryAgain("Please approve or deny the login.")
        self._logins.decide(self._entered().user_code, wanted)
        login = self._entered()
        # A double click repeats the decision, and the program may have used the code by then.
        if login.status is not wanted and (login.status, wanted) != (Status.USED, Status.APPROVED):
            raise _TryAgain(_ENDED[login.status])
        session["done"] = [wanted, login.asked.client]
        return redirect(url_for(".done"), 303)

    def _entered(self) -> PendingLogin:
        if wait := math.ceil(self._guesses.wait()):
            seconds = "1 second" if wait == 1 else f"{wait} seconds"
            raise _TryAgain(
                f"Too many wrong codes. Wait {seconds}, then try again.", 429, wait=wait
            )
        user_code = request.form.get("user_code", "")
        if not normalised(user_code):
            raise _TryAgain("Type the code that your program displays.")
        login = self._logins.find(user_code)
        if login is None:
            self._guesses.wrong()
            raise _TryAgain("No login has this code. Compare it with what your program displays.")
        return login


def _done() -> ResponseReturnValue:
    if "done" not in session:
        return redirect(url_for(".enter"))
    decision, client = session["done"]
    return render_template("done.html", approved=decision == Status.APPROVED, client=client)


def _form(error: str | None = None) -> str:
    query = request.args.get("user_code") or request.args.get("code") or ""
    return render_template(
        "enter.html",
        csrf_token=_csrf_token(),
        user_code=printable(request.form.get("user_code", query), 40),
        linked=bool(query),
        error=error,
    )


def _csrf_token() -> str:
    token: str = session.setdefault("csrf", secrets.token_urlsafe(32))
    return token


def _times(login: PendingLogin, now: float) -> dict[str, Any]:
    age = now - login.asked_at
    return {
        "started": datetime.fromtimestamp(login.asked_at, UTC).astimezone(),
        "ago": "just now" if age < _MINUTE else f"{_minutes(age)} ago",
        "left": _minutes(login.expires_at - now),
    }


def _minutes(seconds: float) -> str:
    minutes = int(seconds / _MINUTE)
    if minutes < 1:
        return "less than a minute"
    return "1 minute" if minutes == 1 else f"{minutes} minutes"
