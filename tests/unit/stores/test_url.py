"""Where the store is, and that nobody else can look into it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deviceflow.core.flow import Flow
from deviceflow.errors import StoreError, UsageError
from deviceflow.providers.studio import Studio
from deviceflow.stores._option import VARIABLE, state_directory
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.stores.url import open_store
from tests.stored import delete_ended, flows, get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.ports import Store


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (VARIABLE, "DEVICEFLOW_KEYS", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def opened() -> Iterator[list[Store]]:
    """Close at the end what was opened."""
    stores: list[Store] = []
    yield stores
    for store in stores:
        store.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///jobs/flows.db", "jobs/flows.db"),
        ("sqlite:////{home}/jobs/flows.db", "jobs/flows.db"),
        ("sqlite:///~/jobs/flows.db", "jobs/flows.db"),
        ("sqlite:///jobs/a%20b%3F.db", "jobs/a b?.db"),
        ("sqlite:///jobs/schlüssel", "jobs/schlüssel"),
    ],
)
def test_url_names_a_file(home: Path, opened: list[Store], url: str, path: str) -> None:
    (home / "jobs").mkdir()

    store = open_store(url.format(home=str(home).removeprefix("/")))
    opened.append(store)

    assert isinstance(store, SQLiteStore)
    assert store.path == home / path
    assert mode(home / path) == 0o600


def test_memory_is_a_place_as_well() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


def test_variable_names_it_unless_the_caller_does(
    monkeypatch: pytest.MonkeyPatch, home: Path, opened: list[Store]
) -> None:
    monkeypatch.setenv(VARIABLE, "sqlite:///one.db")

    opened += [open_store(), open_store("sqlite:///other.db")]

    paths = [store.path for store in opened if isinstance(store, SQLiteStore)]
    assert paths == [home / "one.db", home / "other.db"]


@pytest.mark.parametrize("variable", [None, ""])
def test_default_is_a_private_file_in_the_users_own_place(
    monkeypatch: pytest.MonkeyPatch, home: Path, opened: list[Store], variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    old = os.umask(0)
    try:
        opened.append(open_store())
    finally:
        os.umask(old)

    folder = home / ".local/state/deviceflow"
    for made in (folder, folder.parent, folder.parent.parent):
        assert mode(made) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "flows.db": 0o600,
        "flows.db-shm": 0o600,
        "flows.db-wal": 0o600,
        "flows.db.key": 0o600,
    }


def test_directories_that_are_there_keep_their_modes(home: Path, opened: list[Store]) -> None:
    (home / ".local").mkdir()
    (home / ".local").chmod(0o755)

    opened.append(open_store())

    assert mode(home / ".local") == 0o755
    assert mode(home / ".local/state") == 0o700


def test_place_is_where_xdg_has_it(
    monkeypatch: pytest.MonkeyPatch, home: Path, opened: list[Store]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "xdg"))

    opened.append(open_store(plaintext=True))

    assert [path.name for path in (home / "xdg").iterdir()] == ["deviceflow"]
    assert not list((home / "xdg/deviceflow").glob("*.key"))


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("linux", ".local/state/deviceflow"),
        ("darwin", "Library/Application Support/deviceflow"),
        ("win32", "AppData/Local/deviceflow"),
    ],
)
def test_each_platform_has_its_own(
    monkeypatch: pytest.MonkeyPatch, home: Path, platform: str, place: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)

    assert state_directory() == home / place
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert (state_directory() == home / "local/deviceflow") == (platform == "win32")


@pytest.mark.parametrize("exposed", [0o750, 0o705, 0o777])
def test_place_that_others_can_look_into_is_refused_with_the_command_that_mends_it(
    home: Path, opened: list[Store], exposed: int
) -> None:
    folder = home / ".local/state/deviceflow"
    folder.mkdir(parents=True)
    folder.chmod(exposed)

    with pytest.raises(StoreError, match="Other users have access to the store") as caught:
        open_store()

    assert f"chmod 700 {folder}" in str(caught.value)
    folder.chmod(0o700)
    opened.append(open_store())


@pytest.mark.parametrize("exposed", [0o640, 0o604, 0o666])
def test_file_that_others_can_read_is_refused_with_the_command_that_mends_it(
    home: Path, opened: list[Store], exposed: int
) -> None:
    open_store("sqlite:///flows.db").close()
    (home / "flows.db").chmod(exposed)

    with pytest.raises(StoreError, match="Other users have access to the store") as caught:
        open_store("sqlite:///flows.db")

    assert f"chmod 600 {home / 'flows.db'}" in str(caught.value)
    (home / "flows.db").chmod(0o600)
    opened.append(open_store("sqlite:///flows.db"))


@pytest.mark.parametrize("exposed", [0o640, 0o604, 0o620, 0o666])
def test_file_that_others_can_read_is_refused_while_it_is_open_too(
    home: Path, exposed: int
) -> None:
    with SQLiteStore(home / "flows.db", plaintext=True) as store:
        flow = Flow("f1", Studio("https://studio.example.com"), 1e9)
        store.add(flow)
        (home / "flows.db").chmod(exposed)

        for use in (
            lambda: get(store, "f1"),
            lambda: store.add(Flow("f2", flow.provider, 1e9)),
            lambda: delete_ended(store, 0.0),
            lambda: list(flows(store)),
            lambda: store.snapshot().__enter__(),
        ):
            with pytest.raises(StoreError, match="Other users have access to the store") as caught:
                use()
            assert f"chmod 600 {home / 'flows.db'}" in str(caught.value)

        (home / "flows.db").chmod(0o600)
        assert get(store, "f1").id == "f1"


def test_place_that_cannot_be_made_says_what_to_do(home: Path) -> None:
    (home / ".local").write_text("no directory")

    with pytest.raises(StoreError, match="cannot be used") as caught:
        open_store()

    assert f"{VARIABLE}=sqlite:///PATH" in str(caught.value)


def test_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)

    with pytest.raises(StoreError, match="has no home") as caught:
        open_store()

    assert f"{VARIABLE}=sqlite:///PATH" in str(caught.value)


def test_file_in_no_directory_says_so(home: Path) -> None:
    with pytest.raises(
        StoreError, match=r"cannot be used as a store: there is no directory .*Create it"
    ):
        open_store("sqlite:///nowhere/flows.db")


@pytest.mark.parametrize(
    "url",
    ["flows.db", "sqlite:", "sqlite:///", "sqlite://flows.db", "mysql://u:PASSWORD@h/d", ":", "x"],
)
def test_what_is_no_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="The URL of the store is invalid") as caught:
        open_store(url)

    assert "PASSWORD" not in str(caught.value)


def test_address_of_a_database_that_cannot_be_read_is_not_quoted() -> None:

    with pytest.raises(UsageError, match="The URL of the database is invalid") as caught:
        open_store("postgresql://user:PASSWORD@host:port/name?nonsense")

    assert "PASSWORD" not in str(caught.value)


def test_postgresql_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ImportError, match=r"pip install 'deviceflow\[postgres\]'"):
        open_store("postgresql://localhost/x")


def test_what_synchronous_may_be_is_said() -> None:
    with pytest.raises(StoreError, match="must be FULL or NORMAL, not 'OFF'"):
        open_store("sqlite:///flows.db", synchronous="OFF")
