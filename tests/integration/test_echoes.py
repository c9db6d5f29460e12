"""Nothing that a server repeats of a secret is kept, logged or shown in clear.

A server says each secret again in each field that is read of its answers. Which fields these are is
recorded while they are read, so a field that is read one day is echoed in, too. Afterwards the
store's files, the log, the errors and the command's output are searched as a whole, so that no
column, no field of an event and no attribute is left out.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import fields
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, OAuth, Secret, Studio, errors
from deviceflow.cli import main
from deviceflow.client.identity import Identity
from deviceflow.core import provider as core_provider
from deviceflow.core.text import trusted
from deviceflow.core.wire import Fields
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Request, Response

URL: Final = "https://as.example.com"
USER: Final = "BCDF-GHJK"
CLIENT_SECRET: Final = "csJ5tD0gUe7Fa4-echo"

SECRETS: Final = {
    "device code": "dcQ7Xw2Lp9VzT4",
    "verifier": "vfK3mR8sYb6Hn1",
    "client secret": CLIENT_SECRET,
    "access token": "atZ6cN2oIq9Wk8",
    "refresh token": "rtM1vG4xPs5Bj3",
    "next access token": "naQ8yL3hTd7Rz2",
    "next refresh token": "nrC9uV6fKw0Xe5",
}
"""How each begins. A number of the login follows, but for the client's secret."""

SPELLINGS: Final[dict[str, Callable[[bytes], str]]] = {
    "plain": bytes.decode,
    "base64": lambda data: base64.b64encode(data).decode(),
    "hex": bytes.hex,
    "percent": lambda data: "".join(f"%{byte:02X}" for byte in data),
    "escaped": lambda data: "".join(f"\\u{byte:04x}" for byte in data),
}

KNOWN: Final = {
    "code": ("device code", "client secret"),
    "poll": ("device code", "verifier", "client secret"),
    "token": ("device code", "verifier", "client secret", "access token", "refresh token"),
    "refresh": (
        *("client secret", "access token", "refresh token"),
        *("next access token", "next refresh token"),
    ),
    "refusal": ("client secret", "next access token", "next refresh token"),
}
"""What a server can repeat in each answer: what it was sent for it, and what it issues in it."""

THEMSELVES: Final = frozenset({"device_code", "access_token", "refresh_token", "id_token"})
"""The fields that are secrets themselves, and sealed."""

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint=f"{URL}/code",
    token_endpoint=f"{URL}/token",
    client_secret="env:ECHOED_SECRET",
    client_auth="client_secret_post",
    pkce="on",
    scopes="openid",
    require={"email": "alice@example.com", "tenant": "t"},
    issuer=URL,
)
CLAIMS: Final = {
    "iss": URL,
    "aud": "robot",
    "sub": "alice",
    "exp": 4e9,
    "tid": "t",
    "email": "alice@example.com",
    "email_verified": True,
}


def id_token(claims: dict[str, Any]) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


class Echoing:
    """A server, for one login after another, which repeats something in one field of an answer.

    Attributes:
        read: The fields that were read, each with its answer; those of an id token as `claims`.
        said: The errors and the prompts.
        store: Where the logins are.
    """

    def __init__(self, store: SQLiteStore) -> None:
        self.read: dict[tuple[str, str], None] = {}
        self.said: list[str] = []
        self.store = store
        self._at = ""
        self._number = 0

    def note(self, fields: Fields, name: str) -> None:
        self.read[f"claims of {self._at}" if "aud" in fields.as_dict() else self._at, name] = None

    def secret(self, kind: str) -> str:
        text = SECRETS[kind]
        return text if kind == "client secret" else f"{text}-{self._number:04}"

    def _bodies(self, provider: Provider, echo: dict[tuple[str, str], str]) -> Iterator[Any]:
        def with_echo(at: str, body: dict[str, Any]) -> dict[str, Any]:
            return body | {name: text for (where, name), text in echo.items() if where == at}

        def issued(at: str, access: str, refresh: str) -> dict[str, Any]:
            claims = with_echo(f"claims of {at}", CLAIMS)
            tokens = {"access_token": self.secret(access), "refresh_token": self.secret(refresh)}
            more = {"id_token": id_token(claims), "expires_in": 900, "scope": "openid"}
            return tokens | more | {"token_type": "Bearer"}

        codes = {"device_code": self.secret("device code"), "user_code": USER, "interval": 5}
        pages = {"verification_uri": f"{URL}/device", "token_uri": f"{URL}/token"}
        refused = {"error": "invalid_grant", "error_description": "it has ended"}
        if provider.dialect == "studio":
            pages["token_name"] = "robot"
            refused = {"detail": "no"}
        bodies: dict[str, tuple[int, dict[str, Any]]] = {
            "code": (200, codes | pages | {"expires_in": 900}),
            "poll": (400, {"error": "authorization_pending"}),
            "token": (200, issued("token", "access token", "refresh token")),
            "refresh": (200, issued("refresh", "next access token", "next refresh token")),
            "refusal": (400, refused),
        }
        for at, (status, body) in bodies.items():
            yield at, status, with_echo(at, body)

    def serve(self, provider: Provider, at: str = "", name: str = "", echo: str = "") -> None:
        """Lead a grant from its login to its loss, as far as the answers let it come."""
        text = f"{URL}/{echo}" if "uri" in name or "url" in name else echo

        def answering(where: str, status: int, body: Any) -> Callable[[Request], Response]:
            def answered(_: Request) -> Response:
                self._at = where
                return answer(status, body)

            return answered

        script = [answering(*one) for one in self._bodies(provider, {(at, name): text})]
        clock = VirtualClock()
        client = Client(
            self.store,
            clock=clock,
            transport=ScriptedTransport(script),
            output=self.said.append,
            browser=lambda _: False,
        )
        grant = f"g{self._number}"
        try:
            client.log_in(grant, provider, open_browser=False)
            for _ in range(2):
                clock.advance(890)
                client.get_token(grant)
        except (errors.DeviceFlowError, AssertionError) as end:
            self.said += [str(end), repr(vars(end))]
        self._number += 1


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Echoing]:
    monkeypatch.setenv("ECHOED_SECRET", CLIENT_SECRET)
    with SQLiteStore(tmp_path / "flows.db", synchronous="NORMAL") as store:
        server = Echoing(store)

        def noting(original: Callable[[Fields, str], Any]) -> Callable[[Fields, str], Any]:
            def read(fields: Fields, name: str) -> Any:
                server.note(fields, name)
                return original(fields, name)

            return read

        for name in ("get", "text"):
            monkeypatch.setattr(Fields, name, noting(getattr(Fields, name)))
        made = staticmethod(lambda: Secret(server.secret("verifier") * 3))
        monkeypatch.setattr(Identity, "new_verifier", made)
        yield server


