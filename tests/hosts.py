"""Lets the local server answer at the addresses of real providers, over TLS.

Other libraries accept https only, and a page shows the provider's own address. So the programs of a
page run unchanged: a proxy takes their connections, shows a certificate for the host that they ask
for, and passes their requests on.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

import requests
import trustme

if TYPE_CHECKING:
    from pathlib import Path

ISSUERS: Final = {
    "login.example.com": "",
    "login.microsoftonline.com": "/contoso.onmicrosoft.com/v2.0",
    "studio.example.com": "",
}
"""The path of the issuer at each host that logs in."""

RESOURCES: Final = ("api.example.com", "graph.microsoft.com")
"""The hosts that want a token."""

_DISCOVERY: Final = "/.well-known/openid-configuration"
_METADATA: Final = "/.well-known/oauth-authorization-server"
_CLOUDS: Final = "/common/discovery/instance"
"""Where MSAL asks which other hosts belong to the same cloud."""

_ACCOUNT: Final = base64.urlsafe_b64encode(b'{"uid": "alice", "utid": "contoso"}').decode()


class Hosts:
    """The proxy, in a thread of its own.

    Args:
        server: The address of the local server.
        directory: Where to write the certificate of the authority.
    """

    def __init__(self, server: str, directory: Path) -> None:
        authority = trustme.CA()
        self._authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self._authority))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*ISSUERS, *RESOURCES).configure_cert(context)
        bound = {"server_url": server, "context": context}
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), bound))
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.05,))

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to reach these hosts."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._proxy.server_port}",
            "NO_PROXY": "127.0.0.1",
            "REQUESTS_CA_BUNDLE": str(self._authority),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_url: str
    context: ssl.SSLContext
    host = ""

    def do_CONNECT(self) -> None:  # the name that http.server looks for
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith(_CLOUDS):
            self._send(200, b'{"metadata": []}')
            return
        kept = ("authorization", "content-type")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        url = self.server_url + self._path()
        answer = requests.request(self.command, url, data=body, headers=headers, timeout=60)
        self._send(answer.status_code, self._answer(answer))

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def _path(self) -> str:
        if self.host in RESOURCES:
            return "/oauth/resource"
        path = self.path.removeprefix(ISSUERS[self.host])
        return _METADATA if path == _DISCOVERY else path

    def _answer(self, answer: requests.Response) -> bytes:
        if self.host in RESOURCES or "json" not in answer.headers.get("Content-Type", ""):
            return answer.content
        issuer = f"https://{self.host}{ISSUERS[self.host]}"
        text = answer.text.replace(self.server_url, issuer)
        fields: dict[str, Any] = json.loads(text)
        if "issuer" in fields:
            fields["authorization_endpoint"] = f"{issuer}/authorize"
        if self.host == "login.microsoftonline.com":
            _add_what_entra_sends(fields)
        return json.dumps(fields).encode()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _add_what_entra_sends(fields: dict[str, Any]) -> None:
    if "access_token" in fields:
        fields["client_info"] = _ACCOUNT
    if "user_code" in fields:
        fields["message"] = f"To sign in, enter the code {fields['user_code']}."
