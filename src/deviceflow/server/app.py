"""The web application: the parts put together, and the rules that hold for every answer."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

from flask import Flask, abort, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from deviceflow.server.control import create_control
from deviceflow.server.grants import Grants
from deviceflow.server.guesses import Guesses
from deviceflow.server.oauth import create_oauth
from deviceflow.server.pages import create_pages
from deviceflow.server.settings import DEFAULTS, MAX_BODY, Settings
from deviceflow.server.studio import create_studio
from deviceflow.untrusted import is_loopback

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
_FOR_PROGRAMS: Final = ("/api/", "/oauth/", "/.well-known/", "/control/")
# Flask writes to stderr where nobody listens to its logger.
_UNHEARD: Final = logging.NullHandler()


def create_app(settings: Settings = DEFAULTS, *, clock: Callable[[], float] = time.time) -> Flask:
    """Return the authorization server as a WSGI application.

    Args:
        settings: How it behaves.
        clock: Tells the time in seconds since the epoch. Lifetimes, intervals and the limit on
            guesses are counted by it.
    """
    logging.getLogger(__package__).addHandler(_UNHEARD)
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_NAME="deviceflow",
        SESSION_COOKIE_SAMESITE="Lax",
    )
    grants = Grants(settings, clock)
    guesses = Guesses(settings.guess_limit, settings.guess_window, clock)

    app.before_request(_refuse_foreign_names)
    app.register_blueprint(create_oauth(app, settings, grants))
    app.register_blueprint(create_studio(settings, grants))
    app.register_blueprint(create_pages(grants, guesses, clock))
    if settings.control:
        app.register_blueprint(create_control(grants))
    app.register_error_handler(HTTPException, _explain)
    app.after_request(_guard)
    return app


def _refuse_foreign_names() -> None:
    # Under DNS rebinding, the name of a foreign page leads here.
    host = _HOST.fullmatch(request.headers.get("Host", "").lower())
    if not host or not is_loopback(host["v6"] or host["name"]):
        abort(make_response("This server answers to loopback names only.\n", 400, _PLAIN))


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
