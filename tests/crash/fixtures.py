"""What the tests of crashes, of competition and of suspension stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.places import KINDS
from tests.crash.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.places import Kind
    from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Run what forks the children."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Name each kind of store in turn."""
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def postgres(kind: Kind, request: pytest.FixtureRequest) -> PostgresServer | None:
    """Run a PostgreSQL, where the store is to be in one."""
    if kind == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server
