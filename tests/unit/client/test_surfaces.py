"""`Client` and `AsyncClient` are one surface, but for what is awaited."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import pytest

from deviceflow.client._async import AsyncClient
from deviceflow.client._sync import Client

TWINS: Final = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def surface(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in inspect.getmembers_static(kind)
        if not name.startswith("_") or name in {"__init__", *TWINS, *TWINS.values()}
    }


NAMES: Final = sorted(surface(Client))


def as_async(text: str) -> str:
    """Return the text of a signature, or of an annotation, that the async twin has."""
    return re.sub(r"\b(Store|Transport|Clock|Iterator)\b", r"Async\1", text)


def test_both_have_the_same_names() -> None:
    assert sorted(TWINS.get(name, name) for name in NAMES) == sorted(surface(AsyncClient))


@pytest.mark.parametrize("name", NAMES)
def test_both_have_the_same_signature_and_docstring(name: str) -> None:
    ours, twin = getattr(Client, name), getattr(AsyncClient, TWINS.get(name, name))
    if isinstance(ours, property):
        assert ours is twin
    else:
        assert str(inspect.signature(twin)) == as_async(str(inspect.signature(ours)))
        assert twin.__doc__ == ours.__doc__


@pytest.mark.parametrize("name", sorted({*NAMES} - {"__init__", "durable"}))
def test_what_the_one_returns_the_other_has_awaited(name: str) -> None:
    ours, twin = getattr(Client, name), getattr(AsyncClient, TWINS.get(name, name))
    if "Iterator" not in str(inspect.signature(ours).return_annotation):
        assert inspect.iscoroutinefunction(twin)
    elif hasattr(ours, "__wrapped__"):
        assert inspect.isasyncgenfunction(inspect.unwrap(twin))
        assert inspect.unwrap(twin) is not twin  # it is a context manager
    else:
        assert inspect.isasyncgenfunction(twin)


def test_each_public_method_says_what_it_does() -> None:
    public = {name: value for name, value in surface(AsyncClient).items() if name[0] != "_"}

    assert [name for name, value in public.items() if not value.__doc__] == []
