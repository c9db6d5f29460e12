"""What no operation may do, read from the source: see `deviceflow.client.world`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow import client, worker
from deviceflow.integrations import _bearer

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVERS: Final = frozenset(
    {"_async.py", "_async_grants.py", "_base.py", "_cancellation.py", "clock.py"}
)
FILES: Final = (
    *(one for one in Path(client.__path__[0]).glob("*.py") if one.name not in DRIVERS),
    Path(worker.__path__[0], "_drive.py"),
    Path(str(_bearer.__file__)),
)


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ("imports asyncio" for name in names if name.name == "asyncio")
            case ast.ImportFrom(module="asyncio"):
                yield "imports asyncio"
            case ast.AsyncFunctionDef(body=body):
                inner = (one for part in body for one in ast.walk(part))
                if any(isinstance(one, ast.Yield) for one in inner):
                    yield f"{node.name} is an async generator"
            case ast.Try(finalbody=final):
                if any(isinstance(one, ast.Await) for part in final for one in ast.walk(part)):
                    yield f"awaits in a finally, line {node.lineno}"
            case _:
                pass


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_operations_use_ports_only_and_await_nothing_while_they_are_closed(path: Path) -> None:
    assert list(faults(path.read_text())) == []


def test_each_fault_is_found() -> None:
    source = """
import asyncio
from asyncio import sleep
async def one():
    yield 1
async def two():
    try:
        pass
    finally:
        await three()
"""
    assert len(list(faults(source))) == 4
