"""One of many processes that use a grant at the same time: run as a module, by the race's test."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import requests

from deviceflow import Client, Secret, open_store
from deviceflow.errors import LoginPending


def race(store_url: str, key: str, server: str, seconds: float) -> dict[str, Any]:
    """Use the grant's token again and again; return how often, and how often it was refused."""
    uses = refused = pending = 0
    session = requests.Session()
    with open_store(store_url, keys=[Secret(key)]) as store, Client(store, deadline=60) as client:  # type: ignore[attr-defined]
        until = time.monotonic() + seconds  # a slow machine opens a store for as long
        while time.monotonic() < until:
            try:
                token = client.get_token("nightly")
            except LoginPending:
                pending += 1
                break
            bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
            answer = session.get(f"{server}/oauth/resource", headers=bearer, timeout=60)
            uses += 1
            if answer.status_code == 401:
                refused += 1  # it ended on its way there, on a slow machine
                client.invalidate("nightly", token)
            time.sleep(0.02)
    return {"uses": uses, "refused": refused, "pending": pending}


if __name__ == "__main__":
    store_url, server, seconds = sys.argv[1:]
    key = sys.stdin.readline().strip()
    print(json.dumps(race(store_url, key, server, float(seconds))))  # noqa: T201
