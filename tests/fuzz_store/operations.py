"""What is then done with the store: every command, and every method of a client and of a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow import Secret
from deviceflow.audit.events import STORE, render
from deviceflow.core import queries
from deviceflow.core.actions import ROTATE_KEYS
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin, StoreEvent
from tests.fuzz_store.places import DAY
from tests.stored import delete_ended, flows, get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from deviceflow import Client
    from deviceflow.stores.sql import SQLStore
    from tests.fuzz_store.places import Place


class Target(NamedTuple):
    """What an operation is done to.

    Attributes:
        place: The store.
        name: A login: the damaged one, as a rule.
        random: The dice.
    """

    place: Place
    name: str
    random: Random


# Commands.


def _server(target: Target) -> list[str]:
    honest = target.place.servers.honest
    return [
        *("--client-id", "robot.fresh.", "--device-authorization-endpoint", f"{honest}/code"),
        *("--token-endpoint", f"{honest}/token", "--revocation-endpoint", f"{honest}/revoke"),
    ]


def _file(target: Target, name: str) -> str:
    return str(target.place.folder / name)


COMMANDS: Final[Mapping[str, Callable[[Target], list[str]]]] = {
    "list": lambda _: ["list"],
    "list --all": lambda _: ["list", "--all"],
    "list --all --json": lambda _: ["list", "--all", "--json"],
    "list --state": lambda target: [
        "list",
        "--state",
        target.random.choice(["init", "awaiting-user", "authorized", "failed"]),
    ],
    "status": lambda _: ["status"],
    "status ID": lambda target: ["status", target.name],
    "status ID --json": lambda target: ["status", "--json", target.name],
    "step": lambda target: ["step", target.name],
    "step --json": lambda target: ["step", "--json", target.name],
    "wait": lambda target: ["wait", "--timeout", "0", target.name],
    "wait --json": lambda target: ["wait", "--json", "--timeout", "0", target.name],
    "sweep": lambda _: ["sweep"],
    "sweep --json": lambda _: ["sweep", "--json"],
    "purge": lambda _: ["purge"],
    "purge at once": lambda _: ["purge", "--json", "--tokens-after", "60s"],
    "cancel": lambda target: ["cancel", target.name, "--reason", "no more"],
    "token": lambda target: ["token", target.name],
    "token --acknowledge": lambda target: ["token", target.name, "--acknowledge"],
    "token --output": lambda target: [
        "token",
        target.name,
        "--json",
        "--format",
        "json",
        "--output",
        _file(target, "token"),
    ],
    "export-env": lambda target: ["export-env", "--variable", "TOKEN", target.name],
    "export-env, by default": lambda target: ["export-env", target.name],
    "start": lambda target: ["start", *_server(target), "--json"],
    "start NAME": lambda target: ["start", f"name-{target.name}", *_server(target)],
    "login": lambda target: [
        "login",
        "--once",
        *_server(target),
        "--show-token",
        "--timeout",
        "0",
        "--no-browser",
    ],
    "login, kept": lambda target: [
        "login",
        f"kept-{target.name}",
        *_server(target),
        "--timeout",
        "0",
        "--no-browser",
    ],
    "login NAME": lambda target: ["login", target.name, "--timeout", "0", "--no-browser"],
    "login, the newest": lambda _: [
        "login",
        "--once",
        "--show-token",
        "--timeout",
        "0",
        "--no-browser",
    ],
    "login ID": lambda target: [
        "login",
        "--once",
        target.name,
        "--json",
        "--output",
        _file(target, "t"),
        "--timeout",
        "0",
        "--no-browser",
    ],
    "keys rotate": lambda _: ["keys", "rotate"],
    "audit verify": lambda _: ["audit", "verify"],
    "audit show": lambda _: ["audit", "show"],
    "audit show ID": lambda target: ["audit", "show", target.name],
    "audit show --all": lambda target: ["audit", "show", "--all", target.name],
    "audit show --json": lambda target: ["audit", "show", "--json", target.name],
    "audit show store": lambda _: ["audit", "show", STORE],
    "audit list": lambda _: ["audit", "list"],
    "audit list --json": lambda _: ["audit", "list", "--json", "--since", "2h"],
    "audit list --state": lambda _: ["audit", "list", "--state", "failed", "--limit", "3"],
    "audit stats": lambda _: ["audit", "stats"],
    "audit stats --json": lambda _: ["audit", "stats", "--json"],
    "audit export jsonl": lambda _: ["audit", "export", "--format", "jsonl"],
    "audit export ecs": lambda _: ["audit", "export", "--format", "ecs"],
    "audit export csv": lambda target: [
        "audit",
        "export",
        "--format",
        "csv",
        "--output",
        _file(target, "trail.csv"),
    ],
    "audit report": lambda target: ["audit", "report", "-o", _file(target, "report.html")],
    "audit digest": lambda target: ["audit", "digest", "--digests", str(target.place.digests)],
    "audit prune": lambda target: [
        "audit",
        "prune",
        "--digests",
        str(target.place.digests),
        "--before",
        "1s",
    ],
    "audit verify --digests": lambda target: [
        "audit",
        "verify",
        "--digests",
        str(target.place.digests),
    ],
}
"""The commands, by what they are called here."""

WRITTEN: Final = ("token", "t", "trail.csv", "report.html")
"""The files that they write."""

TOKENS: Final = ("token", "export-env", "login")
"""Those that hand a token over."""


# Methods.


def _collect(client: Client, target: Target) -> None:
    with client.collect(target.name):
        pass


def _claim_and(act: str) -> Callable[[SQLStore, Target], object]:
    def work(store: SQLStore, target: Target) -> None:
        taken = store.claim(target.name, "fuzz", time.time(), 30)
        if act == "reschedule":
            store.release(taken.flow.id, "fuzz", due=taken.flow)
        else:
            getattr(store, act)(target.name, "fuzz", *((time.time(),) * (act == "snooze")))

    return work


def _read_all(store: SQLStore, target: Target) -> None:
    with store.snapshot() as snapshot:
        list(snapshot.events)
        list(snapshot.flows)
    bounds = store.bounds(3)
    with store.snapshot(*(bounds[:2] if len(bounds) > 1 else ())) as snapshot:
        list(snapshot.events)
        list(snapshot.flows)


def _commit(store: SQLStore, target: Target) -> None:
    flow = get(store, target.name)
    store.commit(flow, render(flow, flow.reseal(time.time()), Origin("fuzz")))


def _start(client: Client, target: Target) -> None:
    login = target.random.choice([target.name, "nobody"])
    client.start(target.place.provider(login), name=f"name-{login}")


def _leftovers(store: SQLStore, target: Target) -> None:
    for kind in ("token", "revoke"):
        page = store.select(queries.with_secrets(kind, time.time()), time.time())
        if page:
            store.select(queries.with_secrets(kind, time.time(), len(page)), time.time())


def _add(store: SQLStore, target: Target) -> None:
    provider = target.place.provider(target.name)
    store.add(Flow(target.name, provider, time.time(), name=f"name-{target.name}"))


def _adopt(client: Client, target: Target) -> None:
    endpoint = f"{target.place.servers.honest}/token"
    provider: Any = target.place.provider("nobody")
    client.adopt(provider, token_endpoint=endpoint, device_code=Secret("DEVICE.nobody."))


KEY: Final = generate_key()

CLIENT: Final[Mapping[str, Callable[[Client, Target], object]]] = {
    "get": lambda client, target: client.get(target.name),
    "logins": lambda client, _: list(client.logins()),
    "logins, not ended": lambda client, _: list(client.logins(skip_ended=True)),
    "step": lambda client, target: client.step(target.name),
    "sweep": lambda client, _: client.sweep(),
    "wait": lambda client, target: client.wait(target.name, 0),
    "wait_for_token": lambda client, target: client.wait_for_token(target.name, 0),
    "export_login": lambda client, target: client.export_login(target.name, [KEY]),
    "collect_token": lambda client, target: client.collect_token(target.name),
    "acknowledge": lambda client, target: client.acknowledge(target.name),
    "collect": _collect,
    "cancel": lambda client, target: client.cancel(target.name, "no more"),
    "purge": lambda client, _: client.purge(),
    "purge at once": lambda client, _: client.purge(tokens_after=60),
    "start": _start,
    "create": lambda client, target: client.create(
        target.place.provider(target.name), name=f"name-{target.name}"
    ),
    "adopt": _adopt,
    "login": lambda client, target: client.login(
        target.place.provider("nobody"), open_browser=False, timeout=0
    ),
}
"""A client's methods."""

