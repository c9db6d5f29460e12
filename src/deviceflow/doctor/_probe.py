"""Requests to a server that no login sends: parts are missing, repeated, wrong or elsewhere."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from deviceflow.core.secret import Secret
from deviceflow.core.text import NOTHING, CleanText
from deviceflow.core.wire import Failure, Request, Response
from deviceflow.credentials.client_auth import authenticated
from deviceflow.doctor._recorder import PATIENCE

if TYPE_CHECKING:
    from deviceflow.core.ports import Clock
    from deviceflow.doctor._recorder import Recorder
    from deviceflow.providers.oauth import OAuth

Pairs = list[tuple[str, str]]

_FORM: Final = {
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}


class Probe:
    """Sends requests of its own making to one server.

    Args:
        recorder: What sends.
        provider: The server, with its endpoints.
        clock: The clock.

    Attributes:
        provider: The server.
        clock: The clock.
    """

    def __init__(self, recorder: Recorder, provider: OAuth, clock: Clock) -> None:
        self.provider = provider
        self.clock = clock
        self._recorder = recorder
        self._verifier = Secret(secrets.token_urlsafe(32)) if provider.uses_pkce else None

    def code(
        self, *, without: tuple[str, ...] = (), more: Pairs | None = None, **other: str
    ) -> Response | Failure:
        """Ask for a code.

        Args:
            without: The parameters to leave out.
            more: Parameters to add, at the end.
            **other: Parameters with other values.
        """
        return self._post(self.provider.code_request(self._verifier), without, more, other)

    def token(
        self,
        device_code: str,
        *,
        without: tuple[str, ...] = (),
        more: Pairs | None = None,
        **other: str,
    ) -> Response | Failure:
        """Poll. The arguments are those of `code`, besides the device code."""
        request = self.provider.token_request(
            self.provider.token_endpoint or "", Secret(device_code), self._verifier
        )
        return self._post(request, without, more, other)

    def revoke(
        self, token: str, *, without: tuple[str, ...] = (), **other: str
    ) -> Response | Failure | None:
        """Revoke a token; None if the server has no endpoint for that."""
        request = self.provider.revocation_request(Secret(token), "access_token")
        return None if request is None else self._post(request, without, None, other)

    def get(self, url: str, **query: str) -> Response | Failure:
        """Send a GET with a query."""
        parameters = f"{'&' if urlsplit(url).query else '?'}{urlencode(query)}" if query else ""
        request = Request("metadata", url + parameters, {"Accept": "application/json"}, b"")
        return self._recorder.send(request, PATIENCE)

    def poll_by_get(self, device_code: str) -> Response | Failure:
        """Send a poll as a GET."""
        query = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "client_id": self.provider.client_id,
            "device_code": device_code,
        }
        return self.get(self.provider.token_endpoint or "", **query)

    def _post(
        self, request: Request, without: tuple[str, ...], more: Pairs | None, other: dict[str, str]
    ) -> Response | Failure:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True)
        kept = [(k, other.pop(k, v)) for k, v in pairs if k not in without]
        body = urlencode([*kept, *other.items(), *(more or [])]).encode()
        auth = None if {"client_id"} & {*without} else request.auth
        changed = Request(request.purpose, request.url, _FORM, body, auth=auth)
        return self._recorder.send(authenticated(changed, self.clock.time()), PATIENCE)


def error_of(result: Response | Failure) -> str:
    """Return what came, in words: a status with the error code, or that nothing came."""
    if isinstance(result, Failure):
        return f"no response ({result.words})"
    fields = result.fields()
    error = fields and fields.text("error")
    if fields is None:
        return f"status {result.status} without a JSON object"
    return f"status {result.status}" + (
        f" {CleanText(error, NOTHING, redact_lookalikes=True)}" if error else ""
    )


def media_type(result: Response) -> str:
    """Return the media type of a response."""
    return (result.header("Content-Type") or "").partition(";")[0].strip().lower()
