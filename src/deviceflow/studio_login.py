"""What stands behind the three functions of `deviceflow.auth`: the engine, under their contract.

Programs that use Studio's own client have tests that patch `requests.post`,
`requests.Session.post`, `time.sleep` and `webbrowser.open`. So these are looked up when they are
called, with the arguments that such tests compare; further limits are the session's.
"""

from __future__ import annotations

import io
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import requests
from urllib3.exceptions import NewConnectionError

from deviceflow import errors
from deviceflow.browser import open_page
from deviceflow.client import Client
from deviceflow.errors import AuthorizationExpiredError, StudioAuthError
from deviceflow.messages import Failure, Response
from deviceflow.providers.studio import DEFAULT_URL, Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.transport import LimitedAdapter, read_limited
from deviceflow.untrusted import printable

if TYPE_CHECKING:
    import threading

    from deviceflow.flow import Flow
    from deviceflow.messages import Request
    from deviceflow.providers.studio import DeviceLoginResponse
    from deviceflow.secret import Secret
    from deviceflow.steps import Step

TIMEOUT: Final = 5
"""Seconds for one request, as Studio's own client has it."""

RETRIES: Final = 3
"""How often in a row `check_token_authentication` bears a lost connection."""

_KEPT: Final = 86400.0
"""Seconds after which a login that was begun and never asked for again is forgotten."""

DEFAULT_MESSAGE: Final = "Approve the login there, then come back: this program goes on by itself."

_HARMLESS_HEADERS: Final = frozenset({"Content-Type", "Date", "Retry-After"})

_NOT_SENT: Final = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
)


class _ProgramClock:
    """The system's clock, slept on by `time.sleep` as the program has it.

    Where a test has patched that to return at once, the time that it did not take counts as
    passed all the same; or whoever waits until a flow is due would spin.
    """

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        return time.time() + self._skipped

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float, wake: threading.Event) -> None:
        if wake.is_set() or seconds <= 0:
            return
        wall, steady = self.time() + seconds, self.monotonic() + seconds
        time.sleep(seconds)
        self._skipped += max(0.0, wall - self.time(), steady - self.monotonic())


_STORE: Final = MemoryStore()
_CLOCK: Final = _ProgramClock()
_flow_of_code: Final[dict[str, str]] = {}


class _Wire:
    """Sends as Studio's own client does, and keeps what came for the errors that are raised."""

    def __init__(self) -> None:
        self.response: requests.Response | None = None
        self.trouble: requests.RequestException | None = None

    def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ARG002
        """Send by `requests.post` for a code, by `requests.Session.post` for the token."""
        self.response = self.trouble = None
        try:
            self.response = response = _post(request)
        except requests.RequestException as failed:
            self.trouble = _bare(failed, request.url)
            timed_out = isinstance(failed, requests.Timeout)
            return Failure("timeout" if timed_out else "connection", sent=_was_sent(failed))
        return Response(response.status_code, response.headers, _body(response))

    def close(self) -> None:
        """Keep nothing open."""

    def error(self, flow: Flow, code: Secret | None = None) -> requests.RequestException:
        """Return what `requests` would raise for what came last, without the secrets in it.

        Args:
            flow: The login, for the server's words in it.
            code: The device code, which the server may have echoed.
        """
        if self.response is None:
            return self.trouble or requests.RequestException(f"The login is {flow.state}.")
        came, shown = self.response, requests.Response()
        url = came.url or flow.provider.issuer
        body = _body(came)
        if came.status_code < 400:
            body = b""  # it may hold a token in a form that was not understood
        elif code is not None:
            body = body.replace(code.reveal().encode(), b"<secret>")
        shown.status_code, shown.url, shown.raw = came.status_code, url, io.BytesIO(body)
        shown.reason = printable(came.reason or "", 100)
        shown.headers.update({k: v for k, v in came.headers.items() if k in _HARMLESS_HEADERS})
        what = "without a token " if came.status_code < 400 else ""
        said = f" It said: {flow.detail}." if flow.detail else ""
        return requests.HTTPError(
            f"{came.status_code} {shown.reason} {what}from {url}.{said}",
            response=shown,
            request=requests.Request("POST", url).prepare(),
        )


class StudioLogin:
    """A login that Studio has given a code for.

    Attributes:
        answer: Studio's answer, unchanged; it holds the device code.
        token_name: What the token is called.
    """

    def __init__(
        self, client: Client, wire: _Wire, flow: Flow, answer: DeviceLoginResponse
    ) -> None:
        self._client = client
        self._wire = wire
        self._flow = flow
        self.answer = answer
        self.token_name = str(dict(flow.extra).get("token_name") or "")

    def show(self, *, open_browser: bool, message: str | None) -> None:
        """Tell the person on stdout where to go, and open the page there if wanted."""
        page = self._flow.verification_uri_complete
        shown = printable(page or "", 2000)
        print("Opening this page to log in:" if open_browser else "Log in on this page:", shown)
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
            return self._client.wait(self._flow.id).access_token
        except errors.ExpiredError as expired:
            failure = AuthorizationExpiredError(
                expired.message, flow_id=expired.flow_id, state=expired.state, hint=expired.hint
            )
        except errors.RejectedError:
            failure = self._wire.error(self._client.get(self._flow.id))
        except errors.DeviceFlowError as ended:
            failure = _studio_error(ended)
        finally:
            _forget(self._flow)
        raise failure


