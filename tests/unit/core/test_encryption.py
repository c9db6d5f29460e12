"""Sealed texts: what opens them, what does not, and that nothing of them shows."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.fernet import Fernet

from deviceflow import export
from deviceflow.client._sync import Client
from deviceflow.core.codec import SCHEMA
from deviceflow.core.encryption import Keyless, Plain, Sealer, generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.errors import SealError, UsageError
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    Rendered = Callable[[BaseException], str]
    Waiting = Callable[..., Flow]

VALUES: Final = [
    None,
    0,
    "TOKEN-CANARY",
    "\0\ud800\U0001f511",
    ["a", {"b": None}],
    {"x": "y" * 5000},
]
ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."


@pytest.fixture
def keys() -> list[Secret]:
    return [generate_key() for _ in range(3)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_value_comes_back_equal_and_nothing_of_it_shows(keys: list[Secret], value: Any) -> None:
    sealer = Sealer(keys)

    sealed = sealer.seal(value, "token", "f1")

    assert sealer.open(sealed, "token", "f1") == value
    assert re.fullmatch(r"df1\.[0-9a-f]{8}\.[A-Za-z0-9_-]+", sealed)
    assert sealer.seal(value, "token", "f1") != sealed
    assert "CANARY" not in sealed


def test_first_key_seals_and_each_opens(keys: list[Secret]) -> None:
    sealed = [Sealer([key]).seal(number, "x") for number, key in enumerate(keys)]
    both = Sealer(keys)

    assert [both.open(text, "x") for text in sealed] == [0, 1, 2]
    again = both.seal("new", "x")
    assert Sealer(keys[:1]).open(again, "x") == "new"
    assert again.startswith(both.prefix)
    assert sealed[0].startswith(both.prefix)
    assert not sealed[1].startswith(both.prefix)


def test_key_may_be_a_plain_text(keys: list[Secret]) -> None:
    sealed = Sealer([keys[0].reveal()]).seal("x")

    assert Sealer(keys).open(sealed) == "x"


def test_missing_key_is_told_from_damage_and_no_key_is_shown(
    keys: list[Secret], rendered: Rendered
) -> None:
    sealed = Sealer(keys[:1]).seal("TOKEN-CANARY", "token")

    with pytest.raises(SealError, match=r"The sealing key '[0-9a-f]{8}' is missing") as caught:
        Sealer(keys[1:]).open(sealed, "token")

    assert "DEVICEFLOW_KEYS" in str(caught.value)
    assert "Nothing is lost" in str(caught.value)
    shown = rendered(caught.value)
    assert not [key for key in keys if key.reveal() in shown]


@pytest.mark.parametrize(
    "context", [(), ("code", "f1"), ("token", "f2"), ("f1", "token"), ("token", "f1", "")]
)
def test_text_that_belongs_elsewhere_is_not_opened(
    keys: list[Secret], rendered: Rendered, context: tuple[str, ...]
) -> None:
    sealer = Sealer(keys)
    sealed = sealer.seal("TOKEN-CANARY", "token", "f1")

    with pytest.raises(SealError, match="changed, or belongs to another login") as caught:
        sealer.open(sealed, *context)

    assert "CANARY" not in rendered(caught.value)


def test_change_of_any_character_is_found(keys: list[Secret]) -> None:
    sealer = Sealer(keys[:1])
    sealed = sealer.seal("TOKEN-CANARY", "token")

    for place, was in enumerate(sealed):
        for other in (ALPHABET[(ALPHABET.index(was) + 1) % 65], "!", "=", "\n", "ü"):
            with pytest.raises(SealError):
                sealer.open(sealed[:place] + other + sealed[place + 1 :], "token")
        with pytest.raises(SealError):
            sealer.open(f"{sealed[:place]}\n{sealed[place:]}", "token")
        with pytest.raises(SealError):
            sealer.open(sealed[:place], "token")


@pytest.mark.parametrize(
    "text", ["", ".", "..", "df1", "df1.", "df2.00000000.x", "plain.null", "x" * 10_000, "\ud800"]
)
def test_what_is_no_sealed_text_is_refused(keys: list[Secret], text: str) -> None:
    with pytest.raises(SealError):
        Sealer(keys).open(text)


@pytest.mark.parametrize("inside", [b"7", b"{}", b"[]", b'["x"]', b"\xff", b"", b'[1, 2, "T"]'])
def test_what_others_sealed_with_the_same_key_is_refused(keys: list[Secret], inside: bytes) -> None:
    fernet = Fernet(keys[0].reveal())
    sealer = Sealer(keys)

    with pytest.raises(SealError):
        sealer.open(sealer.prefix + fernet.encrypt(inside).decode().rstrip("="))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "There is no key to seal with."),
        (["KEY-CANARY"], "Key number 1 is not a Fernet key."),
        ([None, ""], "Key number 2 is not a Fernet key."),
        ([None, "KEY-CANARY-\ud800"], "Key number 2 is not a Fernet key."),
        ([None, "KEY-CANARY" * 9, None], "Key number 2 is not a Fernet key."),
    ],
)
def test_what_is_no_key_is_named_by_its_number_alone(
    rendered: Rendered, given: list[str | None], said: str
) -> None:
    good = generate_key()
    keys = [good if key is None else Secret(key) for key in given]

    with pytest.raises(SealError) as caught:
        Sealer(keys)

    assert caught.value.message == said
    assert "deviceflow keys generate" in str(caught.value)
    shown = rendered(caught.value)
    assert "CANARY" not in shown
    assert good.reveal() not in shown


def test_sealer_shows_only_the_names_of_its_keys(keys: list[Secret]) -> None:
    shown = repr(Sealer(keys))

    assert re.fullmatch(r"<Sealer [0-9a-f]{8}, [0-9a-f]{8}, [0-9a-f]{8}>", shown)
    assert repr(Sealer(keys)) == shown


@pytest.mark.parametrize("use", ["seal", "open", "mac", "check"])
def test_without_a_key_nothing_is_sealed_or_opened(use: str) -> None:
    with pytest.raises(SealError, match="without the key") as caught:
        getattr(Keyless(), use)("text")

    assert "DEVICEFLOW_KEYS" in (caught.value.hint or "")


def test_keys_are_made_at_random() -> None:
    one, other = generate_key(), generate_key()

    assert one != other
    assert repr(one) == "<secret>"


@pytest.mark.parametrize(
    "use",
    [
        generate_key,
        lambda: Sealer([Secret("any")]),
        lambda: export.seal(Flow("f1", Studio(), 0.0), [Secret("any")]),
        lambda: export.unseal("df1.x.y", [Secret("any")]),
    ],
)
def test_without_the_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)

    with pytest.raises(ImportError, match=r"pip install 'deviceflow\[seal\]'"):
        use()


# In clear.


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_value_in_clear_comes_back_equal(value: Any) -> None:
    assert Plain().open(Plain().seal(value, "token"), "code") == value


@pytest.mark.parametrize("text", ["", "plain", "plain.", 'plain.{"a": "TOKEN-CANARY', "df1.a.b"])
def test_what_is_not_in_clear_is_refused(text: str, rendered: Rendered) -> None:
    with pytest.raises(SealError, match="plaintext=True") as caught:
        Plain().open(text)

    assert "CANARY" not in rendered(caught.value)


# A flow that is its own store.


def test_flow_goes_on_elsewhere_from_one_text(
    waiting: Waiting, keys: list[Secret], clock: VirtualClock
) -> None:
    flow = waiting(clock.time())
    sealed = export.seal(flow, keys)

    assert re.fullmatch(r"[A-Za-z0-9._-]+", sealed)
    assert "CANARY" not in sealed
    elsewhere = MemoryStore()
    elsewhere.add(export.unseal(sealed, keys[:1]))
    script = ScriptedTransport([answer(200, {"access_token": "TOKEN-CANARY"})])
    driver = Client(elsewhere, transport=script, clock=clock)
    token = driver.wait_for_token(flow.id)

    assert token.access_token == Secret("TOKEN-CANARY")
    assert json.loads(script.requests[0].body) == {"code": "DEVICE-CANARY"}
    # And from there on, with another key.
    again = export.unseal(export.seal(get(driver._store, flow.id), keys[1:]), keys)
    assert again.state is State.AUTHORIZED
    assert again.token is not None
    assert again.token.access_token == token.access_token


def test_each_record_comes_back_whole(waiting: Waiting, keys: list[Secret]) -> None:
    flow = waiting(1.0)
    flow.poll(2.0, 10.0)
    flow.name = "schlüssel \U0001f511"

    back = export.unseal(export.seal(flow, keys), keys)

    assert export.to_dict(back, secrets=True) == export.to_dict(flow, secrets=True)


def test_change_of_a_sealed_flow_is_found(waiting: Waiting, keys: list[Secret]) -> None:
    sealed = export.seal(waiting(1.0), keys)

    for place in range(0, len(sealed), 7):
        other = ALPHABET[(ALPHABET.index(sealed[place]) + 1) % 65]
        with pytest.raises(SealError):
            export.unseal(sealed[:place] + other + sealed[place + 1 :], keys)


def test_secret_of_a_store_is_no_sealed_flow(waiting: Waiting, keys: list[Secret]) -> None:
    record = export.to_dict(waiting(1.0), secrets=True)

    with pytest.raises(SealError):
        export.unseal(Sealer(keys).seal(record, "code", "f1", "bound"), keys)


def test_sealed_flow_of_another_version_is_refused_by_name(
    waiting: Waiting, keys: list[Secret], rendered: Rendered
) -> None:
    record = export.to_dict(waiting(1.0), secrets=True) | {"schema": "deviceflow.flow/2"}

    with pytest.raises(UsageError, match=r"deviceflow.flow/2.*, not .*deviceflow.flow/1") as caught:
        export.unseal(Sealer(keys).seal(record, SCHEMA), keys)

    assert "CANARY" not in rendered(caught.value)


def test_mac_is_checked_with_whichever_key_it_was_made(keys: list[Secret]) -> None:
    key, other = keys[0], generate_key()
    mac = Sealer([key]).mac("a row")

    Sealer([other, key]).check("a row", mac)

    for text, made in [("another", mac), ("a row", f"{mac}0"), ("a row", ""), ("a row", None)]:
        with pytest.raises(SealError, match="somebody has changed the row"):
            Sealer([key]).check(text, made)
    with pytest.raises(SealError, match=r"The sealing key '[0-9a-f]{8}' is missing"):
        Sealer([other]).check("a row", mac)


def test_mac_of_a_store_in_clear_shows_harm_and_takes_none_of_a_key(keys: list[Secret]) -> None:
    Plain().check("a row", Plain().mac("a row"))

    with pytest.raises(SealError, match="somebody has changed the row"):
        Plain().check("another", Plain().mac("a row"))
    with pytest.raises(SealError, match="plaintext=True"):
        Plain().check("a row", Sealer(keys).mac("a row"))
