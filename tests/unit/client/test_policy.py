"""Each way in which a token could become a grant's, or be handed out, that a stranger approved.

A grant's owner has a policy on who may approve: `require`, `Client(approver=…)`, or both. Somebody
without that policy begins the login, polls for it, brings its token or refreshes it; and mallory
approves. Whatever the way is: the owner gets no token, and the one that was refused is revoked.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest

from deviceflow import Client, LoginPending, OAuth, Secret, errors
from deviceflow.cli import main
from deviceflow.client import grant_page, recorder
from deviceflow.core.encryption import generate_key
from deviceflow.core.grant import Grant
from deviceflow.core.states import Loss, State
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import Transitions, VirtualClock, answer
from deviceflow.trail.verify import Verification
from deviceflow.worker import _drive
from tests.listed import NOW
from tests.stored import get, load_grant, load_grant_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.client.world import World
    from deviceflow.core.wire import Request, Response

LAX: Final = OAuth(
    client_id="robot",
    issuer="https://as.example.com",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
    scopes="openid",
)
STRICT: Final = replace(LAX, require={"email": "alice@example.com"})
KEYS: Final = [generate_key()]


def is_alice(claims: dict[str, Any]) -> bool:
    return bool(claims["sub"] == "alice")


class Server:
    """Issues tokens to whoever is at the keyboard.

    Attributes:
        person: Who approves, or whom a refresh names; None while nobody approves.
        revoked: The tokens that it was told to revoke.
        sent: The requests.
        audience: Whom its id tokens are for.
        meanwhile: What happens, once, while the next refresh is under way.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._issued: list[str] = []
        self.person: str | None = None
        self.revoked: list[str] = []
        self.sent: list[Request] = []
        self.audience = "robot"
        self.meanwhile: Callable[[], object] | None = None

    def send(self, request: Request, timeout: float) -> Response:
        self.sent.append(request)
        said = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if request.purpose == "code":
            return answer(
                200,
                {
                    "device_code": "DEVICE-CODE-CANARY",
                    "user_code": "ABCD-EFGH",
                    "verification_uri": "https://as.example.com/activate",
                    "expires_in": 900,
                    "interval": 1,
                },
            )
        if request.purpose == "revoke":
            self.revoked.append(said["token"])
            return answer(200)
        if said["grant_type"] == "refresh_token" and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if self.person is None:
            return answer(400, {"error": "authorization_pending"})
        token = f"{self.person}-{len(self._issued)}"
        self._issued.append(token)
        claims = {
            "iss": "https://as.example.com",
            "aud": self.audience,
            "exp": self._clock.time() + 3600,
            "sub": self.person,
            "email": f"{self.person}@example.com",
            "email_verified": True,
        }
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return answer(
            200,
            {
                "access_token": token,
                "refresh_token": f"refresh-of-{token}",
                "expires_in": 1000,
                "id_token": f"e30.{payload}.c2ln",
            },
        )

    def issued_to(self, person: str) -> list[str]:
        return [token for token in self._issued if token.startswith(person)]

    def close(self) -> None:
        """Do nothing."""


class Place:
    """A store that the owner of the grant `nightly` and others share.

    Attributes:
        server: The server.
        owner: The owner's client, which has the approver where there is one.
        provider: The owner's provider, which has `require` where there is one.
        other: A client of others, who have no policy.
        stranger: Who approves what others begin.
    """

    def __init__(self, store: SQLiteStore, policy: str) -> None:
        self.clock = VirtualClock(NOW)
        self.server = Server(self.clock)
        self.store = store
        self.owner = self.client(approver=is_alice if policy == "approver" else None)
        self.other = self.client()
        self.stranger = "mallory"
        self.provider = LAX if policy == "approver" else STRICT

    def client(self, **parts: Any) -> Client:
        return Client(self.store, transport=self.server, clock=self.clock, **parts)

    def needed(self) -> None:
        """Let the owner need the grant, which nobody has logged in for."""
        with pytest.raises(LoginPending):
            self.owner.get_token("nightly", self.provider)

    def approved(self, person: str, login_id: str, by: Client | None = None) -> None:
        """Let a person approve, and somebody poll."""
        self.server.person = person
        self.clock.advance(5)
        (by or self.other).step(login_id)
        self.server.person = None

    def grant(self) -> Grant:
        stored = load_grant(self.store, "nightly", self.clock.time())
        assert stored is not None
        return stored.record

    def link(self) -> Secret:
        need = self.grant().need
        assert need is not None
        return need.link


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "policy.db", keys=KEYS) as kept:
        yield kept


