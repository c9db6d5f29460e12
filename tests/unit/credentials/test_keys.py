"""Where a store's keys come from, and what is said where they do not."""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from deviceflow.core.encryption import Plain, Sealer, generate_key
from deviceflow.credentials.keys import KEYRING, VARIABLE, key_file, read_keys, sealer, write_keys
from deviceflow.errors import SealError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.secret import Secret

    Rendered = Callable[[BaseException], str]


@pytest.fixture
def keys() -> list[Secret]:
    return [generate_key() for _ in range(3)]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "flows.db"


def made_of(found: object, keys: list[Secret]) -> bool:
    """Tell whether these are its keys, in this order."""
    return repr(found) == repr(Sealer(keys))


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# Which ones.


def test_given_keys_come_before_all_others(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], store: Path
) -> None:
    monkeypatch.setenv(VARIABLE, keys[2].reveal())

    assert made_of(sealer(keys[:2], plaintext=False, store=store), keys[:2])
    assert not key_file(store).exists()


def test_keys_of_the_environment_come_before_the_file(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], store: Path
) -> None:
    write_keys(key_file(store), keys[:1])
    monkeypatch.setenv(VARIABLE, keys[1].reveal())

    assert made_of(sealer(None, plaintext=False, store=store), keys[1:2])


@pytest.mark.parametrize(
    "form", ["{0},{1},{2}", "{0} {1} {2}", " {0}\n,{1},\t{2}\n", ",{0},,{1} {2},"]
)
def test_keys_are_separated_by_commas_or_white_space(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], form: str
) -> None:
    monkeypatch.setenv(VARIABLE, form.format(*(key.reveal() for key in keys)))

    assert made_of(sealer(None, plaintext=False), keys)


def test_keys_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], tmp_path: Path
) -> None:
    written(tmp_path / "old", "".join(f"{key.reveal()}\n" for key in keys[1:]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, f"{keys[0].reveal()},file:~/old")

    assert made_of(sealer(None, plaintext=False), keys)


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, store: Path, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)

    sealer(None, plaintext=False, store=store)

    assert key_file(store).exists()


def test_shared_database_without_a_key_is_refused_with_the_command_that_makes_one() -> None:
    with pytest.raises(
        SealError, match="no key to seal the secrets of this shared store"
    ) as caught:
        sealer(None, plaintext=False)

    assert f"Set {VARIABLE}" in str(caught.value)
    assert "deviceflow keys generate" in str(caught.value)


@pytest.mark.parametrize("value", ["KEY-CANARY", "{0},KEY-CANARY", "{0} {0} KEY-CANARY,{0}"])
def test_what_is_no_key_is_not_shown_and_no_other_key_either(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], rendered: Rendered, value: str
) -> None:
    key = keys[0].reveal()
    monkeypatch.setenv(VARIABLE, value.format(key))

    with pytest.raises(SealError, match=r"Key number \d is not a Fernet key") as caught:
        sealer(None, plaintext=False)

    shown = rendered(caught.value)
    assert "CANARY" not in shown
    assert key not in shown


# In clear.


def test_secrets_are_in_clear_only_where_that_is_said(store: Path) -> None:
    assert isinstance(sealer(None, plaintext=True, store=store), Plain)
    assert not key_file(store).exists()


def test_store_that_was_made_in_clear_is_not_opened_with_a_key(
    keys: list[Secret], store: Path
) -> None:
    mark = Plain().seal("deviceflow")

    with pytest.raises(SealError, match="created with plaintext=True"):
        sealer(keys, plaintext=False, store=store, known=mark)


def test_without_the_library_a_store_is_refused_unless_it_is_in_clear(
    monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)

    with pytest.raises(ImportError, match=r"deviceflow\[seal\]"):
        sealer(None, plaintext=False, store=store)
    assert not key_file(store).exists()
    assert isinstance(sealer(None, plaintext=True, store=store), Plain)


# The file beside the store.


def test_key_file_is_made_beside_a_new_store_for_its_owner_only(store: Path) -> None:
    old = os.umask(0)
    try:
        found = sealer(None, plaintext=False, store=store)
    finally:
        os.umask(old)

    file = key_file(store)
    assert (file.name, file.parent) == ("flows.db.key", store.parent)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(store.parent.iterdir()) == [file]
    assert made_of(found, read_keys(file))
    assert made_of(sealer(None, plaintext=False, store=store, known="df1."), read_keys(file))


def test_key_file_of_a_store_that_was_used_is_not_made_anew(store: Path) -> None:
    with pytest.raises(SealError, match="is missing") as caught:
        sealer(None, plaintext=False, store=store, known="df1.00000000.x")

    assert f"Restore the file, or set {VARIABLE}" in str(caught.value)
    assert not key_file(store).exists()


