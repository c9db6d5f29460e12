"""Many processes and tasks on one grant, at a server that rotates refresh tokens.

python -m tests.bench.race [--processes 32] [--tasks 200] [--seconds 60] [--write PAGE]

Each way gets a grant of its own: deviceflow; the naive one, that reads the shared row again before
it refreshes; `singleflight-auth` with the same row; `huggingface_hub` and `msal-extensions` with
the files that they keep tokens in. What is not installed is left out. The server revokes a grant as
soon as a refresh token comes again. Every token that a reader is given is shown to the server at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests

from deviceflow import Client, LoginPending, OAuth, open_store
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.bench.racers import NAME, Row, refreshed
from tests.bench.racers_filing import Files
from tests.postgres import PostgresServer
from tests.released import released

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SHARING: Final = ("deviceflow", "naive", "singleflight-auth")
_FILING: Final = ("huggingface_hub", "msal-extensions")
WAYS: Final = (*_SHARING, *_FILING)
_STORES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "files": "its own files"}
_HEADS: Final = (
    "store",
    "way",
    "tokens used",
    "refreshes",
    "generations",
    "families revoked",
    "refused",
    "served for",
)
_BEGIN: Final = "<!-- race: begin -->"
_END: Final = "<!-- race: end -->"


def asked_for() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.race")
    parser.add_argument("--processes", type=int, default=32, help="how many, each with one reader")
    parser.add_argument("--tasks", type=int, default=200, help="how many, in one more process")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lifetime", type=int, default=2, help="seconds of an access token")
    parser.add_argument("--store", choices=[*_STORES, "all"], default="all")
    parser.add_argument("--way", choices=[*WAYS, "all"], default="all")
    parser.add_argument("--write", type=Path, help="a page to write the table into")
    return parser.parse_args()


def main() -> None:
    """Do as the command line says."""
    asked = asked_for()
    stores = list(_STORES) if asked.store == "all" else [asked.store]
    ways = list(WAYS) if asked.way == "all" else [asked.way]
    for way in [one for one in ways if one not in ("deviceflow", "naive")]:
        if util.find_spec(way.replace("-", "_")) is None:
            print(f"{way} is not installed, and left out")
            ways.remove(way)
    rows = list[list[str]]()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="race-")))
        for store in stores:
            postgres = stack.enter_context(PostgresServer()) if store == "postgresql" else None
            for way in [one for one in ways if (one in _FILING) is (store == "files")]:
                url = postgres.database() if postgres else f"sqlite:///{folder}/{way}.db"
                rows.append([_STORES[store], way, *map(str, race(way, url, asked))])
                print(" | ".join(rows[-1]), flush=True)
    lines = [table(rows), "", versions(asked)]
    print("\n", *lines, sep="\n")
    if asked.write is not None:
        page = asked.write.read_text()
        before, _, rest = page.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        written = "\n".join([_BEGIN, versions(asked), "", table(rows), _END])
        asked.write.write_text(before + written + after)


def table(rows: list[list[str]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [_HEADS, ["---", "---", *["--:"] * (len(_HEADS) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def versions(asked: argparse.Namespace) -> str:
    """Return what the table was made with."""
    used = [released("deviceflow"), f"requests {metadata.version('requests')}"]
    used.append(f"httpx {metadata.version('httpx')}")
    for name in ("singleflight-auth", "huggingface_hub", "msal-extensions", "msal"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            used.append(released(name))
    used.append(f"Python {platform.python_version()}")
    return (
        f"{asked.processes} processes, and {asked.tasks} tasks in one more, for"
        f" {asked.seconds:g} seconds, with tokens of {asked.lifetime} seconds. Versions:"
        f" {', '.join(used)}."
    )


def race(way: str, url: str, asked: argparse.Namespace) -> Iterator[object]:
    """Have all readers use one grant, and return the cells of the table."""
    settings = Settings(
        control=True, interval=0, access_token_lifetime=asked.lifetime, open_logins=100_000
    )
    key = generate_key()
    with LocalServer(settings) as server, open_store(url, keys=[key]) as store:  # type: ignore[attr-defined]
        client = Client(store, deadline=60)
        provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{server.url}/oauth/token",
            scopes="read openid profile offline_access",  # as MSAL asks for
        )
        try:
            client.get_token(NAME, provider, mint="now")
        except LoginPending as pending:
            login: Any = pending.login
        approval = {"user_code": login.user_code}
        requests.post(f"{server.url}/control/approve", json=approval, timeout=60)
        client.wait(login.id)
        if way == "deviceflow":
            client.get_token(NAME)
        else:
            with client.collect(login.id) as token:
                assert token.refresh_token is not None
                first = token.access_token.reveal(), token.refresh_token.reveal()
            if way in _FILING:
                Files(way, url, server.url).put(*first)
            else:
                with Row(url) as row:
                    row.make()
                    row.put(*first)

        def renew() -> None:
            """Begin with a new token: it takes a while until all are ready."""
            if way == "deviceflow":
                client.get_token(NAME)
                return
            if way in _FILING:
                Files(way, url, server.url).get()
                return
            with requests.Session() as session, Row(url) as row:
                refreshed(session, row, server.url, row.get()[0])

        said = _run(way, url, key.reveal(), server.url, asked, renew)
        found = requests.get(f"{server.url}/control/grants", timeout=60).json()["grants"]
        [grant] = [one for one in found if one["user_code"] == login.user_code]
        refreshes, generations = grant["refreshes"], grant["generation"] - 1
        if way == "deviceflow":
            view = client.grant(NAME)
            actions = [event["action"] for event in store.events(view.id)]
            refreshes, generations = actions.count("renew"), view.generation - 1
            assert (refreshes, generations) == (grant["refreshes"], grant["generation"] - 1)
    yield f"{sum(one['uses'] for one in said):,}"
    yield refreshes
    yield generations
    yield int(grant["state"] != "active")
    yield f"{sum(one['refused'] for one in said):,}"
    yield f"{max(one['served'] for one in said):.0f} s"


def _run(
    way: str,
    url: str,
    key: str,
    server: str,
    asked: argparse.Namespace,
    renew: Callable[[], None],
) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.bench.racers", way, url, server, str(asked.seconds)]
    children = [
        subprocess.Popen(
            [*command, str(tasks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for tasks in (*[0] * asked.processes, *([asked.tasks] if asked.tasks else []))
    ]
    try:
        for child in children:
            assert child.stdin
            child.stdin.write(key + "\n")
            child.stdin.flush()
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == "ready\n"
        renew()
        go = time.time() + 0.5  # by then, all have been told
        for child in children:
            assert child.stdin
            child.stdin.write(f"{go}\n")
            child.stdin.flush()
        return [json.loads(child.communicate(timeout=asked.seconds + 300)[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