def leaks(places: dict[str, bytes]) -> list[str]:
    """Return which secrets can be read where, and in which spelling, with what is around."""
    needles = {
        (kind, spelling): spell(text[:12].encode()).encode()
        for (kind, text), (spelling, spell) in product(SECRETS.items(), SPELLINGS.items())
    }
    return [
        f"{kind} ({spelling}) in {place}: {found[max(0, at - 80) : at + 80]!r}"
        for place, found in places.items()
        for (kind, spelling), needle in needles.items()
        for at in [max(found.find(needle), found.find(needle.replace(b"\\", b"\\\\")))]
        if at >= 0
    ]


def echo_everywhere(server: Echoing, provider: Provider, *, all_spellings: bool) -> set[str]:
    """Have each field that is read repeat each secret; return the fields."""
    server.serve(provider)
    asked = [(at, name) for at, name in server.read if name not in THEMSELVES]
    number = 0
    for at, name in asked:
        for kind in KNOWN[at.removeprefix("claims of ")]:
            if provider.dialect == "studio" and kind in ("verifier", "client secret"):
                continue  # it has neither
            number += 1
            spells = [*SPELLINGS.values()]
            for spell in spells if all_spellings else [spells[number % len(spells)]]:
                server.serve(provider, at, name, spell(server.secret(kind).encode()))
    return {f"{at}: {name}" for at, name in asked}


READ: Final = {
    "oauth": {
        *("code: user_code", "code: verification_uri", "code: error", "poll: error"),
        *("token: token_type", "token: scope", "claims of token: sub", "claims of token: email"),
        *("refresh: scope", "claims of refresh: sub", "refusal: error_description"),
    },
    "studio": {"code: token_name", "code: token_uri", "poll: detail"},
}
"""Some of the fields that have to be among those that are read."""


@pytest.mark.parametrize("dialect", READ)
def test_what_a_server_repeats_is_nowhere_in_clear(
    server: Echoing,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    dialect: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    provider: Provider = Studio(URL) if dialect == "studio" else OAUTH

    asked = echo_everywhere(server, provider, all_spellings="DEVICEFLOW_FUZZ" in os.environ)

    assert READ[dialect] <= asked
    for command in (
        *("status --json", "list --json", "status g1 --json", "audit list --json"),
        *("audit show g1 --json", "audit stats --json", "audit export --format jsonl"),
        f"audit report -o {tmp_path}/report.html",
    ):
        main([*command.split(), "--store", f"sqlite:///{tmp_path}/flows.db"])
    printed = capsys.readouterr()
    places = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    client = Client(server.store)
    views: list[Any] = [*client.logins(), *client.grants()]
    for view in views:
        server.said.append(repr([getattr(view, one.name) for one in fields(view)]))
    places["the log"] = "\n".join(records).encode()
    places["errors, prompts and views"] = "\n".join(server.said).encode()
    places["stdout"], places["stderr"] = printed.out.encode(), printed.err.encode()
    assert leaks(places) == []


def test_echo_that_is_not_removed_is_found(
    server: Echoing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_provider, "identifier", lambda text, _: trusted(text))
    for spell in SPELLINGS.values():
        echo = spell(server.secret("access token").encode())
        server.serve(OAUTH, "claims of token", "sub", echo)

    places = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    found = {leak.partition(")")[0] for leak in leaks(places)}
    assert found == {f"access token ({spelling}" for spelling in SPELLINGS}