def test_key_file_that_is_there_is_left_as_it_is(keys: list[Secret], tmp_path: Path) -> None:
    file = tmp_path / "k"
    assert write_keys(file, keys[:1], new=True)

    assert not write_keys(file, keys[1:], new=True)

    assert read_keys(file) == keys[:1]
    assert list(tmp_path.iterdir()) == [file]


def test_key_file_is_replaced_as_a_whole(keys: list[Secret], tmp_path: Path) -> None:
    file = tmp_path / "k"
    write_keys(file, keys[:1])

    assert write_keys(file, keys)

    assert read_keys(file) == keys
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o611, 0o777])
def test_key_file_that_others_can_reach_is_refused_with_the_command_that_mends_it(
    keys: list[Secret], tmp_path: Path, rendered: Rendered, mode: int
) -> None:
    file = written(tmp_path / "k", keys[0].reveal(), mode)

    with pytest.raises(StoreError, match="Other users can read the key file") as caught:
        read_keys(file)

    assert f"chmod 600 {file}" in str(caught.value)
    assert keys[0].reveal() not in rendered(caught.value)
    file.chmod(0o600)
    assert read_keys(file) == keys[:1]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(mode=0o700), "Is a directory"),
        (
            lambda path: path.touch(0o600) or path.write_bytes(b"\xffKEY-CANARY"),
            "it is not ASCII text",
        ),
    ],
)
def test_key_file_that_cannot_be_read_says_why(
    tmp_path: Path, rendered: Rendered, make: Callable[[Path], Any], why: str
) -> None:
    file = tmp_path / "k"
    make(file)

    with pytest.raises(StoreError, match=f"{file} cannot be read: {why}") as caught:
        read_keys(file)

    assert "CANARY" not in rendered(caught.value)


def test_key_file_that_is_named_and_missing_is_not_made(
    monkeypatch: pytest.MonkeyPatch, keys: list[Secret], tmp_path: Path, rendered: Rendered
) -> None:
    monkeypatch.setenv(VARIABLE, f"{keys[0].reveal()},file:{tmp_path / 'k'}")

    with pytest.raises(StoreError, match="cannot be read") as caught:
        sealer(None, plaintext=False)

    assert keys[0].reveal() not in rendered(caught.value)


def test_empty_key_file_has_no_key(store: Path) -> None:
    written(key_file(store), "\n")

    with pytest.raises(SealError, match="no key to seal with"):
        sealer(None, plaintext=False, store=store)


@pytest.mark.parametrize("new", [True, False])
def test_key_file_that_cannot_be_written_says_why(
    keys: list[Secret], tmp_path: Path, rendered: Rendered, new: bool
) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file") as caught:
        write_keys(tmp_path / "nowhere" / "k", keys, new=new)

    assert keys[0].reveal() not in rendered(caught.value)


def test_draft_that_failed_is_taken_away(keys: list[Secret], tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()

    with pytest.raises(StoreError, match="cannot be written"):
        write_keys(tmp_path / "k", keys)

    assert [path.name for path in tmp_path.iterdir()] == ["k"]


# The keyring.


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Have a keyring that answers so, or raises it."""

    def keep(said: Any) -> None:
        def get_password(service: str, username: str) -> str | None:
            assert (service, username) == KEYRING
            if isinstance(said, BaseException):
                raise said
            kept: str | None = said
            return kept

        module = types.SimpleNamespace(get_password=get_password)
        monkeypatch.setitem(sys.modules, "keyring", module)
        monkeypatch.setenv(VARIABLE, "keyring:")

    return keep


def test_keys_may_be_in_the_keyring(
    monkeypatch: pytest.MonkeyPatch, keyring: Callable[[Any], None], keys: list[Secret]
) -> None:
    keyring(" ".join(key.reveal() for key in keys[:2]))

    assert made_of(sealer(None, plaintext=False), keys[:2])
    monkeypatch.setenv(VARIABLE, f"{keys[2].reveal()} keyring:")
    assert made_of(sealer(None, plaintext=False), [keys[2], *keys[:2]])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "the keyring has no keys. Create one with: deviceflow keys generate --keyring"),
        ("", "the keyring has no keys"),
        (RuntimeError("the collection is locked"), "the collection is locked"),
        (OSError(), "OSError"),
    ],
)
def test_keyring_without_keys_says_why(keyring: Callable[[Any], None], said: Any, why: str) -> None:
    keyring(said)

    with pytest.raises(SealError, match=f"is set to keyring:, but the keys cannot be read: {why}"):
        sealer(None, plaintext=False)


def test_keyring_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setenv(VARIABLE, "keyring:")

    with pytest.raises(SealError, match=r"pip install 'deviceflow\[cli\]'"):
        sealer(None, plaintext=False)