@pytest.fixture(params=["require", "approver"])
def place(request: pytest.FixtureRequest, store: SQLiteStore) -> Place:
    return Place(store, request.param)


# The ways. Each ends where the owner asks for the token.


def login_by_name(place: Place) -> None:
    login = place.other.start(LAX, name="nightly")
    place.approved(place.stranger, login.id)


def laxer_need(place: Place) -> None:
    with pytest.raises(LoginPending) as pending:
        place.other.get_token("nightly", LAX, mint="now")
    assert pending.value.flow_id is not None
    place.approved(place.stranger, pending.value.flow_id)


def sweep(place: Place) -> None:
    with pytest.raises(LoginPending):
        place.owner.get_token("nightly", place.provider, mint="now")
    place.server.person = place.stranger
    place.clock.advance(5)
    place.other.sweep()
    place.other.sweep_grants()


def worker(place: Place) -> None:
    with pytest.raises(LoginPending) as pending:
        place.owner.get_token("nightly", place.provider, mint="now")
    login = pending.value.login
    assert login is not None
    place.server.person = place.stranger
    place.clock.advance(5)
    seq = get(place.store, login.id).seq
    place.other._run(_drive.drive, login.id, seq)


def page(place: Place) -> None:
    place.needed()
    shown = place.other._run(grant_page.request_code, place.link())
    assert shown is not None
    assert shown.login is not None
    place.server.person = place.stranger
    place.clock.advance(5)
    with suppress(errors.UsageError):
        place.other.step(shown.login.id)
    place.other._run(grant_page.look, place.link())


def step(place: Place) -> None:
    with pytest.raises(LoginPending) as pending:
        place.owner.get_token("nightly", place.provider, mint="now")
    assert pending.value.flow_id is not None
    with suppress(errors.UsageError, errors.WrongApproverError):
        place.approved(place.stranger, pending.value.flow_id)


def wait(place: Place) -> None:
    with pytest.raises(LoginPending) as pending:
        place.owner.get_token("nightly", place.provider, mint="now")
    assert pending.value.flow_id is not None
    place.server.person = place.stranger
    with suppress(errors.UsageError, errors.WrongApproverError):
        place.other.wait_for_token(pending.value.flow_id)


def another_token_endpoint(place: Place) -> None:
    elsewhere = replace(place.provider, token_endpoint="https://evil.example.com/token")
    login = place.other.start(elsewhere, name="nightly")
    with suppress(errors.WrongApproverError):
        place.approved(place.stranger, login.id)
    if place.other.get(login.id).state is State.FAILED:  # its own `require` did it
        login = place.other.start(elsewhere, name="nightly")
        place.approved("alice", login.id)


def imported(place: Place) -> None:
    elsewhere = Client(MemoryStore(), transport=place.server, clock=place.clock)
    login = elsewhere.start(LAX, name="nightly")
    place.approved(place.stranger, login.id, by=elsewhere)
    place.other.import_login(elsewhere.export_login(login.id, KEYS), KEYS)


def others_grant(place: Place) -> None:
    place.server.person = place.stranger
    place.other.log_in("nightly", LAX, open_browser=False)


def others_refresh_token(place: Place) -> None:
    place.other.adopt_grant("nightly", LAX, refresh_token=Secret("brought"))


