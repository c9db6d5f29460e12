"""Digests: signed, in a row, written whole or not at all, and nothing in them is unsigned."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Secret
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.errors import StoreError
from deviceflow.trail.digest import (
    Digest,
    DigestId,
    Entry,
    Signer,
    files_of,
    last_digest,
    read_digest,
    read_entries,
)

if TYPE_CHECKING:
    from pathlib import Path

TIME: Final = "2026-11-24T12:00:00.000+00:00"
ENTRIES: Final = [
    Entry("f1", 3, "a" * 64),
    Entry("f2", 7, "b" * 64),
    Entry("f0", 9, "c" * 64, pruned=True),
]
NAME: Final = "digest-000001.jsonl"


def write(signer: Signer, directory: Path) -> Digest:
    digest = signer.write(directory, TIME, ENTRIES, begin=not files_of(directory))
    assert digest is not None
    return digest


@pytest.fixture
def signer() -> Signer:
    return Signer(Secret(generate_signing_key()))


def test_digest_comes_back_as_it_was_written(signer: Signer, tmp_path: Path) -> None:
    written = signer.write(tmp_path, TIME, iter(ENTRIES), begin=True)

    read = read_digest(tmp_path / NAME)
    assert read == written
    assert (read.number, read.time, read.previous, read.flows) == (1, TIME, None, 3)
    assert read.public_key == signer.public_key
    assert list(read_entries(tmp_path / NAME, read)) == ENTRIES


def test_digest_can_be_checked_by_hand(signer: Signer, tmp_path: Path) -> None:
    digest = write(signer, tmp_path)
    first, *rest = (tmp_path / NAME).read_bytes().splitlines(keepends=True)

    assert hashlib.sha256(b"".join(rest)).hexdigest() == digest.entries
    assert hashlib.sha256(first).hexdigest() == digest.hash
    assert rest[0] == b'["f1",3,"%s"]\n' % (b"a" * 64)
    assert rest[2] == b'["f0",9,"%s",true]\n' % (b"c" * 64)


def test_digest_of_nothing_is_written_to_begin_and_not_later(
    signer: Signer, tmp_path: Path
) -> None:
    first = signer.write(tmp_path, TIME, [], begin=True)

    assert first is not None
    assert list(read_entries(tmp_path / NAME, first)) == []
    assert signer.write(tmp_path, TIME, []) is None
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_number_1_is_written_where_that_is_asked_for_and_only_there(
    signer: Signer, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="There is no digest in"):
        signer.write(tmp_path, TIME, ENTRIES)
    assert last_digest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    first = write(signer, tmp_path)

    with pytest.raises(StoreError, match=r"digests in .* already"):
        signer.write(tmp_path, TIME, ENTRIES, begin=True)

    assert last_digest(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@given(number=st.integers(1, 10**15 - 1), digest=st.binary(min_size=32, max_size=32))
def test_number_and_hash_come_back_from_their_text(number: int, digest: bytes) -> None:
    named = DigestId(number, digest.hex())

    assert DigestId.parse(str(named)) == named
    assert DigestId.parse(f" {named}\n") == named


@given(text=st.text() | st.from_regex(r"\d+:[0-9a-fA-F]*"))
def test_text_that_names_no_digest_is_refused(text: str) -> None:
    try:
        named = DigestId.parse(text)
    except ValueError:
        return
    assert str(named) == text.strip()


@pytest.mark.parametrize(
    "entry",
    [
        (b"f1", 3, "a"),
        ("f1", "3", "a"),
        ("f1", -1, "a"),
        ("f1", 2**53, "a"),
        ("f1", 3, None),
        ("\ud800", 3, "a"),
    ],
)
def test_what_no_trail_can_have_is_not_signed(signer: Signer, tmp_path: Path, entry: Any) -> None:
    with pytest.raises(StoreError, match="which deviceflow did not write"):
        signer.write(tmp_path, TIME, [ENTRIES[0], Entry(*entry)], begin=True)

    assert list(tmp_path.iterdir()) == []


def test_signature_is_of_whoever_has_the_key(signer: Signer, tmp_path: Path) -> None:
    other = Signer(Secret(generate_signing_key()))
    digest = write(signer, tmp_path)

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
        {"flows": 4},
        {"entries": "e" * 64},
        {"signature": ""},
        {"signature": "no base64!"},
    ],
)
def test_whatever_is_changed_the_signature_is_wrong(
    signer: Signer, tmp_path: Path, change: dict[str, Any]
) -> None:
    digest = write(signer, tmp_path)

    assert not replace(digest, **change).is_signed_by(signer.public_key)


def test_each_digest_names_the_one_before(signer: Signer, tmp_path: Path) -> None:
    first, second, third = (write(signer, tmp_path) for _ in range(3))

    assert [digest.number for digest in (first, second, third)] == [1, 2, 3]
    assert (second.previous, third.previous) == (first.hash, second.hash)
    assert len({first.hash, second.hash, third.hash}) == 3


@given(number=st.integers(1, 10**9), time=st.text(), flows=st.integers(0, 2**53 - 1))
def test_signed_part_is_in_the_rfcs_form(number: int, time: str, flows: int) -> None:
    digest = Digest(number, time, None, flows, "e" * 64, "key")

    fields = json.loads(digest.signed_part())
    assert digest.signed_part() == rfc8785.dumps(fields)
    assert (fields["number"], fields["time"], fields["flows"]) == (number, time, flows)
    assert "signature" not in fields


def test_file_can_be_copied_by_anybody_and_nothing_else_is_left(
    signer: Signer, tmp_path: Path
) -> None:
    write(signer, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o644


def test_no_digest_is_written_over(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(signer, tmp_path)
    before = (tmp_path / NAME).read_bytes()
    # As if the other one had been written just now.
    monkeypatch.setattr("deviceflow.trail.digest.files_of", lambda directory: [])

    with pytest.raises(StoreError, match="could not be written"):
        signer.write(tmp_path, TIME, ENTRIES[:1], begin=True)

    assert (tmp_path / NAME).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_directory_that_is_not_there_is_an_error(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        write(signer, tmp_path / "gone")


def test_files_are_found_in_their_order_and_others_are_passed_over(tmp_path: Path) -> None:
    names = ["digest-000010.jsonl", "digest-000009.jsonl", "digest-1000000.jsonl"]
    for name in [*names, "digest-1.jsonl", "digest-000001.jsonl.bak", ".digest-x", "notes"]:
        (tmp_path / name).touch()

    assert [number for number, _ in files_of(tmp_path)] == [9, 10, 1_000_000]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace("{", '{"note":"unsigned",', 1),
        lambda text: text.replace("deviceflow.digest/1", "deviceflow.digest/2"),
        lambda text: text.replace('"number":1', '"number":"1"'),
        lambda text: text.replace('"flows":3', '"flows":-1'),
        lambda text: text.replace('"entries"', '"exits"'),
        lambda text: text.replace(TIME, r"\ud800"),
        lambda text: "[]",
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "\xff",
    ],
)
def test_file_that_is_not_as_it_was_written_is_an_error(
    signer: Signer, tmp_path: Path, spoil: Any
) -> None:
    write(signer, tmp_path)
    path = tmp_path / NAME
    path.write_bytes(spoil(path.read_text()).encode("latin-1"))

    with pytest.raises(StoreError, match="is damaged, or is not a digest of this version"):
        read_digest(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text + '["f9",1,"x"]\n',
        lambda text: text.replace('["f1",3,', '["f1",4,'),
        lambda text: text.replace('["f1",3,', '["f1", 3,'),
        lambda text: text.replace('["f1",3,', '["f1",'),
        lambda text: text.replace('["f1",3,', "[1,3,"),
        lambda text: text.replace('["f1",3,', '["f1",-3,'),
        lambda text: text.replace('["f1",3,', '["f1",3.0,'),
        lambda text: text.replace('["f1"', r'["\ud800"'),
        lambda text: text.replace(",true]", "]"),
        lambda text: text.replace(",true]", ",1]"),
        lambda text: text.replace('["f2"', "[" * 100_000),
        lambda text: text[: text.index("\n") + 1],
        lambda text: text.replace('["f2"', "\xff"),
    ],
)
def test_lines_that_are_not_as_they_were_written_are_an_error(
    signer: Signer, tmp_path: Path, spoil: Any
) -> None:
    digest = write(signer, tmp_path)
    path = tmp_path / NAME
    path.write_bytes(spoil(path.read_text()).encode("latin-1"))

    assert read_digest(path) == digest
    with pytest.raises(StoreError, match="is damaged, or is not a digest of this version"):
        list(read_entries(path, digest))


def test_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_digest(tmp_path / NAME)


@pytest.mark.parametrize("key", ["", "short", "no base64 ü", base64.b64encode(bytes(31)).decode()])
def test_key_that_is_none_is_an_error_that_does_not_show_it(key: str) -> None:
    with pytest.raises(StoreError) as caught:
        Signer(Secret(key))

    assert "keygen" in str(caught.value)
    assert caught.value.__context__ is None


def test_public_key_that_is_none_is_an_error(signer: Signer, tmp_path: Path) -> None:
    digest = write(signer, tmp_path)

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