def start(base_url: str | None, **request: Any) -> StudioLogin:
    """Ask Studio for a device code, once."""
    _forget_stale()
    client, wire = _client()
    given = {name: value for name, value in request.items() if value is not None}
    flow = client.create(Studio(base_url or DEFAULT_URL, allow_http=True), **given)
    client.step(flow.id)
    flow = client.get(flow.id)
    if flow.device_code is None or wire.response is None:
        client.cancel(flow.id, "the first request failed")
        _forget(flow)
        raise _no_code(wire, flow)
    _flow_of_code[flow.device_code.fingerprint()] = flow.id
    return StudioLogin(client, wire, flow, wire.response.json())


def check(uri: str, code: Secret) -> Secret | None:
    """Poll until it is known whether the login of that code was approved."""
    client, wire = _client()
    flow = _begun(client, uri, code)

    def watch(done: Step) -> None:
        stands = client.get(done.flow_id)
        if stands.failures and (wire.response is not None or stands.failures > RETRIES):
            raise wire.error(stands, code)

    failure: Exception | None = None
    token: Secret | None = None
    try:
        token = client.wait(flow.id, on_step=watch).access_token
    except errors.ExpiredError:
        pass
    except (errors.RejectedError, errors.DeniedError):
        failure = wire.error(client.get(flow.id), code)
    except errors.DeviceFlowError as ended:
        failure = _studio_error(ended)
    finally:
        if client.get(flow.id).state.ended:
            _forget(flow)
    if failure is not None:
        raise failure
    return token


def _client() -> tuple[Client, _Wire]:
    wire = _Wire()
    return Client(_STORE, transport=wire, clock=_CLOCK, deadline=TIMEOUT), wire


def _begun(client: Client, uri: str, code: Secret) -> Flow:
    """Return the flow that was begun with this code in this process, or adopt the code."""
    fingerprint = code.fingerprint()
    flow_id = _flow_of_code.get(fingerprint)
    if flow_id is not None:
        flow = client.get(flow_id)
        if flow.token_endpoint == uri:
            return flow
    origin = urlunsplit(urlsplit(uri)._replace(path="", query="", fragment=""))
    flow = client.adopt(Studio(origin, allow_http=True), token_endpoint=uri, device_code=code)
    _flow_of_code[fingerprint] = flow.id
    return flow


def _forget(flow: Flow) -> None:
    _STORE.remove(flow.id)
    for fingerprint, flow_id in list(_flow_of_code.items()):
        if flow_id == flow.id:
            _flow_of_code.pop(fingerprint, None)


def _forget_stale() -> None:
    for flow_id in list(_flow_of_code.values()):
        flow = _STORE.get(flow_id)
        if flow.created_at + _KEPT < _CLOCK.time():
            _forget(flow)


def _post(request: Request) -> requests.Response:
    body = json.loads(request.body)
    if request.purpose == "code":
        return requests.post(
            url=request.url,
            json=body,
            headers={"Content-type": "application/json"},
            timeout=TIMEOUT,
        )
    with requests.Session() as session:
        session.mount(request.url, LimitedAdapter())
        session.hooks["response"].append(read_limited)
        return session.post(request.url, json=body, timeout=TIMEOUT, allow_redirects=False)


def _body(response: requests.Response) -> bytes:
    if response.content:
        return response.content
    try:
        # Tests' responses have a `json()` and nothing behind it.
        return json.dumps(response.json()).encode()
    except ValueError:
        return b""


def _bare(failed: requests.RequestException, url: str) -> requests.RequestException:
    """Return the same exception without the request, whose body holds the device code."""
    about = requests.Request("POST", url).prepare()
    try:
        return type(failed)(str(failed), request=about)
    except TypeError:
        return requests.RequestException(str(failed), request=about)


def _was_sent(failed: requests.RequestException) -> bool:
    cause = getattr(failed.args[0], "reason", None) if failed.args else None
    return not isinstance(failed, _NOT_SENT) and not isinstance(cause, NewConnectionError)


def _no_code(wire: _Wire, flow: Flow) -> requests.RequestException:
    if wire.response is None or wire.response.status_code != 200:
        return wire.error(flow)
    return requests.exceptions.InvalidJSONError(
        f"What {flow.provider.issuer} answered is no device code: {flow.detail or 'no JSON'}."
    )


def _studio_error(ended: errors.DeviceFlowError) -> StudioAuthError:
    return StudioAuthError(
        ended.message,
        flow_id=ended.flow_id,
        state=ended.state,
        reason=ended.reason,
        hint=ended.hint,
    )
