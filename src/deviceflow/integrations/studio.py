"""The implementation of `deviceflow.auth`.

Programs that use Studio's own client have tests that patch `requests.post`,
`requests.Session.post`, `time.sleep` and `webbrowser.open`. So these functions are looked up when
they are called, with the arguments that such tests compare. Further limits are set on the session.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from urllib3.exceptions import NewConnectionError

from deviceflow import errors
from deviceflow.client._sync import Client
from deviceflow.client.browser import open_page
from deviceflow.client.clock import default_clock
from deviceflow.core.flow import Flow
from deviceflow.core.sanitize import endpoint
from deviceflow.core.wire import Failure, Response, read_json
from deviceflow.errors import AuthorizationExpiredError, StudioAuthError
from deviceflow.providers.studio import DEFAULT_URL, Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.transports.requests import LimitedAdapter, read_limited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.login import Login
    from deviceflow.core.secret import Secret
    from deviceflow.core.wire import Request
    from deviceflow.providers.studio import DeviceLoginResponse

TIMEOUT: Final = 5
"""Seconds for one request, as Studio's own client has it."""

RETRIES: Final = 3
"""How often in a row `check_token_authentication` bears a lost connection."""

_KEPT: Final = 86400.0
"""Seconds after which a login that nobody asked for again is forgotten."""

DEFAULT_MESSAGE: Final = "Approve the login there, then come back: this program goes on by itself."

# What `requests` raises: its own exceptions, which are subclasses of OSError, and others.
_TROUBLE: Final = (OSError, ValueError, urllib3.exceptions.HTTPError)

_NOT_SENT: Final = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
)

_CONNECTION_LOST: Final = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)


class _ProgramClock:
    """The system's clock, whose `sleep` is the program's `time.sleep`.

    A test may have patched `time.sleep` to return at once. The clock then counts the requested
    seconds as passed. Otherwise, a loop that waits for a flow to be due would spin.
    """

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        return time.time() + self._skipped

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        wall, steady = self.time() + seconds, self.monotonic() + seconds
        time.sleep(seconds)
        # No more than was asked for: a wall clock that was set back meanwhile skipped nothing.
        short = max(0.0, wall - self.time(), steady - self.monotonic())
        self._skipped += min(short, seconds)


_STORE: Final = MemoryStore()
_CLOCK: Final = _ProgramClock()
_flow_of_code: Final[dict[str, str]] = {}