def refresh_token_for_the_need(place: Place) -> None:
    place.needed()
    with suppress(errors.UsageError):
        place.other.adopt_grant("nightly", place.provider, refresh_token=Secret("brought"))


def refresh(place: Place) -> None:
    """Alice logs in, and a refresh names mallory."""
    place.server.person = "alice"
    place.owner.log_in("nightly", place.provider, open_browser=False)
    place.server.person = place.stranger
    place.clock.advance(990)


def refresh_by_others(place: Place) -> None:
    refresh(place)
    place.other.sweep_grants()


def late_answer(place: Place) -> None:
    """The answer to a refresh of mallory's comes when the owner needs the grant already."""
    others_grant(place)

    async def lost(world: World) -> None:
        moves = (Grant.recover, Grant.refresh, lambda grant, now: grant.lose(Loss.UNKNOWN, now))
        for move in moves:
            stored = await load_grant_async(world.store, "nightly", place.clock.time())
            assert stored is not None
            moved = move(stored.record, stored.now)
            assert await recorder.record_grant(world, stored.record, moved, "w")

    def meanwhile() -> None:
        place.other._run(lost)
        place.needed()

    place.server.meanwhile = meanwhile
    place.clock.advance(990)
    with suppress(LoginPending, errors.UsageError):
        place.other.get_token("nightly", LAX)
    assert place.server.meanwhile is None


WAYS: Final[tuple[Callable[[Place], None], ...]] = (
    login_by_name,
    laxer_need,
    sweep,
    worker,
    page,
    step,
    wait,
    another_token_endpoint,
    imported,
    others_grant,
    others_refresh_token,
    refresh_token_for_the_need,
    refresh,
    refresh_by_others,
    late_answer,
)


OTHERS: Final = (others_grant, others_refresh_token)
"""What others may do for themselves: the owner is refused, and they keep what they have."""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_owner_gets_no_token_that_a_stranger_approved(
    place: Place, way: Callable[[Place], None]
) -> None:
    way(place)

    for _ in range(2):
        with pytest.raises(errors.UsageError if way in OTHERS else LoginPending):
            place.owner.get_token("nightly", place.provider)
        place.server.person = None
        place.clock.advance(5)
        place.other.sweep()
        place.other.sweep_grants()

    if way not in OTHERS:
        assert place.grant().token is None
        assert place.grant().open_need is not None
        assert {*place.server.issued_to("mallory")[-1:]} <= {*place.server.revoked}
    assert not any(login.has_token for login in place.other.logins())
    with place.store.snapshot() as seen:
        assert list(Verification(*seen).findings()) == []


def test_refusal_is_on_record_with_its_reason(place: Place, transitions: Transitions) -> None:
    login_by_name(place)
    place.needed()

    [refused] = [e for e in transitions.events if e["action"] == "refuse_token"]
    why = {
        "require": "the login was begun with other settings than the grant's",
        "approver": "the program does not accept the person who approved",
    }["require" if place.provider is STRICT else "approver"]
    assert refused["outcome"] == "refused"
    assert refused["detail"] == f"{why}: the token was not taken: deviceflow will revoke it"
    with pytest.raises(errors.WrongApproverError, match=why):
        place.other.collect_token(refused["flow_id"])


@pytest.mark.parametrize("how", ["collect_token", "collect", "login"])
def test_program_with_a_policy_is_handed_no_token_that_others_polled_for(
    store: SQLiteStore, how: str
) -> None:
    place = Place(store, "approver")
    login = place.other.start(LAX, name="nightly")
    place.approved("mallory", login.id)

    hand_out: dict[str, Callable[[], object]] = {
        "collect_token": lambda: place.owner.collect_token(login.id),
        "collect": lambda: place.owner.collect(login.id).__enter__(),
        "login": lambda: place.owner.login(LAX, name="nightly", open_browser=False),
    }
    with pytest.raises(errors.WrongApproverError, match="does not accept the person"):
        hand_out[how]()
    place.other.step(login.id)
    assert place.server.revoked[0] == "refresh-of-mallory-0"


