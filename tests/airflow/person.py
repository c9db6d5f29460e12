"""The person who is told of needs, and who approves logins on the server's page."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import requests


class Person:
    """Somebody with a browser, and with a webhook where notifications arrive.

    Attributes:
        webhook: Its URL.
        told: The notifications, oldest first.
    """

    def __init__(self) -> None:
        self.told: Final[list[dict[str, Any]]] = []
        person = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                person.told.append(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.webhook: Final = f"http://127.0.0.1:{self._http.server_port}/told"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def told_of(self, grant: str, kind: str) -> list[dict[str, Any]]:
        """Return the notifications of one kind on a grant."""
        return [one for one in self.told if (one["name"], one["kind"]) == (grant, kind)]

    @staticmethod
    def request_code(link: str) -> None:
        """Follow the link of a need, and press the button of its page."""
        with requests.Session() as browser:
            page = browser.get(link)
            page.raise_for_status()
            browser.post(link, _hidden(page.text)).raise_for_status()

    @staticmethod
    def approve(server: str, user_code: str) -> None:
        """Approve a login as a browser does: enter the code, read the page, press the button."""
        with requests.Session() as browser:
            entered = {"user_code": user_code} | _hidden(browser.get(f"{server}/device").text)
            asked = browser.post(f"{server}/device", entered)
            asked.raise_for_status()
            decided = {"decision": "approve"} | _hidden(asked.text)
            answer = browser.post(f"{server}/device/decision", decided)
            answer.raise_for_status()


def _hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
