"""How events keep what is about a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deviceflow.audit.chain import AuditKey, link
from deviceflow.audit.events import render_grant
from deviceflow.audit.personal import FINGERPRINT, WITHHELD, Personal
from deviceflow.client._sync import Client
from deviceflow.core.grant import Grant
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.text import trusted
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDER = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
)
KEY = AuditKey(Secret("a key"))
PRINTS = {
    name: FINGERPRINT + KEY.fingerprint(Secret(value))
    for name, value in (("subject", "alice"), ("address", "192.0.2.7"))
}


def logged_in() -> dict[str, Any]:
    grant = Grant("g1", "nightly", PROVIDER, 1e9)
    token = Token(Secret("ACCESS"), subject=trusted("alice"))
    moved = grant.log_in(token, PROVIDER, 1e9, flow_id="f1")
    return render_grant(grant, moved, Origin(address="192.0.2.7"))


@pytest.mark.parametrize(
    ("ways", "key", "kept"),
    [
        ({}, KEY, ("alice", "192.0.2.7")),
        ({"SUBJECT": "fingerprint"}, KEY, (PRINTS["subject"], "192.0.2.7")),
        ({"ADDRESS": "fingerprint"}, KEY, ("alice", PRINTS["address"])),
        ({"SUBJECT": "no", "ADDRESS": "no"}, KEY, (WITHHELD, WITHHELD)),
        ({"SUBJECT": "fingerprint", "ADDRESS": "clear"}, None, (WITHHELD, "192.0.2.7")),
    ],
)
def test_settings_say_how_a_person_is_kept(
    ways: Mapping[str, str],
    key: AuditKey | None,
    kept: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, way in ways.items():
        monkeypatch.setenv(f"DEVICEFLOW_AUDIT_{name}", way)

    event = Personal(linked=True).hide(logged_in())
    text = link(event, None, key)

    assert (event["subject"], event["address"]) == kept
    for value, known in zip(("alice", "192.0.2.7"), kept, strict=True):
        assert (f'"{value}"' in text) is (known == value)


def test_what_nobody_links_is_withheld_instead_of_fingerprinted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVICEFLOW_AUDIT_SUBJECT", "fingerprint")

    assert Personal(linked=False).hide(logged_in())["subject"] == WITHHELD
    assert Personal(linked=False).hide(logged_in() | {"subject": None})["subject"] is None


def test_another_setting_is_refused_when_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICEFLOW_AUDIT_ADDRESS", "off")

    with pytest.raises(UsageError, match="DEVICEFLOW_AUDIT_ADDRESS is 'off'"):
        Client(MemoryStore())
