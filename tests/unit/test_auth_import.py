"""What importing `deviceflow.auth` costs, and what it offers, exactly as documented."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import requests

import deviceflow
from deviceflow import auth, errors
from deviceflow.providers import studio
from tests.public import names_of

SOURCE = str(Path(deviceflow.__file__).parents[1])
HEAVY = {
    "requests",
    "urllib3",
    "transitions",
    "structlog",
    "rich",
    "typing",
    "dataclasses",
    "enum",
    "json",
    "re",
    "collections",
    "functools",
    "logging",
    "threading",
    "webbrowser",
    "importlib.metadata",
    "importlib.resources",
    "ssl",
    "http",
    "email",
    "urllib",
}
ASKED: dict[str, tuple[str, Any]] = {
    "team_names": ("list[str] | None", None),
    "all_teams": ("bool | None", None),
    "expires_in_days": ("int | None", None),
    "never_expires": ("bool | None", None),
}
NONE = inspect.Parameter.empty


def modules_loaded_by(statement: str) -> set[str]:
    """Return what a fresh interpreter has loaded more after `statement`."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "after = set(sys.modules) - before; import json; print(json.dumps(sorted(after)))"
    )
    done = subprocess.run(
        # Without `site`, so that nothing is there already because of some `.pth` file.
        [sys.executable, "-S", "-c", program],
        env=os.environ | {"PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(json.loads(done.stdout))


def test_importing_it_loads_nothing_heavy() -> None:
    loaded = modules_loaded_by("import deviceflow.auth")

    assert {name for name in loaded if name in HEAVY or name.split(".")[0] in HEAVY} == set()
    assert loaded == {"__future__", "deviceflow", "deviceflow.auth", "deviceflow.errors"}


@pytest.mark.parametrize(
    "name", sorted(names_of("deviceflow.auth") - {"AVAILABLE_SCOPES", "DeviceLoginResponse"})
)
def test_naming_what_is_there_loads_nothing_heavy(name: str) -> None:
    loaded = modules_loaded_by(f"from deviceflow.auth import {name}")

    assert {module for module in loaded if module.split(".")[0] in HEAVY} == set()


def test_the_heavy_ones_would_be_noticed() -> None:
    loaded = modules_loaded_by("import json, deviceflow.auth, dataclasses")

    assert {"json", "dataclasses", "re", "enum"} <= loaded & HEAVY


def test_it_exports_the_documented_names() -> None:
    assert set(auth.__all__) == names_of("deviceflow.auth")
    exported: dict[str, Any] = {}
    exec("from deviceflow.auth import *", exported)
    assert set(auth.__all__) <= exported.keys()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        auth.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_scopes_are_studios() -> None:
    assert auth.AVAILABLE_SCOPES == ["EXPERIMENTS", "DATASETS", "MODELS"]
    assert auth.AVAILABLE_SCOPES is studio.AVAILABLE_SCOPES


def test_the_answer_is_a_typed_dict_whose_lifetime_may_be_missing() -> None:
    kind: Any = auth.DeviceLoginResponse

    assert issubclass(kind, dict)
    assert list(kind.__annotations__) == [
        "device_code",
        "user_code",
        "verification_uri",
        "token_uri",
        "token_name",
        "expires_in",
    ]
    hints = typing.get_type_hints(kind, include_extras=True)
    assert hints.pop("expires_in") == typing.NotRequired[int]
    assert set(hints.values()) == {str}


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (auth.StudioAuthError, (errors.DeviceFlowError, Exception)),
        (auth.InvalidScopesError, (auth.StudioAuthError, ValueError)),
        (auth.AuthorizationExpiredError, (auth.StudioAuthError, errors.DeviceFlowError)),
    ],
)
def test_the_errors_are_of_the_documented_kinds(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert all(issubclass(error, base) for base in bases)
    assert not issubclass(error, requests.RequestException)
    assert str(error())  # all constructor arguments are optional


@pytest.mark.parametrize(
    ("function", "parameters", "returns"),
    [
        (
            auth.check_token_authentication,
            {"uri": ("str", NONE), "device_code": ("str", NONE)},
            "str | None",
        ),
        (
            auth.get_access_token,
            {
                "hostname": ("str", NONE),
                "token_name": ("str | None", None),
                "scopes": ("str | None", ""),
                "client_name": ("str", "client"),
                "open_browser": ("bool", True),
                "post_login_message": ("str | None", None),
                "use_device_code": ("bool", False),
                **ASKED,
            },
            "tuple[str, str]",
        ),
        (
            auth.start_device_login,
            {
                "client_name": ("str", NONE),
                "base_url": ("str | None", None),
                "token_name": ("str | None", None),
                "scopes": ("list[str] | None", None),
                **ASKED,
            },
            "DeviceLoginResponse",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_functions_take_and_return_what_is_documented(
    function: Any, parameters: dict[str, tuple[str, Any]], returns: str
) -> None:
    signature = inspect.signature(function)
    found = signature.parameters

    assert list(found) == list(parameters)
    assert {name: (p.annotation, p.default) for name, p in found.items()} == parameters
    assert {p.kind for p in found.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert signature.return_annotation == returns
    assert function.__doc__


@pytest.mark.parametrize(
    "function",
    [auth.check_token_authentication, auth.get_access_token, auth.start_device_login],
)
def test_the_functions_take_nothing_by_position(function: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        function("https://studio.example.com", "value")