class _Wire:
    """Sends as Studio's own client does, and keeps what came for the errors that are raised.

    Attributes:
        status: The status that came last; None where nothing came.
        troubles: How many requests in a row nothing came of.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.troubles: int = 0
        self._url = ""
        self._body = b""
        self._trouble: requests.RequestException | None = None

    def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ARG002
        """Send the request, and keep what came of it."""
        self.status = self._trouble = None
        self._url = request.url
        try:
            response = _post(request)
        except _TROUBLE as failed:
            self._trouble = _bare(failed, request.url)
            self.troubles += 1
            timed_out = isinstance(failed, requests.Timeout)
            return Failure("timeout" if timed_out else "connection", sent=_was_sent(failed))
        self.status, self.troubles = response.status_code, 0
        self._body = response.content or b""
        if not self._body:
            # Tests' responses have a `json()`, to be asked once, and nothing behind it.
            with suppress(ValueError):
                self._body = json.dumps(response.json()).encode()
        return Response(response.status_code, response.headers, self._body)

    def answer(self) -> Any:
        """Return what came last, as JSON, whatever it is."""
        return read_json(self._body)

    def close(self) -> None:
        """Keep nothing open."""

    def error(self, login: Login) -> requests.RequestException:
        """Return what `requests` would raise for what came last, without what may be secret.

        The response that hangs on it has the status and the server's cleaned words as `detail`.
        Its reason phrase, headers and the rest of its body may hold a code or a token.
        """
        if self.status is None:
            return self._trouble or requests.RequestException(f"The login is {login.state}.")
        about = requests.Request("POST", self._url).prepare()
        shown = requests.Response()
        shown.status_code, shown.url, shown.request = self.status, self._url, about
        shown.reason = http.client.responses.get(self.status, "")
        shown.headers["Content-Type"] = "application/json"
        shown._content = json.dumps({"detail": login.detail}).encode()  # noqa: SLF001
        without = " with neither a code nor a token" if self.status < 400 else ""
        detail = f" It detail: {login.detail}." if login.detail else ""
        return requests.HTTPError(
            f"{self.status} {shown.reason}{without} from {self._url}.{detail}", response=shown
        )


class StudioLogin:
    """A login that Studio has given a code for.

    Attributes:
        answer: Studio's answer, unchanged; it holds the device code.
        token_name: What the token is called.
    """

    def __init__(
        self, client: Client, wire: _Wire, login: Login, answer: DeviceLoginResponse
    ) -> None:
        self._client = client
        self._wire = wire
        self._login = login
        self.answer = answer
        self.token_name: str = str(dict(login.extra).get("token_name") or "")

    def show(self, *, open_browser: bool, message: str | None) -> None:
        """Tell the person on stdout where to go, and open the page there if wanted."""
        code, complete = self._login.user_code, self._login.verification_uri_complete
        page = complete or self._login.verification_uri
        with _or_give_up(self._client, self._login.id):
            if page is None:  # a person may know where to enter it all the same
                print(
                    f"{self._login.provider.server} sent no usable address. Find its page for"
                    f" device logins and enter this code there:\n\n{code}"
                )
            else:
                doing = "Opening this page to log in" if open_browser else "Log in on this page"
                what = "check that it shows" if complete else "enter"
                print(f"{doing}. Please {what} the code:\n\n{page}\n{code}")
            print(f"\n{message or DEFAULT_MESSAGE}", flush=True)
            if open_browser and not open_page(page):
                print(
                    "\nNo web browser could be opened here. Open the page above on any device.",
                    file=sys.stderr,
                )

    def wait(self) -> Secret:
        """Return the token once the login is approved."""
        failure: Exception
        try:
            return self._client.wait_for_token(self._login.id).access_token
        except errors.ExpiredError as expired:
            failure = AuthorizationExpiredError(
                expired.message, flow_id=expired.flow_id, state=expired.state, hint=expired.hint
            )
        except errors.RejectedError:
            failure = self._wire.error(self._client.get(self._login.id))
        except errors.DeviceFlowError as ended:
            failure = _studio_error(ended)
        finally:
            _forget(self._login.id)
        raise failure


def start(base_url: str | None, **request: Any) -> StudioLogin:
    """Ask Studio for a device code, once."""
    _forget_stale()
    client, wire = _client()
    given = {name: value for name, value in request.items() if value is not None}
    login = client.create(Studio(base_url or DEFAULT_URL, allow_http=True), **given)
    with _or_give_up(client, login.id):
        login = client.step(login.id)
        stored = _STORE.load(Flow, login.id)
        code = stored and stored.record.device_code
        if code is None:
            raise _no_code(wire, login)
        _flow_of_code[code.fingerprint()] = login.id
    return StudioLogin(client, wire, login, wire.answer())


def check(uri: str, code: Secret) -> Secret | None:
    """Poll until it is known whether the login of that code was approved."""
    client, wire = _client()
    login = _begun(client, uri, code)

    def watch(stepped: Login) -> None:
        if stepped.failures and (wire.status is not None or wire.troubles > RETRIES):
            raise wire.error(stepped)

    failure: Exception | None = None
    token: Secret | None = None
    try:
        token = client.wait_for_token(login.id, on_step=watch).access_token
    except errors.ExpiredError:
        pass
    except (errors.RejectedError, errors.DeniedError):
        failure = wire.error(client.get(login.id))
    except errors.UnknownLoginError:
        failure = StudioAuthError(
            "Another call with the same code ended this login and returned its result.",
            hint="Wait for each code in one place only.",
        )
    except errors.DeviceFlowError as ended:
        failure = _studio_error(ended)
    finally:
        # Another thread that waited for the same login may have forgotten it.
        with suppress(errors.UnknownLoginError):
            if client.get(login.id).state.ended:
                _forget(login.id)
    if failure is not None:
        raise failure
    return token


def _client() -> tuple[Client, _Wire]:
    wire = _Wire()
    return Client(_STORE, transport=wire, clock=default_clock(_CLOCK), deadline=TIMEOUT), wire


def _begun(client: Client, uri: str, code: Secret) -> Login:
    """Return the login that was begun with this code in this process, or adopt the code."""
    endpoint(uri, allow_http=True)
    if not _is_text(code.reveal()):
        raise ValueError("device_code must be a string that is not empty.")
    fingerprint = code.fingerprint()
    with suppress(errors.UnknownLoginError):
        login = client.get(_flow_of_code.get(fingerprint, ""))
        if login.token_endpoint == uri:
            return login
        client.cancel(login.id, "its code is polled at another address")
        _forget(login.id)
    origin = urlunsplit(urlsplit(uri)._replace(path="", query="", fragment=""))
    login = client.adopt(Studio(origin, allow_http=True), token_endpoint=uri, device_code=code)
    _flow_of_code[fingerprint] = login.id
    return login


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() != b""
    except UnicodeEncodeError:
        return False


@contextmanager
def _or_give_up(client: Client, flow_id: str) -> Iterator[None]:
    """Cancel and remove the flow if the block fails, because nobody could continue it."""
    try:
        yield
    except BaseException:
        client.cancel(flow_id, "the login could not be begun")
        _forget(flow_id)
        raise


def _forget(flow_id: str) -> None:
    for fingerprint, known in list(_flow_of_code.items()):
        if known == flow_id:
            _flow_of_code.pop(fingerprint, None)
    _STORE.remove(flow_id)


def _forget_stale() -> None:
    for flow_id in list(_flow_of_code.values()):
        stored = _STORE.load(Flow, flow_id)
        if stored and stored.record.due_at + _KEPT < default_clock(_CLOCK).time():
            _forget(flow_id)


def _post(request: Request) -> requests.Response:
    """Send a request for a code by `requests.post`, a poll by `requests.Session.post`.

    Where `requests.post` is nobody's replacement, what it does is done here, within limits.
    """
    body = json.loads(request.body)
    first = request.purpose == "code"
    headers = {"Content-type": "application/json"}
    if first and not _is_the_librarys(requests.post):
        return requests.post(url=request.url, json=body, headers=headers, timeout=TIMEOUT)
    with requests.Session() as session:
        adapter = LimitedAdapter()
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.hooks["response"].append(read_limited)
        given: Any = {"json": body, "timeout": TIMEOUT, "allow_redirects": False}
        if first:
            # As `requests.post` does, and not by `Session.post`, which tests patch for polls.
            return session.request("POST", request.url, headers=headers, **given)
        return session.post(request.url, **given)


def _is_the_librarys(post: object) -> bool:
    # By where the function was made: a test may have replaced it before this module was loaded.
    return getattr(post, "__globals__", None) is vars(requests.api)


def _bare(failed: Exception, url: str) -> requests.RequestException:
    """Return an error like `failed` without the request, whose body holds the device code.

    Nor does it quote the server, which may have echoed it.
    """
    kind = type(failed) if isinstance(failed, requests.RequestException) else None
    message = f"{url} sent what cannot be understood." if _quotes(failed) else str(failed)
    about = requests.Request("POST", url).prepare()
    try:
        return (kind or requests.RequestException)(message, request=about)
    except TypeError:
        return requests.RequestException(message, request=about)


def _quotes(failed: BaseException) -> bool:
    """Tell whether what `failed` says may be in the server's words, as of a bad status line."""
    if isinstance(failed, (http.client.HTTPException, urllib3.exceptions.DecodeError, ValueError)):
        return not isinstance(failed, (OSError, urllib3.exceptions.LocationValueError))
    return any(_quotes(inner) for inner in failed.args if isinstance(inner, BaseException))


def _was_sent(failed: Exception) -> bool:
    reason = getattr(failed.args[0], "reason", None) if failed.args else None
    if isinstance(reason, urllib3.exceptions.SSLError) and reason.args:
        # The connection was lost, perhaps long after the handshake.
        return isinstance(reason.args[0], _CONNECTION_LOST)
    return not isinstance(failed, _NOT_SENT) and not isinstance(reason, NewConnectionError)


def _no_code(wire: _Wire, login: Login) -> requests.RequestException:
    if wire.status != 200:
        return wire.error(login)
    return requests.exceptions.InvalidJSONError(
        f"What {login.provider.server} answered is no device code: {login.detail or 'no JSON'}."
    )


def _studio_error(ended: errors.DeviceFlowError) -> StudioAuthError:
    return StudioAuthError(
        ended.message,
        flow_id=ended.flow_id,
        state=ended.state,
        reason=ended.reason,
        hint=ended.hint,
    )
