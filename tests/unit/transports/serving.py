"""Servers on loopback that misbehave on purpose, and what tests of transports say about them."""

from __future__ import annotations

import contextlib
import functools
import gzip
import secrets
import socket
import ssl
import threading
import traceback
from typing import TYPE_CHECKING, Final, Protocol

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from rich.console import Console
from rich.traceback import Traceback

from deviceflow.core.wire import Failure, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.ports import Transport

SOON = 0.3
"""The deadline, in seconds, of requests that run into it."""


LATE = 20.0
"""What no such request takes on any machine: half of what the servers here trickle for."""


# Not `time.sleep`: a server's thread may outlive its test by a moment, and other tests patch that.
def pause_for(seconds: float) -> None:
    threading.Event().wait(seconds)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


CANARY = secrets.token_hex(8)


class Server:
    """Deals with each connection in a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None) -> None:
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/token"
        self.connections = 0
        self.seen: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(10)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), conn, self._secured(conn) as peer:
            self._answer(peer)

    def _secured(self, conn: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(conn, server_side=True) if self._tls else conn

    def reads(self, conn: socket.socket) -> bytes:
        """Read one request and keep it."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(conn)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in [*head.lower().split(b"\r\n"), b"content-length:0"]
            if line.startswith(b"content-length:")
        )
        while len(body) < length:
            body += self._more(conn)
        self.seen.append(head + b"\r\n\r\n" + body)
        return self.seen[-1]

    def _more(self, conn: socket.socket) -> bytes:
        data = conn.recv(65536)
        if not data:
            raise ConnectionResetError
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Serve(Protocol):
    def __call__(
        self,
        *pieces: bytes,
        pause: float = ...,
        keep: bool = ...,
        answer: Callable[[Server, socket.socket], None] | None = ...,
        tls: ssl.SSLContext | None = ...,
    ) -> Server: ...


def post(url: str, body: bytes = b"{}", **headers: str) -> Request:
    return Request("token", url, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def failure(result: Response | Failure) -> tuple[str, bool]:
    assert isinstance(result, Failure), result
    return result.kind, result.sent


def cause(result: Response | Failure) -> str | None:
    assert isinstance(result, Failure), result
    return result.cause


def answer(result: Response | Failure) -> Response:
    assert isinstance(result, Response), result
    return result


def lines(request: bytes) -> list[str]:
    return request.decode().split("\r\n")


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def head(length: int, *headers: str) -> bytes:
    fields = [f"Content-Length: {length}", *headers]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()


@functools.cache
def bomb() -> list[bytes]:
    body = gzip.compress(bytes(50_000_000))
    return [head(len(body), "Content-Encoding: gzip"), body]


def large() -> list[bytes]:
    return [head(50_000_000), *[bytes(65536)] * 800]


def large_chunks() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 800]


def one_large_chunk() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, b"3000000\r\n", *[bytes(65536)] * 800]


_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _endless(start: bytes, then: bytes) -> Callable[[], list[bytes]]:
    return lambda: [start, *[then] * (50_000_000 // len(then))]


ENDLESS: Final = {
    "chunk size": _endless(_CHUNKED, b"1" * 65536),
    "chunk size with zeros": _endless(_CHUNKED, b"0" * 65536),
    "chunk extension": _endless(_CHUNKED + b"1;a=", b"b" * 65536),
    "end of a chunk": _endless(_CHUNKED + b"1\r\nx", b"y" * 65536),
    "empty chunk sizes": _endless(_CHUNKED, b"\r\n" * 32768),
    "small chunks": _endless(_CHUNKED, b"1;%s\r\n \r\n" % (b"x" * 60_000)),
    "trailer": _endless(_CHUNKED + b"0\r\nX: ", b"y" * 65536),
    "trailers": _endless(_CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "1xx": _endless(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000),
    "long 1xx": _endless(b"", b"HTTP/1.1 100 C\r\nX: %s\r\n\r\n" % (b"y" * 60_000)),
    "103": _endless(b"", b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 1000),
    "headers": _endless(b"HTTP/1.1 200 OK\r\n", b"X: %s\r\n" % (b"y" * 60_000)),
}


class Tls:
    def __init__(self, folder: Path) -> None:
        self._authority, self._folder = trustme.CA(), folder
        self.bundle = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.bundle)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("127.0.0.1").configure_cert(self.server)

    def named_in_subject_only(self, host: str) -> ssl.SSLContext:
        """Return a server whose certificate has its name in the subject's CN only.

        trustme makes no certificate without a subjectAltName, so this one is made by hand.
        """
        authority = self._authority
        issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
        signing = load_pem_private_key(authority.private_key_pem.bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        key, file = ec.generate_private_key(ec.SECP256R1()), self._folder / "cn.pem"
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(issuer.not_valid_before_utc)
            .not_valid_after(issuer.not_valid_after_utc)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False
            )
            .sign(signing, SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(pem + made.public_bytes(Encoding.PEM))
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(file)
        return server


def render(error: BaseException) -> str:
    """Return all that a log could show of the error, with every local variable."""
    console = Console(width=200, record=True, quiet=True)
    trace = error.__traceback__
    console.print(Traceback.from_exception(type(error), error, trace, show_locals=True))
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(plain.format()) + console.export_text()


def stopped(transport: Transport, url: str, expected: type[BaseException]) -> BaseException:
    request = post(url, CANARY.encode(), Authorization=CANARY)
    try:
        transport.send(request, 20)
    except expected as error:
        return error
    raise AssertionError
