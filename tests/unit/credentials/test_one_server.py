"""Whatever says where to log in, what is shown, recorded and contacted is one server."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow import Client
from deviceflow.cli.parser import parse
from deviceflow.cli.target import Target
from deviceflow.errors import UsageError
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deviceflow.cli.options import TargetOptions
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Request, Response

A: Final = "https://a.example.com"
B: Final = "https://b.example.com"
SERVERS: Final = {
    "a.example.com": "A",
    "b.example.com": "B",
    "github.com": "github",
    "ours.example.com": "ours",
    "tokens.example.com": "ours",
    "studio.datachain.ai": "studio",
}
PROVIDERS: Final = """
[ours]
title = "Ours"
issuer = "https://ours.example.com"
token_endpoint = "https://tokens.example.com/token"

[hosted]
title = "Hosted"
device_authorization_endpoint = "{base}/device"
token_endpoint = "{base}/token"
parameters = { base = "" }

[anywhere]
title = "Anywhere"
interval = 7
"""

Source = dict[str, Any]


class Everywhere:
    """Is each server, and keeps what it was sent."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def send(self, request: Request, timeout: float) -> Response:
        parts = urlsplit(request.url)
        self.hosts.append(parts.hostname or "")
        at = f"{parts.scheme}://{parts.netloc}"
        match request.purpose:
            case "metadata":
                body: dict[str, Any] = {
                    "issuer": at,
                    "device_authorization_endpoint": f"{at}/device",
                    "token_endpoint": f"{at}/token",
                    "revocation_endpoint": f"{at}/revoke",
                }
            case "code":
                body = {
                    "device_code": "DEVICE-CODE",
                    "user_code": "ABCD-EFGH",
                    "verification_uri": f"{at}/activate",
                    "token_uri": f"{at}/token",
                    "token_name": "robot",
                    "expires_in": 900,
                    "interval": 1,
                }
            case _:
                body = {"access_token": "TOKEN"}
        return answer(200, body)

    def close(self) -> None:
        """Do nothing."""


def _url(path: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"{A}{path}", f"{B}{path}"])


_PLACES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "provider": st.sampled_from(
        ["github", "ours", "hosted", "studio", "a.example.com", "b.example.com", "github.com"]
    ),
    "issuer": _url(""),
    "device_authorization_endpoint": _url("/d"),
    "token_endpoint": _url("/t"),
    "revocation_endpoint": _url("/r"),
    "client_id": st.just("robot"),
    "scopes": st.just("MODELS"),
}
_PARAMETER: Final = {"base": _url("")}


def _source(*, with_set: bool = True) -> st.SearchStrategy[Source]:
    """Return what one source says: often little, at times one whole server, at times anything."""
    places = st.fixed_dictionaries({}, optional=_PLACES)
    few = st.fixed_dictionaries(
        {"provider": _PLACES["provider"]}, optional={"client_id": st.just("robot")}
    )
    whole = st.sampled_from([A, B]).map(
        lambda at: {
            "issuer": at,
            "device_authorization_endpoint": f"{at}/d",
            "token_endpoint": f"{at}/t",
        }
    )
    said = st.one_of(st.just({}), few, whole, places)
    if not with_set:
        return said
    parameters: st.SearchStrategy[Source] = st.one_of(
        st.just({}), st.fixed_dictionaries({}, optional=_PARAMETER)
    )
    return st.tuples(said, parameters).map(lambda both: both[0] | {"set": both[1]})


