"""A login that moves between clients as one sealed text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors
from deviceflow.client._sync import Client
from deviceflow.core.encryption import generate_key
from deviceflow.core.login import Login
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.providers.studio import Studio
from deviceflow.testing import ScriptedTransport, answer
from tests.facade import AsyncFacade

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.wire import Response
    from deviceflow.testing import VirtualClock

    CodeAnswer = Callable[..., Response]
    Make = Callable[..., Client]

STUDIO: Final = Studio("https://studio.example.com")
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
KEYS: Final = [generate_key()]


@pytest.fixture(params=[Client, AsyncFacade])
def client(request: pytest.FixtureRequest, clock: VirtualClock) -> Make:
    """Make a client with a store of its own."""
    return lambda *script: request.param(clock=clock, transport=ScriptedTransport(script))


def test_login_goes_on_where_it_is_imported(client: Make, code_answer: CodeAnswer) -> None:
    here, there = client(code_answer()), client(GRANTED)
    started = here.start(STUDIO, name="nightly", purpose="the nightly run")

    imported = there.import_login(here.export_login(started.id, KEYS), KEYS)

    assert imported == started
    assert isinstance(imported, Login)
    assert there.wait_for_token(started.id).access_token == Secret("TOKEN-CANARY")


def test_token_moves_with_the_login(client: Make, code_answer: CodeAnswer) -> None:
    here, there = client(code_answer(), GRANTED), client()
    login = here.wait(here.start(STUDIO).id)

    there.import_login(here.export_login(login.id, KEYS), KEYS)

    assert there.collect_token(login.id).access_token == Secret("TOKEN-CANARY")
    assert here.get(login.id).state is State.AUTHORIZED


def test_text_shows_no_secret(client: Make, code_answer: CodeAnswer) -> None:
    here = client(code_answer())

    text = here.export_login(here.start(STUDIO).id, KEYS)

    assert "CANARY" not in text


def test_login_is_imported_once(client: Make, code_answer: CodeAnswer) -> None:
    here, there = client(code_answer()), client()
    text = here.export_login(here.start(STUDIO).id, KEYS)
    there.import_login(text, KEYS)

    with pytest.raises(errors.UsageError, match="in the store already"):
        there.import_login(text, KEYS)


@pytest.mark.parametrize("same", [True, False])
def test_name_that_is_open_there_is_not_imported(
    client: Make, code_answer: CodeAnswer, *, same: bool
) -> None:
    here, there = client(code_answer()), client(code_answer())
    text = here.export_login(here.start(STUDIO, name="nightly").id, KEYS)
    if same:
        there.import_login(text, KEYS)
    else:
        there.start(STUDIO, name="nightly")

    with pytest.raises(
        errors.UsageError, match="'nightly' is open in this store already"
    ) as caught:
        there.import_login(text, KEYS)

    assert [login.id for login in there.logins()] == [caught.value.flow_id]


def test_another_key_opens_nothing(
    client: Make, code_answer: CodeAnswer, rendered: Callable[[BaseException], str]
) -> None:
    here, there = client(code_answer()), client()
    text = here.export_login(here.start(STUDIO).id, KEYS)

    with pytest.raises(errors.SealError) as caught:
        there.import_login(text, [generate_key()])

    assert list(there.logins()) == []
    assert KEYS[0].reveal() not in rendered(caught.value)


@pytest.mark.parametrize("use", ["export", "import"])
def test_key_that_is_none_is_not_shown(
    client: Make,
    code_answer: CodeAnswer,
    rendered: Callable[[BaseException], str],
    use: str,
) -> None:
    here = client(code_answer())
    login = here.start(STUDIO)
    todo: dict[str, Callable[[], Any]] = {
        "export": lambda: here.export_login(login.id, ["KEY-CANARY"]),
        "import": lambda: here.import_login("text", ["KEY-CANARY"]),
    }

    with pytest.raises(errors.SealError) as caught:
        todo[use]()

    assert "CANARY" not in rendered(caught.value)


def test_unknown_login_is_not_exported(client: Make) -> None:
    with pytest.raises(errors.UnknownLoginError):
        client().export_login("f9", KEYS)
