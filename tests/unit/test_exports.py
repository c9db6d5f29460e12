"""What the package offers: few names at the top, loaded on first use, and types for the rest."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import deviceflow
import deviceflow.typing as types
from deviceflow import errors, testing
from deviceflow.client._sync import Client
from tests.public import names_of

FIRST: Final = names_of("deviceflow") - {"__version__"}


def imports_of(module: Any) -> dict[str, str]:
    """Return the names that a module's source imports from this package, with where from."""
    tree = ast.parse(Path(module.__file__).read_text())
    return {
        name.asname or name.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deviceflow.")
        for name in node.names
    }


def test_a_first_program_finds_these() -> None:
    assert {"Client", "LoginPending", "OAuth", "Token", "open_store", "provider"} < FIRST
    assert {"__version__", *FIRST} == set(deviceflow.__all__) <= set(dir(deviceflow))


@pytest.mark.parametrize("package", [deviceflow, testing])
def test_type_checkers_are_shown_the_same_names_from_the_same_modules(package: Any) -> None:
    assert imports_of(package) == {
        name: f"{package.__name__}.{home}" for name, home in package._HOME_OF.items()
    }


def test_what_tests_use_is_loaded_on_first_use() -> None:
    assert set(testing.__all__) <= set(dir(testing))
    assert testing.VirtualClock().slept == []
    with pytest.raises(AttributeError, match=r"module 'deviceflow\.testing' has no attribute 'X'"):
        _ = testing.X  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_name_is_the_same_object_as_in_its_module(name: str) -> None:
    module = sys.modules[getattr(deviceflow, name).__module__]

    assert getattr(deviceflow, name) is getattr(module, name)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'deviceflow' has no attribute 'Flow'"):
        _ = deviceflow.Flow  # type: ignore[attr-defined]


def test_importing_the_package_loads_none_of_its_modules() -> None:
    program = (
        "import sys, json; import deviceflow; dir(deviceflow);"
        " print(json.dumps([name for name in sys.modules if 'deviceflow' in name or name in"
        " ('requests', 'structlog', 'transitions', 'typing')]))"
    )
    # Without `site`, so that nothing is there already because of some `.pth` file.
    command = [sys.executable, "-S", "-c", program]
    source = str(Path(deviceflow.__file__).parents[1])

    done = subprocess.run(
        command, env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == ["deviceflow"]


def test_no_name_is_one_of_asyncios() -> None:
    import asyncio  # noqa: PLC0415

    named = {*deviceflow.__all__, *vars(errors), *vars(types)}
    assert {name for name in named if name.endswith("Error")} & set(asyncio.__all__) == set()


PROTOCOLS: Final = sorted(
    name for name in types.__all__ if getattr(vars(types)[name], "_is_protocol", False)
)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_what_it_is_for(name: str) -> None:
    assert vars(types)[name].__doc__
    assert not vars(types)[name].__doc__.startswith(f"{name}(")


def test_all_that_the_types_module_names_is_re_exported() -> None:
    assert set(types.__all__) == imports_of(types).keys()
    assert types.__all__ == sorted(types.__all__)


@pytest.mark.parametrize("name", sorted({*PROTOCOLS} - {"OnTransition"}))
def test_what_a_protocols_signatures_name_of_ours_is_exported_too(name: str) -> None:
    """Whoever implements a protocol can write its signatures."""
    protocol = vars(types)[name]
    places = {
        value.__module__ for value in vars(types).values() if hasattr(value, "__module__")
    } | {protocol.__module__}
    scope: dict[str, Any] = {}
    for place in places:
        scope |= vars(sys.modules[place])
    source = inspect.getsource(protocol)
    named = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    ours = {
        word
        for word in named
        if str(getattr(scope.get(word), "__module__", "")).startswith("deviceflow.")
        and isinstance(scope[word], type)
    }

    assert ours <= {*types.__all__, *vars(errors)}


def test_a_client_has_types_for_its_parts() -> None:
    hints = inspect.get_annotations(Client.__init__)

    assert {"Store", "Transport", "Clock", "Approver", "Origin"} <= {
        word for hint in hints.values() for word in str(hint).replace("|", " ").split()
    }


def test_asyncio_is_loaded_by_the_async_client_only() -> None:
    program = (
        "import deviceflow, sys; deviceflow.Client(); print('asyncio' in sys.modules);"
        " deviceflow.AsyncClient(); print('asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["False", "True"]
