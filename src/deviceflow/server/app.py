"""The web application: all endpoints, and the rules that apply to every response."""

from __future__ import annotations

import logging
import math
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, abort, make_response, render_template, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

from deviceflow.core.sanitize import is_loopback
from deviceflow.server.control import create_control
from deviceflow.server.control_grants import create_grant_control
from deviceflow.server.director import Director
from deviceflow.server.faults import Faults
from deviceflow.server.grants import Grants
from deviceflow.server.guesses import Guesses
from deviceflow.server.oauth import create_oauth
from deviceflow.server.pages import create_pages
from deviceflow.server.pending import PendingLogins, TooManyLoginsError
from deviceflow.server.settings import DEFAULTS, MAX_BODY, Settings
from deviceflow.server.studio import create_studio

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response
    from flask.typing import ResponseReturnValue

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Pragma": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9.-]+))(?::[0-9]+)?")
_DEEPEST: Final = 32
_FOR_PROGRAMS: Final = ("/api/", "/oauth/", "/.well-known/", "/control/")
# Without a handler, Flask's logger writes to stderr.
_UNHEARD: Final = logging.NullHandler()


def create_app(settings: Settings = DEFAULTS, *, clock: Callable[[], float] = time.time) -> Flask:
    """Return the authorization server as a WSGI application.

    Args:
        settings: How the server behaves.
        clock: Returns the time in seconds since the epoch. Lifetimes, intervals and the limit on
            guesses use this clock.
    """
    return _create(settings, clock)[0]


def create_directed(settings: Settings, clock: Callable[[], float]) -> tuple[Flask, Director]:
    """Return the application, and what directs it for a test in the same process."""
    app, logins, grants, faults = _create(settings, clock)
    return app, Director(app, settings, logins, grants, faults, clock)


def _create(
    settings: Settings, clock: Callable[[], float]
) -> tuple[Flask, PendingLogins, Grants, Faults]:
    logging.getLogger(__package__).addHandler(_UNHEARD)
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_NAME="deviceflow",
        SESSION_COOKIE_SAMESITE="Lax",
    )
    logins = PendingLogins(settings, clock)
    grants, faults = Grants(settings, clock), Faults()
    guesses = Guesses(settings.guess_limit, settings.guess_window, clock)

    app.json = _JSON(app)
    app.before_request(_refuse_foreign_names)
    app.before_request(_refuse_foreign_pages)
    app.register_blueprint(create_oauth(app, settings, logins, grants, faults))
    app.register_blueprint(create_studio(settings, logins, grants))
    app.register_blueprint(create_pages(logins, guesses, clock))
    if settings.control:
        app.register_blueprint(create_control(logins))
        app.register_blueprint(create_grant_control(grants, faults))
    app.register_error_handler(HTTPException, _explain)
    app.register_error_handler(TooManyLoginsError, _ask_to_retry)
    app.after_request(_guard)
    return app, logins, grants, faults


def _refuse_foreign_names() -> None:
    # With DNS rebinding, the host name of an attacker's page resolves to this machine.
    host = _HOST.fullmatch(request.headers.get("Host", "").lower())
    if not host or not is_loopback(host["v6"] or host["name"]):
        why = "This server accepts requests for loopback host names only, such as localhost.\n"
        abort(make_response(why, 400, _PLAIN))


def _refuse_foreign_pages() -> None:
    # A browser sends a form to any server, and names the page's origin. Programs send no origin.
    if not request.path.startswith(_FOR_PROGRAMS):
        return
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin", request.host_url.rstrip("/"))
    if site not in ("none", "same-origin") or origin != request.host_url.rstrip("/"):
        why = "Cross-origin requests are refused. Send the request from a program."
        abort(make_response({"error": "access_denied", "detail": why}, 403))


def _ask_to_retry(refusal: TooManyLoginsError) -> ResponseReturnValue:
    response = make_response(
        {"error": "temporarily_unavailable", "detail": str(refusal)},
        503,
    )
    response.headers["Retry-After"] = str(max(1, math.ceil(refusal.wait)))
    return response


class _JSON(DefaultJSONProvider):
    """Refuses deeply nested JSON, on which recursive code fails later."""

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        with suppress(RecursionError):
            read = super().loads(s, **kwargs)
            if _fits(read, _DEEPEST):
                return read
        raise ValueError("The JSON is nested too deeply.")


def _fits(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not inner or (levels > 0 and all(_fits(one, levels - 1) for one in inner))


def _explain(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if request.path.startswith(_FOR_PROGRAMS):
        kind = "server_error" if status >= 500 else "invalid_request"
        response = make_response({"error": kind, "detail": error.name}, status)
    else:
        response = make_response(render_template("error.html", error=error), status)
    response.headers.extend(header for header in error.get_headers() if header[0] == "Allow")
    return response


def _guard(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response