def _argv(line: Mapping[str, Any], *, profile: bool) -> list[str]:
    word = line.get("provider")
    argv = ["start", *(["studio"] if word in SERVERS and word != "github.com" else [])]
    argv += [word] if word else []
    argv += ["--profile", "work"] if profile else []
    for name, value in line.items():
        if name not in ("provider", "set"):
            argv += [f"--{name.replace('_', '-')}", value]
    return argv + [f"--set={name}={value}" for name, value in line.get("set", {}).items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("settings")
    (made / "providers.toml").write_text(PROVIDERS)
    return made


def provider_of(argv: list[str]) -> Provider:
    return Target(cast("TargetOptions", parse(argv))).provider()


ID: Final = {"client_id": "robot"}


@given(
    line=_source(),
    environment=_source(with_set=False),
    profile=_source(),
    chosen=st.sampled_from(["--profile", "DEVICEFLOW_PROFILE", "not"]),
)
# As new users typed it.
@example({"provider": "github", "issuer": A} | ID, {}, {}, "not")
@example({"provider": "github", "token_endpoint": f"{A}/t"} | ID, {}, {}, "not")
@example({"provider": "a.example.com", "issuer": B}, {}, {}, "not")
@example({"issuer": A, "token_endpoint": f"{B}/t"} | ID, {}, {}, "not")
@example({"issuer": A} | ID, {"revocation_endpoint": f"{B}/r"}, {}, "not")
@example({"provider": "anywhere", "issuer": A} | ID, {}, {}, "not")
@example({"set": {"base": B}}, {}, {"provider": "hosted", "set": {"base": A}} | ID, "--profile")
@example({"issuer": A}, {"issuer": A, "token_endpoint": f"{A}/t"}, {"issuer": A} | ID, "not")
def test_what_is_shown_recorded_and_contacted_is_one_server(
    folder: Path, line: Source, environment: Source, profile: Source, chosen: str
) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in profile.items() if name != "set"]
    pairs = ", ".join(f"{name} = {json.dumps(v)}" for name, v in profile.get("set", {}).items())
    text = "\n".join(["[profiles.work]", *lines, f"set = {{ {pairs} }}"])
    (folder / "config.toml").write_text(text)
    variables = {f"DEVICEFLOW_{name.upper()}": value for name, value in environment.items()}
    variables |= {
        "DEVICEFLOW_CONFIG": str(folder / "config.toml"),
        "DEVICEFLOW_PROVIDERS": str(folder / "providers.toml"),
    }
    if chosen == "DEVICEFLOW_PROFILE":
        variables["DEVICEFLOW_PROFILE"] = "work"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DEVICEFLOW_")}
    with mock.patch.dict(os.environ, kept | variables, clear=True):
        try:
            provider = provider_of(_argv(line, profile=chosen == "--profile"))
        except UsageError:
            return  # nothing can have been sent: there is no provider
        shown, events, everywhere = list[str](), list[Any](), Everywhere()
        client = Client(
            MemoryStore(),
            transport=everywhere,
            clock=VirtualClock(),
            output=shown.append,
            on_transition=events.append,
        )
        client.login(provider, name="nightly", open_browser=False, acknowledge=False)
        client.purge(tokens_after=0)
        client.sweep()

    asked = next(text for text in shown if "asks for access to" in text)
    names = [
        *everywhere.hosts,
        urlsplit(asked.rpartition(" ")[2].rstrip(".")).hostname,
        *(urlsplit(event["issuer"]).hostname for event in events),
    ]
    assert len({SERVERS[str(name)] for name in names}) == 1, names


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["github", "--issuer", A], f"github and --issuer {A} each name a server."),
        (["studio", "a.example.com", "--issuer", B], f"a.example.com and --issuer {B} each name"),
        (
            ["--issuer", A, "--token-endpoint", f"{B}/t"],
            f"--issuer {A} and --token-endpoint {B}/t each name a server.",
        ),
        (["https://github.com/login"], "https://github.com/login is the provider 'github'"),
    ],
)
def test_both_are_named_as_they_are_spelled(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", "/nowhere")

    with pytest.raises(UsageError) as refused:
        provider_of(["start", *argv, "--client-id", "robot"])

    assert said in str(refused.value)
    assert "Nothing was sent." in str(refused.value)


@pytest.mark.parametrize("host", ["github.com", "https://github.com", "github.com/"])
def test_host_of_a_known_provider_is_that_provider(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", "/nowhere")

    by_host = provider_of(["start", host, "--client-id", "robot"])

    assert by_host == provider_of(["start", "github", "--client-id", "robot"])


@pytest.mark.parametrize("address", ["[", "http://[", "a.b]c", "[::1"])
def test_what_is_neither_a_host_nor_a_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", "/nowhere")

    with pytest.raises(UsageError):
        provider_of(["start", address, "--client-id", "robot"])


def test_profile_and_command_line_are_named_as_they_are_spelled(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "config.toml").write_text(f'[profiles.work]\nissuer = "{A}"\nclient_id = "robot"')
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(folder / "config.toml"))

    with pytest.raises(UsageError, match=f'it has issuer = "{A}", and .* has --issuer {B}'):
        provider_of(["start", "--profile", "work", "--issuer", B])


def test_entry_that_names_no_server_takes_one_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("DEVICEFLOW_CONFIG", "/nowhere")
    monkeypatch.setenv("DEVICEFLOW_PROVIDERS", str(folder / "providers.toml"))
    argv = ["start", "anywhere", "--client-id", "robot", "--issuer", A]

    assert provider_of(argv).server == A
    with pytest.raises(UsageError, match="each name a server"):
        provider_of([*argv, "--token-endpoint", f"{B}/t"])
    with pytest.raises(UsageError, match="No server to log in to is given"):
        provider_of(argv[:4])