STORE_METHODS: Final[Mapping[str, Callable[[SQLStore, Target], object]]] = {
    "now": lambda store, _: store.now(time.time()),
    "add": _add,
    "get": lambda store, target: get(store, target.name),
    "flows": lambda store, _: list(flows(store, on_problem=lambda _: None)),
    "flows, refusing": lambda store, _: list(flows(store)),
    "claim, release": _claim_and("release"),
    "claim, snooze": _claim_and("snooze"),
    "claim, reschedule": _claim_and("reschedule"),
    "upcoming": lambda store, _: store.select(queries.upcoming(0.0, 0.0), time.time()),
    "wake_after_clock_change": lambda store, _: store.wake_after_clock_change(time.time()),
    "commit": _commit,
    "note": lambda store, _: store.append(
        StoreEvent(ROTATE_KEYS, time.time(), "x", Origin("fuzz"))
    ),
    "ids_with_secrets": _leftovers,
    "delete_ended": lambda store, _: delete_ended(store, time.time() - 90 * DAY),
    "history": lambda store, target: store.events(target.name),
    "history of the store": lambda store, _: store.events(STORE),
    "snapshot, bounds": _read_all,
    "prune": lambda store, target: store.prune([target.name]),
    "reseal": lambda store, _: store.reseal(),
}
"""A store's methods."""

ALL: Final = (
    *(f"deviceflow {name}" for name in COMMANDS),
    *(f"Client.{name}" for name in CLIENT),
    *(f"Store.{name}" for name in STORE_METHODS),
)
