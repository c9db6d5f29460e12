"""A Studio that is fast enough not to be the limit: asyncio, on uvloop where that is installed.

Prints its ports, for http and https, as JSON. It approves nothing by itself. What a benchmark asks:

* `GET /reset` forgets what was counted.
* `GET /counts` returns how many polls came, how many of these came early, and how late they came.
* `GET /approve?count=1000&seconds=20` approves so many logins, at random moments in that time.
* `GET /delay?seconds=0.25` answers polls so much later from now on.

The access token is the moment at which an ideal poller would have had it, by the machine's
monotonic clock.
"""

from __future__ import annotations

import array
import asyncio
import importlib
import json
import random
import re
import ssl
import sys
import time
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import parse_qs

INTERVAL: Final = 5.0
_EARLY: Final = 0.001

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CODE: Final = re.compile(rb'"code": ?"([^"]+)"')


def _answer(status: str, content: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


_PENDING: Final = _answer("400 Bad Request", b'{"detail": "authorization_pending"}')


class Login:
    __slots__ = ("approved", "ideal", "last")

    def __init__(self, now: float) -> None:
        self.last = now
        self.approved = False
        self.ideal = 0.0


class Studio:
    def __init__(self) -> None:
        self.logins: dict[bytes, Login] = {}
        self.delay = 0.0
        self.reset()

    def reset(self) -> dict[str, Any]:
        self.since, self.early = time.monotonic(), 0
        self.late = array.array("d")
        return {}

    def counts(self) -> dict[str, Any]:
        late = sorted(self.late) or [0.0]
        return {
            "seconds": time.monotonic() - self.since,
            "polls": len(self.late),
            "early": self.early,
            "late": {str(p): late[min(len(late) - 1, len(late) * p // 100)] for p in (50, 99, 100)},
            "logins": len(self.logins),
        }

    def approve(self, count: int, seconds: float) -> dict[str, Any]:
        waiting = [login for login in self.logins.values() if not login.approved]
        chosen = random.sample(waiting, min(count, len(waiting)))
        loop = asyncio.get_running_loop()
        for login in chosen:
            loop.call_later(random.uniform(0, seconds), self._approve, login)
        return {"approved": len(chosen)}

    def _approve(self, login: Login) -> None:
        login.approved, login.ideal = True, login.last + INTERVAL

    def code(self, address: str) -> bytes:
        name = f"{len(self.logins):043}"
        self.logins[name.encode()] = Login(time.monotonic())
        fields = {
            "device_code": name,
            "user_code": "ABCD-EFGH",
            "token_name": "bench",
            "expires_in": 86_400,
            "verification_uri": f"{address}/page",
            "token_uri": f"{address}/token",
        }
        return _answer("200 OK", json.dumps(fields).encode())

    def poll(self, body: bytes) -> bytes:
        found = _CODE.search(body)
        login = self.logins.get(found[1]) if found else None
        if login is None:
            self.late.append(0.0)
            return _PENDING
        now = time.monotonic()
        late = now - login.last - INTERVAL
        if late < -_EARLY:
            self.early += 1
        self.late.append(late)
        login.last = now + self.delay
        if not login.approved:
            return _PENDING
        token = {"access_token": f"{max(login.ideal, 0.0):.6f}"}
        return _answer("200 OK", json.dumps(token).encode())


class Protocol(asyncio.Protocol):
    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._read = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        port = transport.get_extra_info("sockname")[1]
        scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._address = f"{scheme}://127.0.0.1:{port}"

    def data_received(self, data: bytes) -> None:
        read = self._read + data
        while (end := read.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(read, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(read) < whole:
                break
            self._respond(read[:end], read[end + 4 : whole])
            read = read[whole:]
        self._read = read

    def _respond(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if not path.endswith(b"/token"):
            self._transport.write(self._answer(head, path))
        elif delay := self._studio.delay:
            answer = self._studio.poll(body)
            asyncio.get_running_loop().call_later(delay, self._transport.write, answer)
        else:
            self._transport.write(self._studio.poll(body))

    def _answer(self, head: bytes, path: bytes) -> bytes:
        if head.startswith(b"POST"):
            return self._studio.code(self._address)
        what, _, query = path.decode().partition("?")
        asked = {name: float(value[0]) for name, value in parse_qs(query).items()}
        if what == "/approve":
            said = self._studio.approve(int(asked["count"]), asked["seconds"])
        elif what == "/delay":
            self._studio.delay, said = asked["seconds"], {}
        else:
            said = self._studio.counts() if what == "/counts" else self._studio.reset()
        return _answer("200 OK", json.dumps(said).encode())


async def main(certificate: str | None) -> None:
    loop, studio = asyncio.get_running_loop(), Studio()
    ports = {}
    for scheme in ("http", "https") if certificate else ("http",):
        context = None
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(str(certificate))
        server = await loop.create_server(
            lambda: Protocol(studio), "127.0.0.1", 0, backlog=4096, ssl=context
        )
        ports[scheme] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loops: Any = importlib.import_module("uvloop" if find_spec("uvloop") else "asyncio")
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
