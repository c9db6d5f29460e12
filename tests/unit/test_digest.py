"""Digests: signed, in a row, written whole or not at all, and nothing in them is unsigned."""

from __future__ import annotations

import base64
import json
import stat
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Secret, StoreError
from deviceflow.audit.digest import (
    Digest,
    Signer,
    files_of,
    generate_signing_key,
    read_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

TIME: Final = "2026-11-24T12:00:00.000+00:00"
HEADS: Final = {"f2": (7, "b" * 64), "f1": (3, "a" * 64)}
DROPPED: Final = {"f0": (9, "c" * 64)}


@pytest.fixture
def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


def test_digest_comes_back_as_it_was_written(signer: Signer, tmp_path: Path) -> None:
    written = signer.write(tmp_path, TIME, HEADS, DROPPED)

    read = read_digest(tmp_path / "digest-000001.json")
    assert read == written
    assert (read.number, read.time, read.previous) == (1, TIME, None)
    assert (read.heads, read.dropped) == (HEADS, DROPPED)
    assert read.public_key == signer.public_key


def test_signature_is_of_whoever_has_the_key(signer: Signer, tmp_path: Path) -> None:
    other = Signer(Secret(generate_signing_key()))
    digest = signer.write(tmp_path, TIME, HEADS)

    assert digest.is_signed_by(signer.public_key)
    assert digest.is_signed_by_its_own_key()
    assert not digest.is_signed_by(other.public_key)
    assert not replace(digest, public_key=other.public_key).is_signed_by_its_own_key()
    assert not replace(digest, public_key="x").is_signed_by_its_own_key()


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"time": "2026-11-25T12:00:00.000+00:00"},
        {"previous": "d" * 64},
        {"heads": {}},
        {"heads": HEADS | {"f1": (4, "a" * 64)}},
        {"dropped": {}},
        {"signature": ""},
        {"signature": "no base64!"},
    ],
)
def test_whatever_is_changed_the_signature_is_wrong(
    signer: Signer, tmp_path: Path, change: dict[str, Any]
) -> None:
    digest = signer.write(tmp_path, TIME, HEADS, DROPPED)

    assert not replace(digest, **change).is_signed_by(signer.public_key)


def test_each_digest_names_the_one_before(signer: Signer, tmp_path: Path) -> None:
    first, second, third = (signer.write(tmp_path, TIME, HEADS) for _ in range(3))

    assert [digest.number for digest in (first, second, third)] == [1, 2, 3]
    assert (second.previous, third.previous) == (first.hash, second.hash)
    assert len({first.hash, second.hash, third.hash}) == 3


@given(
    ids=st.lists(st.text(), unique=True, max_size=5), number=st.integers(1, 10**9), time=st.text()
)
def test_signed_part_is_in_the_rfcs_form(ids: list[str], number: int, time: str) -> None:
    heads = {name: (place, "a" * 64) for place, name in enumerate(ids)}
    digest = Digest(number, time, None, heads, heads, "key")

    fields = json.loads(digest.signed_part())
    assert digest.signed_part() == rfc8785.dumps(fields)
    assert {flow: tuple(head) for flow, head in fields["heads"].items()} == heads
    assert "signature" not in fields


def test_file_can_be_copied_by_anybody_and_nothing_else_is_left(
    signer: Signer, tmp_path: Path
) -> None:
    signer.write(tmp_path, TIME, HEADS)

    assert [path.name for path in tmp_path.iterdir()] == ["digest-000001.json"]
    assert stat.S_IMODE((tmp_path / "digest-000001.json").stat().st_mode) == 0o644


def test_no_digest_is_written_over(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer.write(tmp_path, TIME, HEADS)
    before = (tmp_path / "digest-000001.json").read_bytes()
    # As if the other one had been written just now.
    monkeypatch.setattr("deviceflow.audit.digest.files_of", lambda directory: [])

    with pytest.raises(StoreError, match="could not be written"):
        signer.write(tmp_path, TIME, {})

    assert (tmp_path / "digest-000001.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_directory_that_is_not_there_is_an_error(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        signer.write(tmp_path / "gone", TIME, HEADS)


def test_files_are_found_in_their_order_and_others_are_passed_over(tmp_path: Path) -> None:
    names = ["digest-000010.json", "digest-000009.json", "digest-1000000.json"]
    for name in [*names, "digest-1.json", "digest-000001.json.bak", ".digest-x", "notes"]:
        (tmp_path / name).touch()

    assert [number for number, _ in files_of(tmp_path)] == [9, 10, 1_000_000]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace("{", '{"note":"unsigned",', 1),
        lambda text: text.replace("{", '{"heads":{},', 1),
        lambda text: text.replace("deviceflow.digest/1", "deviceflow.digest/2"),
        lambda text: text.replace('"number":1', '"number":"1"'),
        lambda text: text.replace('"heads"', '"tails"'),
        lambda text: text.replace("[3,", "["),
        lambda text: "[]",
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "\xff",
    ],
)
def test_file_that_is_not_as_it_was_written_is_an_error(
    signer: Signer, tmp_path: Path, spoil: Any
) -> None:
    signer.write(tmp_path, TIME, HEADS)
    path = tmp_path / "digest-000001.json"
    path.write_bytes(spoil(path.read_text()).encode("latin-1"))

    with pytest.raises(StoreError, match="is no digest of this version, or is damaged"):
        read_digest(path)


def test_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_digest(tmp_path / "digest-000001.json")


@pytest.mark.parametrize("key", ["", "short", "no base64 ü", base64.b64encode(bytes(31)).decode()])
def test_key_that_is_none_is_an_error_that_does_not_show_it(key: str) -> None:
    with pytest.raises(StoreError) as caught:
        Signer(Secret(key))

    assert "keygen" in str(caught.value)
    assert caught.value.__context__ is None


def test_public_key_that_is_none_is_an_error(signer: Signer, tmp_path: Path) -> None:
    digest = signer.write(tmp_path, TIME, HEADS)

    with pytest.raises(StoreError, match="public key"):
        digest.is_signed_by("x" * 44)


def test_signer_shows_its_public_half_only(signer: Signer) -> None:
    assert repr(signer) == f"<Signer {signer.public_key}>"


def test_without_cryptography_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)

    with pytest.raises(ImportError, match=r"deviceflow\[seal\]"):
        Signer(Secret(generate_signing_key()))
