"""PostgreSQL databases that cannot keep every text: a store refuses them when it is opened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from deviceflow import errors
from deviceflow.core import queries
from deviceflow.stores.async_postgres import AsyncPostgresStore
from deviceflow.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

NAME: Final = "in_ascii"


def test_database_that_is_not_in_unicode_is_refused_and_nothing_is_charged(
    postgres_server: PostgresServer,
) -> None:
    admin, _, _ = postgres_server.url.rpartition("/")
    url = f"{admin}/{NAME}"

    async def open_async() -> None:
        store = AsyncPostgresStore(url, plaintext=True)
        try:
            await store.select(queries.pending(), 0.0)
        finally:
            await store.close()

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {NAME} ENCODING 'SQL_ASCII' TEMPLATE template0"
            " LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            for _ in range(2):
                with pytest.raises(errors.StoreError) as refused:
                    PostgresStore(url, plaintext=True)
                with pytest.raises(errors.StoreError, match="encoding is not UTF8"):
                    asyncio.run(open_async())
        finally:
            connection.execute(f"DROP DATABASE {NAME} (FORCE)")

    said = str(refused.value)
    assert "encoding is not UTF8" in said
    assert "CREATE DATABASE deviceflow ENCODING 'UTF8'" in f"{said} {refused.value.hint}"
    assert "changed it" not in said


def test_encoding_that_the_environment_names_is_not_used(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    for _ in range(2):
        with PostgresStore(postgres_url, plaintext=True) as store:
            assert not store.select(queries.pending(), 0.0)
