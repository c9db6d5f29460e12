"""Whatever a server does: each request ends in its time, in little memory, with an error of ours.

The engine and the three functions of `deviceflow.auth` are asked alike, over real sockets; each
case in a process of its own, whose memory is measured by the operating system.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from tests.integration.hostile import KINDS, Peer, Server, body, cases, head, tls_cases

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.integration.hostile import Case

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)

from tests.integration.hostile_client import DEADLINE, ENGINE, FUNCTIONS, REQUESTS

FACES: Final = (*ENGINE, *FUNCTIONS)

ONE_OF_A_KIND: Final = (
    "oauth_code",
    "oauth_token",
    "oauth_metadata",
    "studio_code",
    "get_access_token",
)
"""Faces that read the fields of an answer, each in another way."""

SLACK: Final = 4.0
"""Seconds more that a case may take on a machine that has much else to do."""

MEMORY: Final = 64.0
"""MiB that a process may have more at its peak than it had before the request."""

_ROOT: Final = Path(__file__).parents[2]


def leads(peer: Peer) -> None:
    """Answer well, but name the address in the path as the one to poll."""
    while True:
        to = peer.request().removeprefix("/").partition("/api/")[0]
        content = body(peer.url, **({"token_uri": f"{to}/token"} if "://" in to else {}))
        peer.sock.sendall(head(content) + content)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(case: Case, scheme: str = "http") -> Server:
        servers.append(Server(case, scheme=scheme))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def problems(
    servers: Mapping[str, Server],
    good: Server,
    faces: Iterable[str] = FACES,
    **environment: str,
) -> dict[str, Any]:
    """Run each face against each server, and return what is wrong, if anything is."""
    tasks = [
        {"face": face, "case": case, "bad": server.url, "good": good.url}
        for case, server in servers.items()
        for face in faces
    ]
    paths = {"NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.hostile_client"],
        input=json.dumps(tasks),
        cwd=_ROOT,
        env=os.environ | paths | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        check=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(tasks)
    assert all(server.connections for server in servers.values())
    return {
        f"{one['case']} / {one['face']}": one
        for one in results
        if not one["ours"]
        or one["grown"] >= MEMORY
        or one["seconds"] > DEADLINE * REQUESTS.get(one["face"], 1) + SLACK
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_server_does_harm(serve: Any, kind: str) -> None:
    servers = {name: serve(case) for name, case in cases(kind).items()}

    assert problems(servers, serve(leads), ONE_OF_A_KIND if kind == "fields" else FACES) == {}


def test_no_server_does_harm_by_tls(serve: Any, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    servers = {name: serve(case, "https") for name, case in tls_cases(context).items()}

    assert problems(servers, serve(leads), REQUESTS_CA_BUNDLE=str(bundle)) == {}
