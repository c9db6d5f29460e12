"""A certified authorization server that nobody here wrote, and a person in front of its pages."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote_plus, urljoin

import pytest
import requests
from joserfc.jwk import ECKey, KeySet, RSAKey

from tests.integration.node import node_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER: Final = Path(__file__).with_name("oidc")
DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class OIDCProvider:
    """One server, its clients, and what the tests may know of them.

    The clients are `public`, `basic`, `post` and `jwt`, each named after how it authenticates.

    Attributes:
        issuer: The server's address.
        metadata: What the server says of itself.
        secret: The secret of `basic` and `post`, of characters that have to be encoded.
        keys: The private keys of `jwt`, by algorithm.
    """

    secret: Final = "half: 50%+50% / all&=?"

    def __init__(self, node: str, *, clock_tolerance: int = 15, **ttl: int) -> None:
        """Start a server.

        Args:
            node: Node's program.
            clock_tolerance: Seconds for which tokens are accepted after their end, as by the
                server's default. Without, the server forgets at its end what has expired: a device
                code then is unknown, not expired.
            ttl: Seconds that things are valid for, under the server's own names: `DeviceCode=2`.
        """
        self.keys: Final[dict[str, ECKey | RSAKey]] = {
            "ES256": ECKey.generate_key(parameters={"use": "sig"}, auto_kid=True),
            "RS256": RSAKey.generate_key(parameters={"use": "sig"}, auto_kid=True),
        }
        settings = {"clients": self._clients(), "clockTolerance": clock_tolerance, "ttl": ttl}
        self._process = subprocess.Popen(
            [node, "server.mjs"],
            cwd=FOLDER,
            env=os.environ | {"OIDC_SETTINGS": json.dumps(settings)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._process.stdout.readline() if self._process.stdout else ""
        if not ready:
            self.close()
            raise RuntimeError("The authorization server did not start: see its standard error.")
        self.issuer: Final[str] = json.loads(ready)["issuer"]
        answer = requests.get(f"{self.issuer}/.well-known/openid-configuration", timeout=60)
        self.metadata: Final[dict[str, Any]] = answer.json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        # Leaving closes its standard input, which is what it ends on.
        with self._process:
            pass

    def approve(self, uri: str, user_code: str, *, login: str = "alice@example.com") -> None:
        """Enter the code, log in, and consent.

        Args:
            uri: The verification address, with or without the code.
            user_code: The code.
            login: Who logs in. `alice@example.com` becomes the subject `alice`, and so on;
                the email of `unverified@example.com` is not verified.
        """
        with Browser() as browser:
            browser.enter(uri, user_code)
            browser.press()
            browser.press(login=login)
            browser.press(decision="approve")
            browser.expect("Sign-in Success")

    def deny(self, uri: str, user_code: str, *, login: str | None = None) -> None:
        """Enter the code, and abort; or log in first, and refuse to consent.

        Args:
            uri: The verification address, with or without the code.
            user_code: The code.
            login: Who logs in, if anyone.
        """
        with Browser() as browser:
            browser.enter(uri, user_code)
            if login is None:
                browser.press(abort="yes")
            else:
                browser.press()
                browser.press(login=login)
                browser.press(decision="deny")
            browser.expect("The Sign-in request was interrupted")

    def active(self, token: str) -> bool:
        """Ask whether a token, of whichever client, is still good."""
        answer = requests.post(
            self.metadata["introspection_endpoint"],
            data={"token": token},
            auth=self.basic_auth(),
            timeout=60,
        )
        answer.raise_for_status()
        return bool(answer.json()["active"])

    def basic_auth(self) -> tuple[str, str]:
        """Give `basic`'s name and secret, encoded as RFC 6749 (2.3.1) has it."""
        return "basic", quote_plus(self.secret)

    def _clients(self) -> list[dict[str, Any]]:
        methods: dict[str, dict[str, Any]] = {
            "none": {"client_id": "public"},
            "client_secret_basic": {"client_id": "basic", "client_secret": self.secret},
            "client_secret_post": {"client_id": "post", "client_secret": self.secret},
            "private_key_jwt": {
                "client_id": "jwt",
                "jwks": KeySet(list(self.keys.values())).as_dict(private=False),
            },
        }
        shared = {
            "grant_types": [DEVICE_CODE, "refresh_token"],
            "redirect_uris": [],
            "response_types": [],
        }
        return [
            shared | {"token_endpoint_auth_method": method} | client
            for method, client in methods.items()
        ]


class Hurried:
    """The system's clock, on which waiting takes no time: this server minds no early poll."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def time(self) -> float:
        return time.time() + self._skipped

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        self._skipped += seconds


class Browser:
    """Has one page open, and presses its buttons as a browser without JavaScript does."""

    def __init__(self) -> None:
        self._session = requests.Session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def open(self, uri: str) -> None:
        self._page = _Page(self._session.get(uri, timeout=60))

    def enter(self, uri: str, user_code: str) -> None:
        self.open(uri)
        self.press(user_code=user_code)

    def press(self, **typed: str) -> None:
        page = self._page
        assert typed.keys() <= page.controls, page
        data = page.fields | typed
        self._page = _Page(self._session.post(page.action, data=data, timeout=60))

    def expect(self, text: str) -> None:
        assert text in self._page.html, self._page


class _Page(HTMLParser):
    """The one form of a page."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__()
        self.html = answer.text
        self.action = answer.url
        self.controls: set[str] = set()
        self.fields: dict[str, str] = {}
        self._description = f"{answer.status_code} {answer.url}\n{answer.text}"
        self.feed(answer.text)

    def __repr__(self) -> str:
        return self._description

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = urljoin(self.action, found.get("action"))
        elif tag in {"button", "input"} and "name" in found:
            self.controls.add(found["name"])
            if tag == "input":
                self.fields[found["name"]] = found.get("value", "")


@pytest.fixture(scope="session")
def oidc_node() -> str:
    """Find Node, and install the server for it."""
    return node_with(FOLDER)


@pytest.fixture(scope="session")
def oidc_provider(oidc_node: str) -> Iterator[OIDCProvider]:
    """Run one server for all tests."""
    with OIDCProvider(oidc_node) as provider:
        yield provider


@pytest.fixture
def start_oidc_provider(oidc_node: str) -> Iterator[Callable[..., OIDCProvider]]:
    """Start servers of other lifetimes, `start_oidc_provider(DeviceCode=2)`, for one test."""
    with contextlib.ExitStack() as servers:
        yield lambda **ttl: servers.enter_context(OIDCProvider(oidc_node, **ttl))
