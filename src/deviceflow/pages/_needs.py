"""Which request is answered by which page.

`GET` and `HEAD` change nothing, so the previews of links that chat services and mail scanners fetch
request no code. A `POST` comes from the page's own button: it carries the cookie's value, and a
browser says that it comes from the same origin.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit
from weakref import WeakValueDictionary

from deviceflow.audit.origin import origin
from deviceflow.client import grant_page
from deviceflow.core.notice import PATH
from deviceflow.core.sanitize import is_loopback
from deviceflow.core.secret import Secret
from deviceflow.core.states import NeedEnd
from deviceflow.errors import DeviceFlowError, ServerError
from deviceflow.pages import _html
from deviceflow.pages._limits import ClientLimits, Limit, network_of
from deviceflow.pages._server import Answer, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.client._async import AsyncClient
    from deviceflow.client.grant_page import NeedPage
    from deviceflow.pages._server import PageRequest

COOKIE: Final = "deviceflow-need"

_LINK: Final = re.compile(r"[A-Za-z0-9_-]{64}")
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_LOGIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}
_STATIC: Final = {
    "page.css": ("server/static/page.css", "text/css; charset=utf-8"),
    "icon.svg": ("server/static/icon.svg", "image/svg+xml"),
    "need.css": ("pages/need.css", "text/css; charset=utf-8"),
    "need.js": ("pages/need.js", "text/javascript; charset=utf-8"),
}
_MOST_FIELDS: Final = 10
_REQUESTS_OF_EACH: Final = (100, 0.05)
_REQUESTS: Final = (400, 0.0125)
_CODES: Final = (20, 15.0)


class NeedPages:
    """The pages of the needs of a client's store.

    Args:
        client: Returns the client that is in use.
        public_url: Where people reach the pages. A path in it is part of the pages' paths.
        host: The address that is listened at, which a proxy may name as the host.
        on_problem: Called where this process cannot request a code.
        clock: What rates are limited by, in seconds.
    """

    def __init__(
        self,
        client: Callable[[], AsyncClient],
        public_url: str,
        *,
        host: str = "",
        on_problem: Callable[[Exception], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        parts = urlsplit(public_url)
        self._base = f"{parts.path.rstrip('/')}/{PATH}/"
        self._cookie_path = parts.path.rstrip("/") or "/"
        self._secure = parts.scheme == "https"
        self._origin = f"{parts.scheme}://{parts.netloc}".lower()
        self._hosts = {(parts.hostname or "").lower(), host.lower()}
        self._on_problem = on_problem
        self._locks = WeakValueDictionary[str, asyncio.Lock]()
        self._requests = ClientLimits(_REQUESTS_OF_EACH, _REQUESTS, clock)
        self._codes = Limit(*_CODES, clock)

    async def __call__(self, request: PageRequest) -> Answer:
        """Answer a request."""
        if not self._is_for_us(request.headers["host"]):
            return plain(421)
        if request.method not in ("GET", "HEAD", "POST"):
            return plain(405, Allow="GET, HEAD, POST")
        if not self._requests.take(network_of(_address(request))):
            return _answer(429, _html.busy(), {"Retry-After": "5"})
        try:
            parts = urlsplit(request.target)
            query = _fields(parts.query)
        except ValueError:
            return plain(400)
        name = parts.path.removeprefix(self._base)
        if not parts.path.startswith(self._base) or parts.netloc:
            return _answer(404, _html.unknown())
        if name in _STATIC:
            return _static(name) if request.method != "POST" else plain(405, Allow="GET, HEAD")
        if _LINK.fullmatch(name) is None:
            return _answer(404, _html.unknown())
        link = Secret(name)
        if request.method == "POST":
            # One after the other: those who click at once are given one code.
            async with self._locks.setdefault(name, asyncio.Lock()):
                return await self._request_code(request, link)
        return await self._show(request, link, query)

    def _is_for_us(self, host: str) -> bool:
        """Tell whether a host is ours. With DNS rebinding, another site's name leads here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.lower() in self._hosts - {""} or is_loopback(name.lower())

    # Looking.

    async def _show(
        self, request: PageRequest, link: Secret, query: Mapping[str, list[str]]
    ) -> Answer:
        login_id = query.get("login", [""])[0]
        known = login_id if _LOGIN.fullmatch(login_id) else None
        client = self._client()
        page: NeedPage | None = await client._run(grant_page.look, link, known)
        if page is None:
            return _answer(404, _html.unknown())
        if not page.need.lasts:
            own = page.need.end is NeedEnd.LOGGED_IN and known == page.login_id
            return _answer(200, _html.done(page)) if own else _answer(410, _html.not_needed(page))
        token, cookie = self._token(request)
        return self._page_of(page, token, cookie, query)

    def _page_of(
        self,
        page: NeedPage,
        token: str,
        cookie: Mapping[str, str],
        query: Mapping[str, list[str]],
    ) -> Answer:
        login = page.login
        if login is None:
            if page.wait_seconds:
                return _answer(200, _html.limited(page, page.wait_seconds))
            return _answer(200, _html.ask(page, token, started="started" in query), cookie)
        if login.has_token:
            return _answer(200, _html.almost_done(page, login))
        over = login.expires_at is not None and login.expires_at <= page.now
        if login.state.ended or over:
            return _answer(200, _html.failed(page, login, token), cookie)
        return _answer(200, (_html.go_on if "go" in query else _html.waiting)(page, login))

    # The button.

    async def _request_code(self, request: PageRequest, link: Secret) -> Answer:
        client = self._client()
        page: NeedPage | None = await client._run(grant_page.look, link)
        if page is None:
            return _answer(404, _html.unknown())
        if not page.need.lasts:
            return _answer(410, _html.not_needed(page))
        if not self._is_own_form(request):
            return _answer(403, _html.stale())
        if page.login is None and not page.wait_seconds and not self._codes.take():
            return _answer(429, _html.busy(), {"Retry-After": "15"})
        after: NeedPage | None
        try:
            with origin(address=_address(request)):
                after = await client._run(grant_page.request_code, link)
        except DeviceFlowError as problem:
            return self._no_code(page, problem, request)
        if after is None or not after.need.lasts:
            return _answer(303, "", {"Location": "?"})
        if after.login is None:
            wait = after.wait_seconds
            return _answer(429, _html.limited(after, wait), {"Retry-After": str(int(wait) + 1)})
        return _answer(303, "", {"Location": f"?login={after.login.id}&go=1"})

    def _no_code(self, page: NeedPage, problem: DeviceFlowError, request: PageRequest) -> Answer:
        token, cookie = self._token(request)
        if isinstance(problem, ServerError):
            return _answer(502, _html.no_code(page, problem.message, token), cookie)
        self._on_problem(problem)
        why = "This server cannot do that at the moment: its log says why."
        return _answer(503, _html.no_code(page, why, token), cookie)

    def _is_own_form(self, request: PageRequest) -> bool:
        """Tell whether the page's own form was sent, and not that of another site."""
        headers = request.headers
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        # `Referrer-Policy: no-referrer` makes the origin `null`.
        origin = headers.get("origin", "null").lower()
        own = {"null", self._origin, f"http://{headers['host']}".lower()}
        if origin not in own:
            return False
        try:
            sent = _fields(request.body.decode("latin-1")).get("csrf", [""])[0]
        except ValueError:
            return False
        kept = _cookie(request)
        return bool(kept) and hmac.compare_digest(sent.encode(), kept.encode())

    def _token(self, request: PageRequest) -> tuple[str, Mapping[str, str]]:
        """Return the cookie's value, which the form repeats, and the header that sets it."""
        kept = _cookie(request)
        if kept:
            return kept, {}
        token = secrets.token_hex(16)
        flags = f"Path={self._cookie_path}; HttpOnly; SameSite=Strict"
        secure = "; Secure" if self._secure else ""
        return token, {"Set-Cookie": f"{COOKIE}={token}; {flags}{secure}"}


def _address(request: PageRequest) -> str:
    """Return the address that a request came from.

    A proxy on this machine appends its client's address to `X-Forwarded-For`. From elsewhere, the
    header is not believed.
    """
    if is_loopback(request.peer):
        named = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        if network_of(named):
            return named
    return request.peer


def _fields(text: str) -> dict[str, list[str]]:
    """Return the fields of a query or a form.

    Raises:
        ValueError: There are more than any page of ours sends.
    """
    return parse_qs(text, max_num_fields=_MOST_FIELDS)


def _cookie(request: PageRequest) -> str:
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and _TOKEN.fullmatch(value):
            return value
    return ""


def _answer(status: int, page: str, headers: Mapping[str, str] | None = None) -> Answer:
    fields: dict[str, Any] = {"Content-Type": "text/html; charset=utf-8", **_HEADERS}
    return Answer(status, fields | {**(headers or {})}, page.encode())


def _static(name: str) -> Answer:
    path, kind = _STATIC[name]
    fields = {**_HEADERS, "Content-Type": kind, "Cache-Control": "max-age=3600"}
    return Answer(200, fields, files("deviceflow").joinpath(path).read_bytes())
