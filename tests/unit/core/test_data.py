"""The table of what is secret, and where each datum may appear, is whole, and is the docs' own."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deviceflow import Studio, export
from deviceflow.audit.events import FIELDS
from deviceflow.core.access_token import AccessToken
from deviceflow.core.data import DATA, SECRET, Place, Sensitivity
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant
from deviceflow.core.grant_view import GrantView
from deviceflow.core.login import Login
from deviceflow.core.provider import DeviceCode, Token

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = Path(__file__).parents[3] / "docs" / "explanation" / "secrets.md"


def table() -> str:
    """Return the table as the documentation has it."""
    head = ["", *Place, ""]
    rows = [head, ["---"] * len(head)]
    for sensitivity in Sensitivity:
        rows.append([f"**{sensitivity}**", *[""] * (len(Place) + 1)])
        rows += [
            [datum.name, *("✓" * (place in datum.places) for place in Place), datum.note]
            for datum in DATA
            if datum.sensitivity is sensitivity
        ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_each_datum_is_in_the_table_once() -> None:
    there = Counter(field for datum in DATA for field in datum.fields)

    assert set(there.values()) == {1}
    assert {field for field in there if not field.startswith("variable.")} == {
        *(f"flow.{name}" for name in Flow.__slots__),
        *(f"login.{one.name}" for one in fields(Login)),
        *(f"grant.{name}" for name in vars(Grant("g", "n", Studio(), 0.0))),
        *(f"view.{one.name}" for one in fields(GrantView)),
        *(f"access_token.{one.name}" for one in fields(AccessToken) if one.name != "_invalidate"),
        *(f"code.{one.name}" for one in fields(DeviceCode)),
        *(f"token.{one.name}" for one in fields(Token)),
        *(f"event.{name}" for name in FIELDS),
    }


def test_secrets_may_appear_nowhere() -> None:
    for datum in DATA:
        if datum.sensitivity is SECRET:
            assert not datum.places
        if datum.sensitivity is Sensitivity.PERSON:
            assert not datum.places & {Place.LOG, Place.TRAIL, Place.EXCEPTION, Place.BROKER}


def test_callers_are_given_no_secret() -> None:
    secrets = [one for datum in DATA if datum.sensitivity is SECRET for one in datum.fields]

    assert not [name for name in secrets if name.startswith(("login.", "view."))]


def test_what_a_queue_is_given_of_a_login_may_be_there(waiting: Callable[..., Flow]) -> None:
    of = {field: datum for datum in DATA for field in datum.fields}
    of |= {"login.server": of["login.provider"], "login.client": of["login.provider"]}

    for name in Login.of(waiting(), 0.0).to_dict():
        assert Place.BROKER in of[f"login.{name}"].places


def test_what_is_logged_and_kept_in_clear_may_be(waiting: Callable[..., Flow]) -> None:
    of = {field: datum for datum in DATA for field in datum.fields}

    for name in FIELDS:
        assert {Place.LOG, Place.TRAIL} <= of[f"event.{name}"].places
    for name in export.to_dict(waiting()).keys() - {"schema"}:
        assert Place.ROW in of[f"flow.{name}"].places


def test_documentation_has_the_table_as_it_is() -> None:
    assert table() in PAGE.read_text("utf-8")
