"""An auth object for `requests`: a session whose requests carry a grant's token.

session = requests.Session()
session.auth = DeviceFlowAuth(client, "nightly", login, origins=["https://api.example.com"])
session.get("https://api.example.com/me")  # a person is asked once, here
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.utils import rewind_body

from deviceflow.integrations._bearer import Bearer, is_carried, origin_of, value

if TYPE_CHECKING:
    from collections.abc import Iterable

    import requests

    from deviceflow.client._sync import Client
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import LoginRequest, Provider


class DeviceFlowAuth(AuthBase):
    """Attaches a grant's access token to each request (RFC 6750 section 2.1).

    Threads may share the object. Processes share the token by the grant's name in one store. One of
    them refreshes the token before it expires.

    If the server refuses the token, the object invalidates it, and sends the request once more with
    the next token and the body from its start. A body that can be read only once, such as a
    generator, is not sent again: the caller gets the refusal, and the next request has another
    token. If the server refuses the next token as well, the caller gets the refusal, and the token
    stays: a grant is refreshed for a refusal once in 60 seconds, however many sessions and
    processes are refused.

    If there is no grant, or the grant was lost, the object asks a person to log in if one is there.
    Otherwise, or if the person denied before, the request raises `LoginPending`, which says when to
    ask again.

    Only requests to the `origins` carry the token; without `origins`, those to the server of the
    first request, unless that would send the token by plain http to another machine. If a redirect
    leads to another host, `requests` removes the token.

    Args:
        client: The client that logs in and refreshes.
        name: The grant's name.
        provider: Where to log in; None for an existing grant.
        min_ttl: How many seconds the token of a request must live, as for `Client.get_token`.
        interactive: Whether a person is there to log in; by default, whether the program has a
            terminal.
        purpose: Why the login is needed, as for `Client.start`.
        origins: The servers that get the token, such as `https://api.example.com`; a path is
            ignored. Requests to other servers go without a token. By default the server of the
            first request gets the token, and the first request to another one warns.
        invalid_token_statuses: The HTTP statuses by which the servers refuse a token. By default as
            the provider says, which is 401 only, unless its entry says otherwise. The error in
            `WWW-Authenticate` decides at any status (RFC 6750 section 3.1).
        **request: What to ask for, such as `scopes`, as for `Client.start`.

    Raises:
        InvalidArgumentError: One of the origins is not the URL of a server.
        InsecureURLError: From a request: without `origins`, by plain http to another machine.
        ProtocolError: From a request: the server issued a token that is not a bearer token.
        LoginPending: From a request: a person must log in.
        DeviceFlowError: From a request: as for `Client.get_token` and `Client.log_in`.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        provider: Provider | None = None,
        *,
        min_ttl: float = 60.0,
        interactive: bool | None = None,
        purpose: str | None = None,
        origins: Iterable[str] | None = None,
        invalid_token_statuses: Iterable[int] | None = None,
        **request: Unpack[LoginRequest],
    ) -> None:
        self._run = client._run  # noqa: SLF001  # it performs operations of its own by a client
        self._bearer = Bearer(
            name,
            provider,
            min_ttl=min_ttl,
            interactive=interactive,
            purpose=purpose,
            origins=origins,
            invalid_token_statuses=invalid_token_statuses,
            request=request,
        )

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Attach the token (called by `requests`)."""
        first = origin_of(request.url or "")
        if not self._bearer.is_for(first):
            return request
        used = self._run(self._bearer.token)

        def on_response(response: requests.Response, **how: Any) -> requests.Response:
            # Led to another host, the token was taken off, and is not for it.
            carried = is_carried(response.request.headers.get("Authorization"))
            if carried and origin_of(response.url) == first:
                return self._after(response, used, on_response, how)
            return response

        hooks: Any = request
        hooks.register_hook("response", on_response)
        request.headers["Authorization"] = value(used)
        return request

    def _after(
        self, response: requests.Response, used: AccessToken, hook: Any, how: dict[str, Any]
    ) -> requests.Response:
        """Return the response that counts: this one, or that of sending the request again."""
        challenge = response.headers.get("WWW-Authenticate")
        if not self._bearer.is_refused(used, response.status_code, challenge):
            return response
        if not _can_be_sent_again(response.request):
            self._run(self._bearer.refuse, used)
            return response
        try:
            fresh = self._run(self._bearer.another, used)
        except BaseException:
            response.close()
            raise
        if fresh is None:
            return response
        return _send_again(response, fresh, hook, how)


def _can_be_sent_again(request: requests.PreparedRequest) -> bool:
    """Tell whether the body can be had twice."""
    body: Any = request.body
    # `requests` has noted where a stream began, if that can be gone back to.
    return body is None or isinstance(body, str | bytes) or isinstance(_begin(request), int)


def _begin(request: requests.PreparedRequest) -> object:
    return getattr(request, "_body_position", None)


def _send_again(
    response: requests.Response, token: AccessToken, hook: Any, how: dict[str, Any]
) -> requests.Response:
    response.content  # noqa: B018  # read to its end, so that the connection serves again
    response.close()
    again: Any = response.request.copy()
    # The hooks are shared with the request that was copied, and being gone through right now.
    again.hooks = {
        event: [one for one in hooks if one is not hook] for event, hooks in again.hooks.items()
    }
    if again.body is not None and isinstance(_begin(again), int):
        rewind_body(again)
    jar = again._cookies  # noqa: SLF001  # as `HTTPDigestAuth` does
    extract_cookies: Any = extract_cookies_to_jar  # untyped
    extract_cookies(jar, response.request, response.raw)
    again.prepare_cookies(jar)
    again.headers["Authorization"] = value(token)
    answer: requests.Response = response.connection.send(again, **how)
    answer.history.append(response)
    answer.request = again
    return answer
