"""`--save keyring`, with backends of all kinds."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.server import LocalServer, Settings
from tests.integration.command import asked_of, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.command import Command, Done

BACKENDS: Final = '''
import json, os, pathlib
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError, PasswordSetError

class InFile(KeyringBackend):
    """Keeps everything in a file."""
    priority = 1
    file = pathlib.Path("kept.json")

    def _read(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def get_password(self, service, username):
        return self._read().get(f"{service}: {username}")

    def set_password(self, service, username, password):
        self.file.write_text(json.dumps(self._read() | {f"{service}: {username}": password}))

    def delete_password(self, service, username):
        kept = self._read()
        del kept[f"{service}: {username}"]
        self.file.write_text(json.dumps(kept))

class Locked(InFile):
    def set_password(self, *_):
        raise KeyringLocked("the collection is locked")

class Silent(InFile):
    def set_password(self, *_):
        raise OSError

class Forgetful(InFile):
    def get_password(self, *_):
        return None

class Full(InFile):
    """Takes what is short, as Windows does, and quotes what is not."""

    def set_password(self, service, username, password):
        if len(password) > 30:
            raise PasswordSetError(f"too long: {password}")
        super().set_password(service, username, password)
'''


@pytest.fixture(scope="module")
def quick() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as server:
        yield server


@pytest.fixture
def save(deviceflow: Command, quick: LocalServer, tmp_path: Path) -> Callable[..., Done]:
    (tmp_path / "backends.py").write_text(BACKENDS)

    def login(backend: str, *args: str) -> Done:
        backend = backend if "." in backend else f"backends.{backend}"
        return deviceflow(
            *(
                "login",
                "--once",
                "--issuer",
                quick.url,
                "--client-id",
                "robot",
                "--save",
                "keyring",
                *args,
            ),
            act=decide(quick, "approve"),
            PYTHON_KEYRING_BACKEND=backend,
            PYTHONPATH=str(tmp_path),
        )

    return login


@pytest.mark.parametrize("form", ["token", "json"])
def test_the_token_is_kept_by_the_servers_address_and_the_client(
    save: Callable[..., Done], deviceflow: Command, quick: LocalServer, form: str
) -> None:
    done = save("InFile", "--format", form)

    kept: dict[str, Any] = json.loads((deviceflow.home / "kept.json").read_text())
    assert done.code == 0, done.err
    assert list(kept) == [f"deviceflow: {quick.url} robot"]
    (text,) = kept.values()
    token = json.loads(text)["access_token"] if form == "json" else text
    assert len(token) > 20
    assert token not in done.out + done.err
    assert f"deviceflow: {quick.url} robot" in done.err


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("Locked", "the collection is locked"),
        ("Silent", "OSError"),
        ("Forgetful", "a test value was not saved"),
        ("keyring.backends.fail.Keyring", "this machine has none"),
        ("keyring.backends.null.Keyring", "a test value was not saved"),
        ("backends.Missing", "Missing"),
    ],
)
def test_a_keyring_that_does_not_work_is_found_out_before_anybody_is_asked(
    save: Callable[..., Done], quick: LocalServer, backend: str, words: str
) -> None:
    before = asked_of(quick)

    done = save(backend)

    assert (done.code, done.out) == (2, "")
    assert "No login was started" in done.err
    assert words in done.err
    assert asked_of(quick) == before


def test_a_keyring_that_fails_after_all_says_what_to_do_and_not_the_token(
    save: Callable[..., Done], deviceflow: Command
) -> None:
    done = save("Full")

    assert (done.code, done.out) == (5, "")
    assert "too long: <secret>" in done.err
    (flow_id,) = re.findall(
        r"The store still has the token: deviceflow token (\S+) --acknowledge", done.err
    )
    assert len(deviceflow("token", flow_id, "--acknowledge").out) > 30


def test_a_keyring_that_fails_after_all_loses_what_is_in_memory_and_says_so(
    save: Callable[..., Done],
) -> None:
    done = save("Full", "--store", "memory:")

    assert (done.code, done.out) == (5, "")
    assert "The token is lost: revoke it" in done.err


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ([], "The store still has the token: deviceflow token"),
        (["--store", "memory:"], "in the other place"),
    ],
    ids=["kept", "in memory"],
)
def test_a_token_that_one_place_refuses_is_in_the_other(
    save: Callable[..., Done], deviceflow: Command, store: list[str], words: str
) -> None:
    done = save("Full", "--output", "token.txt", "--json", *store)

    token = (deviceflow.home / "token.txt").read_text().strip()
    assert done.code == 5
    assert done.said["state"] == "authorized"
    assert words in done.said["error"]
    assert len(token) > 20
    assert token not in done.out + done.err
