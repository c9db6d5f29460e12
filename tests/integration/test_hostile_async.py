"""Whatever a server does to the transport for asyncio: each request ends in its time.

All servers of a kind are asked at once, in one event loop, which must go on meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from deviceflow.core.wire import MAX_BODY, Failure, Request, Response
from deviceflow.transports.httptools import HttptoolsTransport
from tests.integration.hostile import KINDS, Server, cases, tls_cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.hostile import Case

ON_UVLOOP: Final = ("waiting", "broken")
"""The kinds that are tried on uvloop too: what differs between loops is how a connection ends."""

DEADLINE: Final = 0.4

SLACK: Final = 15.0
"""Seconds more that all of them may take on a machine that has much else to do."""


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(case: Case, scheme: str = "http") -> Server:
        servers.append(Server(case, scheme=scheme))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def results(servers: dict[str, Server], loop: str) -> dict[str, tuple[Any, float]]:
    """Send a request to each server, and return what came of it and how many seconds it took."""

    async def ask() -> dict[str, tuple[Any, float]]:
        transport = HttptoolsTransport()
        headers = {"Accept": "application/json"}

        async def one(server: Server) -> tuple[Any, float]:
            began = time.monotonic()
            request = Request("token", f"{server.url}/token", headers, b"{}")
            return await transport.send(request, DEADLINE), time.monotonic() - began

        got = await asyncio.gather(*(one(server) for server in servers.values()))
        await transport.close()
        return dict(zip(servers, got, strict=True))

    factory = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(ask())


def harm(got: dict[str, tuple[Any, float]]) -> dict[str, Any]:
    return {
        name: (result, seconds)
        for name, (result, seconds) in got.items()
        if not isinstance(result, Response | Failure)
        or seconds > DEADLINE + SLACK
        or (isinstance(result, Response) and len(result.body) > MAX_BODY)
    }


@pytest.mark.parametrize(
    ("kind", "loop"),
    [*((kind, "asyncio") for kind in KINDS), *((kind, "uvloop") for kind in ON_UVLOOP)],
)
def test_no_server_does_harm(serve: Any, kind: str, loop: str) -> None:
    servers = {name: serve(case) for name, case in cases(kind).items()}
    got = results(servers, loop)

    assert harm(got) == {}
    if kind in ("waiting", "trickling", "floods", "bombs"):
        whole = [name for name, (result, _) in got.items() if isinstance(result, Response)]
        assert set(whole) <= HARMLESS


HARMLESS: Final = {"no end of trailers", "says compress", "says rot13", "says GZip "}
"""What is answered all the same, with a body within the limits."""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_server_does_harm_by_tls(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loop: str
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    servers = {name: serve(case, "https") for name, case in tls_cases(context).items()}
    got = results(servers, loop)

    assert harm(got) == {}
    assert [name for name, (one, _) in got.items() if isinstance(one, Response)] == ["good, by TLS"]
