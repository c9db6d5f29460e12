"""The servers, a person who approves, and a resource that takes their tokens."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

import requests

from deviceflow import OAuth
from deviceflow.core.wire import Fields
from deviceflow.server import LocalServer, Settings
from tests.integration.node import node_with
from tests.integration.oidc_provider import Browser, OIDCProvider
from tests.integration.rotating.allauth_site import CLIENT_ID, PERSON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow import Token
    from deviceflow.core.login import Login

Name = Literal["local", "oidc-provider", "django-allauth", "better-auth"]

ROOT: Final = Path(__file__).parents[3]
BETTER_AUTH: Final = Path(__file__).with_name("better-auth")


class RotatingServer(Protocol):
    """A server whose refresh tokens are good once.

    Attributes:
        provider: The server as our client knows it, with its metadata.
        resource: Where a test can use an access token.
        reuse_revokes: Whether a refresh token that comes again ends the grant.
    """

    provider: OAuth
    resource: str
    reuse_revokes: bool

    def approve(self, login: Login) -> None:
        """Approve as a person does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def accepts(server: RotatingServer, token: Token) -> bool:
    """Use the access token at the server."""
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    status = requests.get(server.resource, headers=bearer, timeout=60).status_code
    assert status in (200, 401)
    return status == 200


@contextlib.contextmanager
def serving(name: Name, life: int = 3600, grace: int = 0) -> Iterator[RotatingServer]:
    """Run a server.

    Args:
        name: Which one.
        life: Lifetime of its access tokens in seconds.
        grace: Seconds in which a lost answer is told again; only `local` and `better-auth` can.
    """
    match name:
        case "local":
            server: RotatingServer = _Local(life, grace)
        case "oidc-provider":
            server = _OIDCProvider(life)
        case "django-allauth":
            server = _Allauth(life)
        case "better-auth":
            server = _BetterAuth(life, grace)
    with server:
        yield server


class _Local:
    reuse_revokes = True

    def __init__(self, life: int, grace: int) -> None:
        settings = Settings(access_token_lifetime=life, control=True, reuse_grace=grace)
        self._server = LocalServer(settings)
        self.provider = _provider("robot", self._server.url, "offline_access")
        self.resource = f"{self._server.url}/oauth/resource"

    def approve(self, login: Login) -> None:
        order = {"user_code": login.user_code}
        url = f"{self._server.url}/control/approve"
        requests.post(url, json=order, timeout=60).raise_for_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()


class _OIDCProvider:
    reuse_revokes = True

    def __init__(self, life: int) -> None:
        node = node_with(Path(__file__).parents[1] / "oidc")
        self._server = OIDCProvider(node, clock_tolerance=0, AccessToken=life)
        self.provider = _provider("public", self._server.issuer, "openid offline_access")
        self.resource = self._server.metadata["userinfo_endpoint"]

    def approve(self, login: Login) -> None:
        assert login.verification_uri
        assert login.user_code
        self._server.approve(login.verification_uri, login.user_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()


class _Process:
    """A server that prints one line of JSON when it is ready, and ends with its input."""

    def __init__(self, command: list[str], folder: Path, **settings: str) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self.__exit__()
            raise RuntimeError("The authorization server did not start: see its standard error.")
        self.ready: dict[str, Any] = json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass


class _Allauth(_Process):
    # It deletes the refresh token that it replaces, and cannot tell it from an unknown one.
    reuse_revokes = False

    def __init__(self, life: int) -> None:
        settings = {"IDP_OIDC_ACCESS_TOKEN_EXPIRES_IN": life}
        command = [sys.executable, "-m", "tests.integration.rotating.allauth_site"]
        super().__init__(command, ROOT, ALLAUTH_SETTINGS=json.dumps(settings))
        self.provider = _provider(CLIENT_ID, self.ready["issuer"], "openid email")
        self.resource = f"{self.ready['issuer']}/identity/o/api/userinfo"

    def approve(self, login: Login) -> None:
        assert login.verification_uri_complete
        with Browser() as browser:
            browser.open(login.verification_uri_complete)
            browser.press(**PERSON)
            browser.press(action="confirm")
            browser.expect("Device Authorized")


class _BetterAuth(_Process):
    reuse_revokes = True

    def __init__(self, life: int, grace: int) -> None:
        settings = {"grace": grace, "life": life}
        command = [node_with(BETTER_AUTH), "server.mjs"]
        super().__init__(command, BETTER_AUTH, BETTER_AUTH_SETTINGS=json.dumps(settings))
        issuer = self.ready["issuer"]
        self.provider = _provider(self.ready["clientId"], issuer, "openid offline_access")
        self.resource = f"{issuer}/oauth2/userinfo"

    def approve(self, login: Login) -> None:
        # Its pages are those of the application around it: these are the requests of such pages.
        with requests.Session() as browser:
            browser.headers["Origin"] = self.ready["origin"]

            def ask(method: str, path: str, **how: Any) -> None:
                url = f"{self.ready['issuer']}{path}"
                browser.request(method, url, timeout=60, **how).raise_for_status()

            ask("POST", "/sign-in/email", json=self.ready["person"])
            ask("GET", "/device", params={"user_code": str(login.user_code)})
            ask("POST", "/device/approve", json={"userCode": login.user_code})


def _provider(client_id: str, issuer: str, scopes: str) -> OAuth:
    provider = OAuth(client_id=client_id, issuer=issuer, scopes=scopes)
    for url in provider.metadata_urls():
        answer = requests.get(url, timeout=60)
        if answer.status_code == 200:
            return provider.with_metadata(Fields(answer.json()))
    raise AssertionError(issuer)
