"""The chain: what is hashed is RFC 8785's form, by either encoder and after any round trip."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import Secret
from deviceflow.audit import chain
from deviceflow.audit.chain import (
    DAMAGED,
    HASHED,
    START,
    STORED,
    AuditKey,
    canonical,
    hash_of,
    link,
    read,
    row_of,
)
from deviceflow.audit.events import FIELDS, render
from deviceflow.audit.reading import event_of
from deviceflow.core.encryption import generate_key
from deviceflow.stores.sqlite import SQLiteStore
from tests.evidence.events import events
from tests.examples import examples
from tests.statements import run_statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.flow import Flow

NOW: Final = 1_800_000_000.0
FLOW, TEXT = STORED.index("flow_id"), STORED.index("text")
KEY: Final = AuditKey(Secret("an audit key"))
MANY: Final = examples(100)


@contextmanager
def encoding(encode: Callable[[Any], bytes]) -> Iterator[None]:
    with mock.patch.object(chain, "encode", encode):
        yield


def hashed(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in HASHED}


@pytest.fixture
def event(waiting: Callable[..., Flow]) -> dict[str, Any]:
    flow = waiting(NOW)
    event = render(flow, flow.poll(NOW, 10.0))
    link(event, None, KEY, flow)
    return event


# The canonical form.


@pytest.mark.parametrize("encode", [orjson.dumps, chain.encode_slowly])
@MANY
@given(event=events())
def test_canonical_form_is_that_of_the_rfc(
    encode: Callable[[Any], bytes], event: dict[str, Any]
) -> None:
    with encoding(encode):
        assert canonical(event) == rfc8785.dumps(hashed(event))


@pytest.mark.parametrize("encode", [orjson.dumps, chain.encode_slowly])
@MANY
@given(event=events())
def test_text_that_is_hashed_says_the_event(
    encode: Callable[[Any], bytes], event: dict[str, Any]
) -> None:
    with encoding(encode):
        text = link(event, None, KEY)

        assert text.encode() == rfc8785.dumps(hashed(event))
        assert read(text) == (hashed(event), event["hash"])
        assert link(event, "f" * 64, None) == text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteStore]:
    path = tmp_path_factory.mktemp("chain") / "flows.db"
    with SQLiteStore(path, keys=[generate_key()], synchronous="NORMAL") as store:
        yield store


@MANY
@given(event=events())
def test_event_comes_back_from_sqlite_in_the_same_form(
    store: SQLiteStore, event: dict[str, Any]
) -> None:
    row = row_of(event, link(event, None, KEY))
    run_statement(store, "delete_events", {"id": event["flow_id"]})
    run_statement(store, "add_event", row)

    with store.snapshot() as snapshot:
        (found,) = (row for row in snapshot.events if row[FLOW] == event["flow_id"])
    assert found == tuple(row[name] for name in STORED)
    assert found[TEXT].encode() == rfc8785.dumps(hashed(event))
    assert store.events(event["flow_id"]) == [event]


def test_fields_are_hashed_in_the_order_of_the_form() -> None:
    assert list(HASHED) == sorted(HASHED)
    assert {*FIELDS} - {*HASHED} == {"hash", "mac"} == {*STORED} - {*HASHED, "text"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("in_doubt", "2"),
        ("in_doubt", '"yes"'),
        ("in_doubt", "1"),
        ("in_doubt", "null"),
        ("scopes", "[ ]"),
        ("scopes", '"nothing"'),
        ("scopes", "[" * 100_000),
        ("scopes", "5"),
        ("scopes", "[5]"),
        ("scopes", '{"a":"b"}'),
        ("granted_scopes", "[null]"),
        ("interval", '"soon"'),
        ("interval", "Infinity"),
        ("interval", "NaN"),
        ("interval", "5.0"),
        ("interval", "5e0"),
        ("interval", "true"),
        ("interval", "1e22"),
        ("attempt", "9007199254740992"),
        ("attempt", "1" * 400),
        ("attempt", "1.5"),
        ("seq", "1.0"),
        ("http_status", "-Infinity"),
        ("pid", '"x"'),
        ("detail", "7"),
        ("detail", '"\\ud800"'),
        ("detail", '"\\u0041"'),
        ("detail", '"a" '),
        ("detail", '"a","detail":"a"'),
        ("detail", '"a","else":"a"'),
    ],
)
@pytest.mark.parametrize("by", [(orjson.dumps, orjson.loads), (chain.encode_slowly, json.loads)])
def test_what_is_not_the_text_of_an_event_is_damage(
    event: dict[str, Any], by: tuple[Any, Any], name: str, value: str
) -> None:
    text = canonical(event).decode()
    said = json.dumps(json.loads(text)[name], separators=(",", ":"))
    spoilt = text.replace(f'"{name}":{said}', f'"{name}":{value}')
    assert spoilt != text

    with encoding(by[0]), mock.patch.object(chain, "decode", by[1]):
        assert read(text) == (hashed(event), event["hash"])
        with pytest.raises(DAMAGED):
            read(spoilt)
        row = tuple((row_of(event, text) | {"text": spoilt})[column] for column in STORED)
        orjson.dumps(event_of(row))  # which it could not with half a character, say


@pytest.mark.parametrize(
    "text",
    [None, 5, b"{}", "", "{", "null", "[]", "{}", "[" * 100_000, "\ud800", json.dumps(HASHED)],
)
def test_what_is_no_text_of_anything_is_damage(text: object) -> None:
    with pytest.raises(DAMAGED):
        read(text)


def test_fields_in_another_order_are_damage(event: dict[str, Any]) -> None:
    other = dict(reversed(hashed(event).items()))

    with pytest.raises(DAMAGED, match="another order"):
        read(chain.encode(other).decode())


def test_without_orjson_the_standard_library_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    spec = importlib.util.spec_from_file_location("another_chain", Path(chain.__file__))
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)

    spec.loader.exec_module(other)

    assert other.encode is other.encode_slowly
    assert other.decode('{"a":1}') == {"a": 1}


# The key.


@given(key=st.text(max_size=100), text=st.text())
def test_mac_is_hmac_sha256(key: str, text: str) -> None:
    mac = AuditKey(Secret(key)).mac(text)

    assert mac == hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


@given(key=st.text(max_size=100), text=st.text(st.characters(exclude_categories=())))
def test_fingerprint_is_that_of_the_secret(key: str, text: str) -> None:
    secret = Secret(text)

    assert AuditKey(Secret(key)).fingerprint(secret) == secret.fingerprint(key.encode() or b"\0")


def test_key_has_a_name_and_shows_nothing_else() -> None:
    same, other = AuditKey(Secret("an audit key")), AuditKey(Secret("another"))

    assert KEY.name == same.name != other.name
    assert repr(KEY) == f"<AuditKey {KEY.name}>"


# Links.


def test_first_event_follows_on_nothing(event: dict[str, Any]) -> None:
    assert event["prev_hash"] == START
    assert event["hash"] == hash_of(event)
    assert event["mac"] == KEY.mac(event["hash"])
    assert event["key_id"] == KEY.name


def test_each_event_follows_on_the_one_before(waiting: Callable[..., Flow]) -> None:
    flow = waiting(NOW)
    first = render(flow, flow.poll(NOW, 10.0))
    link(first, None, KEY, flow)
    second = render(flow, flow.cancel(NOW))
    link(second, first["hash"], KEY, flow)

    assert second["prev_hash"] == first["hash"]
    assert first["code_fingerprint"] == second["code_fingerprint"] is not None


def test_event_that_is_a_link_stays_as_it_is(event: dict[str, Any]) -> None:
    before = dict(event)

    assert link(event, "f" * 64, AuditKey(Secret("another"))) == canonical(before).decode()
    assert event == before


def test_without_a_key_events_are_only_chained(waiting: Callable[..., Flow]) -> None:
    flow = waiting(NOW)
    event = render(flow, flow.poll(NOW, 10.0))

    link(event, None, None, flow)

    assert event["hash"] == hash_of(event)
    assert (event["mac"], event["key_id"], event["code_fingerprint"]) == (None, None, None)


@pytest.mark.parametrize("name", HASHED)
def test_hash_takes_in_each_field(event: dict[str, Any], name: str) -> None:
    event[name] = ["else"] if name in ("scopes", "granted_scopes") else 7.5

    assert hash_of(event) != event["hash"]