def test_logging_in_refuses_the_token_of_a_login_that_others_polled_for(
    store: SQLiteStore,
) -> None:
    place = Place(store, "approver")
    login_by_name(place)

    with pytest.raises(errors.WrongApproverError, match="does not accept the person"):
        place.owner.log_in("nightly", LAX, open_browser=False)


@pytest.mark.parametrize("begin", [page, sweep, worker])
def test_person_who_is_accepted_gets_through_whoever_shows_the_code(
    place: Place, begin: Callable[[Place], None]
) -> None:
    """Others show the code, and do not poll. The owner's next call does."""
    place.stranger = "alice"  # no stranger
    begin(place)
    place.clock.advance(5)

    token = place.owner.get_token("nightly", place.provider)

    assert token.access_token.reveal().startswith("alice")
    assert place.other.get_token("nightly", place.provider).access_token == token.access_token


def test_process_without_a_policy_says_why_it_does_not_poll(store: SQLiteStore) -> None:
    place = Place(store, "approver")
    with pytest.raises(LoginPending) as pending:
        place.owner.get_token("nightly", LAX, mint="now")
    assert pending.value.flow_id is not None
    sent = len(place.server.sent)
    place.clock.advance(5)

    with pytest.raises(LoginPending, match="Only a program that checks who approved"):
        place.other.get_token("nightly", LAX)
    with pytest.raises(errors.UsageError, match=r"checks who approved \(Client\(approver=…\)\)"):
        place.other.step(pending.value.flow_id)
    with pytest.raises(errors.UsageError, match="is of a program that checks who approved"):
        place.other.log_in("nightly", LAX, open_browser=False)
    seq = get(place.store, pending.value.flow_id).seq
    driven = place.other._run(_drive.drive, pending.value.flow_id, seq)
    assert "does not poll" in str(driven.problem)  # which the worker prints
    place.clock.advance(60)
    [problem] = place.other.sweep().problems
    assert "does not poll" in problem.message
    assert len(place.server.sent) == sent


def test_status_says_who_polls(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEVICEFLOW_KEYS", KEYS[0].reveal())
    place = Place(store, "approver")
    login = place.owner.start(LAX)

    main(["status", login.id, "--store", f"sqlite:///{store.path}"])

    assert "polled by: programs that check who approved" in capsys.readouterr().out


def test_policy_of_a_grant_ends_with_it(store: SQLiteStore) -> None:
    place = Place(store, "approver")
    place.needed()

    place.other.log_out("nightly")
    others_grant(place)

    assert place.other.get_token("nightly").access_token.reveal() == "mallory-0"
    with pytest.raises(errors.UsageError, match="without this program's policy"):
        place.owner.get_token("nightly")


def test_login_of_another_client_is_left_alone(place: Place) -> None:
    """Somebody waits for its token, who happens to use the grant's name."""
    login = place.other.start(replace(LAX, client_id="another"), name="nightly")
    place.server.audience = "another"
    place.approved("mallory", login.id)

    with pytest.raises(errors.UsageError, match="asks for something else"):
        place.owner.get_token("nightly", place.provider)
    assert place.other.collect_token(login.id).access_token.reveal() == "mallory-0"


@pytest.mark.parametrize("person", ["alice", "mallory"])
def test_refreshed_token_is_judged_as_well(store: SQLiteStore, person: str) -> None:
    place = Place(store, "approver")
    place.server.person = "alice"
    token = place.owner.login(LAX, open_browser=False)

    place.server.person = person
    if person == "alice":
        assert place.owner.refresh(LAX, token).access_token.reveal() == "alice-1"
        return
    with pytest.raises(errors.RejectedError, match="does not accept the person"):
        place.owner.refresh(LAX, token)
