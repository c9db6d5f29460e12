"""Servers that do a client all the harm that a server can, each on a port of its own."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import secrets
import socket
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    Case = Callable[["Peer"], None]

OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PATIENCE: Final = 20.0
"""Seconds for which a server keeps a connection that the client does not close."""

_LARGEST_FLOOD: Final = 300_000_000
_PAUSE: Final = 0.02


class Peer:
    """One connection to a client.

    Attributes:
        url: The address of this server.
        sock: The connection.
    """

    def __init__(self, url: str, sock: socket.socket, over: threading.Event) -> None:
        self.url, self.sock, self._over = url, sock, over

    def request(self) -> str:
        """Read a request to its end, and return its path."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        named = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        length = int(named[0].split(b":")[1]) if named else 0
        while len(body) < length:
            body += self._more()
        return head.split(b" ")[1].decode()

    def _more(self) -> bytes:
        if not (data := self.sock.recv(65536)):
            raise ConnectionResetError
        return data

    def trickle(self, pieces: Iterable[bytes]) -> None:
        """Send so slowly that no wait for bytes is long, until the client has had enough."""
        for piece in pieces:
            self.sock.sendall(piece)
            if self._over.wait(_PAUSE):
                return

    def flood(self, piece: bytes) -> None:
        """Send the same again and again."""
        piece *= max(1, 65536 // len(piece))
        for _ in range(_LARGEST_FLOOD // len(piece)):
            self.sock.sendall(piece)

    def hold(self) -> None:
        """Keep the connection, and say nothing."""
        self._over.wait(PATIENCE)

    def reset(self) -> None:
        """Tear the connection down."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Server:
    """Treats each connection as the case has it, in a thread of its own.

    Attributes:
        url: Its address.
        connections: How many there were.
    """

    def __init__(self, case: Case, *, scheme: str = "http") -> None:
        self._case = case
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._treat, args=(sock,), daemon=True).start()

    def _treat(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), sock:
            self._case(Peer(self.url, sock, self._over))

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def fields(url: str) -> dict[str, Any]:
    """Return an answer that is good for each request there is."""
    return {
        "device_code": "Dv1ce-0123456789-SECRET",
        "user_code": "WDJB-MJHT",
        "verification_uri": f"{url}/device",
        "token_uri": f"{url}/token",
        "token_name": "robot",
        "expires_in": 8,
        "access_token": "T0ken-0123456789-FIRST",
        "issuer": url,
        "device_authorization_endpoint": f"{url}/code",
        "token_endpoint": f"{url}/token",
        "revocation_endpoint": f"{url}/revoke",
    }


def body(url: str, **more: Any) -> bytes:
    return json.dumps(fields(url) | more).encode()


def good(peer: Peer) -> None:
    """Answer each request, whatever it is."""
    while True:
        peer.request()
        content = body(peer.url)
        peer.sock.sendall(head(content) + content)


def head(content: bytes, *more: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


# How to make a case.


def sends(*pieces: bytes, then: str = "close") -> Case:
    """Answer with these bytes, then `close`, `hold` or `reset` the connection."""

    def case(peer: Peer) -> None:
        peer.request()
        for piece in pieces:
            peer.sock.sendall(piece)
        if then != "close":
            getattr(peer, then)()

    return case


def trickles(start: bytes, *again: bytes) -> Case:
    def case(peer: Peer) -> None:
        peer.request()
        peer.sock.sendall(start)
        peer.trickle(again * 1000)

    return case


def floods(start: bytes, again: bytes) -> Case:
    def case(peer: Peer) -> None:
        peer.request()
        peer.sock.sendall(start)
        peer.flood(again)

    return case


def answers(content: bytes | Callable[[str], bytes], *more: str, status: str = "200 OK") -> Case:
    """Answer by the rules of HTTP, with this body, or one made for the address of the server."""

    def case(peer: Peer) -> None:
        made = content if isinstance(content, bytes) else content(peer.url)
        while True:
            peer.request()
            peer.sock.sendall(head(made, *more, status=status) + made)

    return case


def says(**more: Any) -> Case:
    """Give a good answer with other fields in it."""
    return answers(lambda url: body(url, **more))


def with_text(name: str, text: str) -> Case:
    """Give a good answer with a field that is no JSON of Python's making."""
    return answers(lambda url: body(url)[:-1] + f', "{name}": {text}}}'.encode())


def redirects(status: int, to: str) -> Case:
    """Lead elsewhere, and for whoever goes there to a good answer."""

    def case(peer: Peer) -> None:
        port = urlsplit(peer.url).port
        lines = f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        while True:
            peer.request()
            peer.sock.sendall(lines.replace("PORT", str(port)).encode())

    return case


def _bomb(kind: int, *, times: int = 150) -> bytes:
    """Return 10 KB of compressed bytes, so many times, each of which means 10 MiB."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, kind)
    start = squeeze.compress(b'{"a": "') + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(b"x" * 10_485_760) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return start + block * times


def encoded(name: str, content: bytes) -> Case:
    return sends(head(content, f"Content-Encoding: {name}"), content)


GZIP: Final = 31
ZLIB: Final = 15
RAW: Final = -15

DEEP: Final = ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000)


def _waiting() -> Iterator[tuple[str, Case]]:
    yield "silence", sends(then="hold")
    yield "does not read", lambda peer: peer.hold()
    yield "half a status line", sends(b"HTTP/1.1 2", then="hold")
    yield "half a head", sends(OK + b"X: y\r\n", then="hold")
    yield "half a body", sends(OK + b'Content-Length: 99\r\n\r\n{"a', then="hold")
    yield "body without an end", sends(OK + b"\r\n{}", then="hold")
    yield "half a chunk", sends(CHUNKED + b"9\r\n{}", then="hold")
    yield "no last chunk", sends(CHUNKED + b"2\r\n{}\r\n", then="hold")
    yield "no end of trailers", sends(CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n", then="hold")
    yield "only 100", sends(b"HTTP/1.1 100 Continue\r\n\r\n", then="hold")
    yield "only 103", sends(b"HTTP/1.1 103 Early Hints\r\n\r\n", then="hold")


def _trickling() -> Iterator[tuple[str, Case]]:
    yield "status line trickles", trickles(b"HTTP/1.1 200 ", b"O")
    yield "head trickles", trickles(OK, b"X: y\r\n")
    yield "header trickles", trickles(OK + b"X: ", b"y")
    yield "body trickles", trickles(OK + b"Content-Length: 9999\r\n\r\n", b" ")
    yield "body without an end trickles", trickles(OK + b"\r\n", b" ")
    yield "chunks trickle", trickles(CHUNKED, b"1\r\n \r\n")
    yield "chunk size trickles", trickles(CHUNKED, b"0")
    yield "trailers trickle", trickles(CHUNKED + b"0\r\n", b"X: y\r\n")
    yield (
        "gzip trickles",
        trickles(OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\3", b"\0"),
    )
    yield "100 trickles", trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    yield "empty lines trickle", trickles(b"", b"\r\n")


def _floods() -> Iterator[tuple[str, Case]]:
    yield "endless status line", floods(b"HTTP/1.1 200 ", b"O")
    yield "endless header", floods(OK + b"X: ", b"y")
    yield "header of 10 MB", sends(OK + b"X: " + b"y" * 10_000_000 + b"\r\n\r\n")
    yield "endless headers", floods(OK, b"X: y\r\n")
    yield "endless long headers", floods(OK, b"X: " + b"y" * 60_000 + b"\r\n")
    yield "endless cookies", floods(OK, b"Set-Cookie: a=b; expires=never\x1b[31m\r\n")
    yield "endless body", floods(OK + b"Content-Length: 1000000000000\r\n\r\n", b"x")
    yield "endless body without a length", floods(OK + b"\r\n", b"x")
    yield "endless chunks", floods(CHUNKED, b"1\r\nx\r\n")
    yield "one endless chunk", floods(CHUNKED + b"ffffffffff\r\n", b"x")
    yield "endless chunk size", floods(CHUNKED, b"1")
    yield "endless zero chunk size", floods(CHUNKED, b"0")
    yield "endless chunk extension", floods(CHUNKED + b"1;a=", b"b")
    yield "endless end of a chunk", floods(CHUNKED + b"1\r\nx", b"y")
    yield "endless trailers", floods(CHUNKED + b"0\r\n", b"X: y\r\n")
    yield "endless trailer", floods(CHUNKED + b"0\r\nX: ", b"y")
    yield "endless 100", floods(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n")
    yield "endless 103", floods(b"", b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n")
    yield "endless empty lines", floods(b"", b"\r\n")
    yield "endless noise", floods(b"", secrets.token_bytes(1000))


def _bombs() -> Iterator[tuple[str, Case]]:
    yield "gzip bomb", encoded("gzip", _bomb(GZIP))
    yield "x-gzip bomb", encoded("x-gzip", _bomb(GZIP))
    yield "deflate bomb", encoded("deflate", _bomb(ZLIB))
    yield "raw deflate bomb", encoded("deflate", _bomb(RAW))
    yield "gzip in gzip", encoded("gzip, gzip", gzip.compress(_bomb(GZIP)))
    nested = gzip.compress(_bomb(GZIP))
    two = head(nested, "Content-Encoding: gzip", "Content-Encoding: gzip")
    yield "gzip and gzip", sends(two, nested)
    yield "many encodings", encoded(", ".join(["gzip"] * 1000), nested)
    for name in ("br", "zstd", "compress", "rot13", "GZip "):
        yield f"says {name}", encoded(name, _bomb(GZIP, times=5))
    yield "gzip of many members", encoded("gzip", gzip.compress(b"") * 50_000)
    yield (
        "gzip with an endless name",
        floods(OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3", b"n"),
    )
    yield "endless gzip", floods(OK + b"Content-Encoding: gzip\r\n\r\n", _bomb(GZIP, times=1))
    bomb = _bomb(GZIP)
    chunked = OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield "gzip bomb in a chunk", sends(chunked + b"%x\r\n" % len(bomb) + bomb + b"\r\n0\r\n\r\n")
    yield "no gzip", encoded("gzip", b"{}")
    yield "half a gzip", encoded("gzip", gzip.compress(b"{}")[:-9])


def _broken() -> Iterator[tuple[str, Case]]:
    yield "closes at once", lambda peer: peer.sock.close()
    yield "resets at once", lambda peer: peer.reset()
    yield "closes", sends()
    yield "resets", sends(then="reset")
    yield "resets in the head", sends(OK + b"X:", then="reset")
    yield "resets in the body", sends(OK + b'Content-Length: 99\r\n\r\n{"a', then="reset")
    yield "closes in the body", sends(OK + b'Content-Length: 99\r\n\r\n{"a')
    yield "closes in a chunk", sends(CHUNKED + b"99\r\n{}")
    yield "resets in a trailer", sends(CHUNKED + b"2\r\n{}\r\n0\r\nX", then="reset")
    for length in ("-1", "1e3", "1" * 5000, "2, 2", "2, 3", "0x2", " ", "\xb2"):
        yield (
            f"length {length[:9]}",
            sends(OK + f"Content-Length: {length}\r\n\r\n{{}}".encode("latin-1")),
        )
    yield "too short a length", sends(OK + b"Content-Length: 1\r\n\r\n{}" + OK, then="hold")
    yield (
        "length and chunks",
        sends(OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    )
    for size in ("-5", "xyz", "", "5" * 5000, "0x2", "\u0662"):
        yield f"chunk of {size[:9]}", sends(CHUNKED + f"{size}\r\n{{}}\r\n0\r\n\r\n".encode())
    yield "another encoding", sends(OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n")
    yield "noise", sends(secrets.token_bytes(100_000))
    yield "zeros", sends(bytes(100_000))
    yield "HTTP/0.9", sends(b'{"access_token": "a"}')
    yield "SSH", sends(b"SSH-2.0-OpenSSH_9.6\r\n")
    yield "TLS", sends(b"\x15\x03\x01\0\2\2\x28")
    for line in ("HTTP/3.0 200 OK", "HTTP/1.1 abc", "HTTP/1.1 99999 x", "HTTP/1.1 -1", "HTTP/1.1"):
        yield line, sends(f"{line}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    yield "header without a name", sends(OK + b": x\r\nno colon\r\nContent-Length: 2\r\n\r\n{}")
    yield "odd bytes in headers", sends(OK + b"X\0\xff: \0\xff\x1b[31m\r\nA: \r\n b\r\n\r\n{}")
    yield "line feeds only", sends(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}")
    yield "an answer in advance", sends(OK + b"Content-Length: 2\r\n\r\n{}" + OK * 3)
    for value in ("1e308", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "\xff\0", "9" * 5000, "nan"):
        lines = f"HTTP/1.1 503 x\r\nRetry-After: {value}\r\nDate: {value}\r\n\r\n"
        yield f"come back in {value[:9]}", sends(lines.encode("latin-1"))


def _statuses() -> Iterator[tuple[str, Case]]:
    for status in (101, 199, 204, 205, 206, 226, 300, 304, 400, 401, 407, 418, 426, 451, 500, 999):
        more = ("WWW-Authenticate: Negotiate \x1b[31m", "Proxy-Authenticate: Basic realm=")
        yield str(status), answers(body, *more, status=f"{status} \x1b]0;x\x07")
    targets = {
        "the same": "http://127.0.0.1:PORT/again",
        "another path": "/again",
        "another host": "http://127.0.0.2:PORT/again",
        "another scheme": "https://127.0.0.1:PORT/again",
        "a file": "file:///etc/passwd",
        "a script": "javascript:alert(1)",
        "no address": "http://[bad/",
        "a long address": "/" + "x" * 60_000,
        "odd characters": "http://a\x1b[31m@127.0.0.1:PORT/\xe9\u202e",
        "nowhere": "",
    }
    for status in (301, 302, 303, 307, 308):
        for name, to in targets.items():
            if status in (302, 307) or name in ("the same", "another host"):
                yield f"{status} to {name}", redirects(status, to)


def _in(encoding: str, url: str) -> bytes:
    return body(url).decode().encode(encoding)


def _bodies() -> Iterator[tuple[str, Case]]:
    plain: dict[str, bytes] = {
        "empty": b"",
        "spaces": b" " * 100_000,
        "HTML": b"<!doctype html><title>Sign in</title>",
        "null": b"null",
        "an array": b"[" + b"{}," * 300_000 + b"{}]",
        "a text": b'"' + b"x" * 100_000 + b'"',
        "a number": b"1" * 100_000,
        "deep arrays": DEEP[0].encode(),
        "deep objects": DEEP[1].encode(),
        "deep and open": b"[" * 100_000,
        "escapes": b'{"a": "' + b"\\" * 100_000 + b'"}',
        "quotes": b'"' * 100_000,
        "not UTF-8": b'{"access_token": "\xff\xfe\xc3("}',
        "zeros in a body": bytes(100_000),
        "a form": b"a=b&" * 25_000,
    }
    for name, content in plain.items():
        yield name, answers(content)
    yield (
        "a long form",
        answers(b"a=b&" * 25_000, "Content-Type: application/x-www-form-urlencoded"),
    )
    for kind in ("utf-8-sig", "utf-16", "utf-32", "utf-16-le"):
        yield kind, answers(functools.partial(_in, kind))
    yield "good", good
    yield "as much as there can be", with_text("x", f"[{','.join(['[' * 30 + ']' * 30] * 17_000)}]")
    yield "a deep field", with_text("x", DEEP[0])
    yield "deep fields", with_text("x", "[" * 960 + "]" * 960)
    for name in ("access_token", "error", "interval", "verification_uri", "issuer"):
        yield f"a deep {name}", with_text(name, DEEP[1])
    for number in ("9" * 5000, "9" * 90_000, "-1", "1e999", "-1e999", "NaN", "1e-999", "true"):
        numbers = f'{number}, "expires_in": {number}, "interval": {number}'
        yield f"numbers {number[:9]}", with_text("x", numbers)
    yield "many fields", with_text("x", "1," + ",".join(f'"f{n}": 1' for n in range(20_000)))
    yield (
        "the same field",
        with_text("x", '1, "access_token": "a"' + ', "access_token": "b"' * 5_000),
    )
    yield (
        "an error and more",
        answers(
            lambda url: body(url, error="x" * 500_000, error_description="y" * 400_000),
            status="400 Bad Request",
        ),
    )


def _fields() -> Iterator[tuple[str, Case]]:
    odd = {
        "NUL": "a\0b",
        "half a character": "a\ud800",
        "escape sequences": "\x1b]0;x\x07\x9b31m\u202e\r\n",
        "a long text": "x" * 100_000,
        "an object": {"a": 1},
        "an empty text": "",
        "none": None,
    }
    optional = ("token_name", "refresh_token", "id_token", "token_type", "scope", "detail", "x")
    for what, value in odd.items():
        yield f"optional fields: {what}", says(**dict.fromkeys(optional, value))
        for name in ("device_code", "user_code", "verification_uri", "token_uri", "access_token"):
            yield f"{name}: {what}", says(**{name: value})
        for name in ("issuer", "token_endpoint", "error"):
            yield f"{name}: {what}", says(**{name: value})
    yield "a script to open", says(verification_uri="javascript:alert(1)")
    yield (
        "an endpoint elsewhere",
        says(token_endpoint="http://127.0.0.1:1/", token_uri="file:///etc"),
    )


def cases(kind: str) -> dict[str, Case]:
    """Return the cases of a kind, by name."""
    return dict(
        {
            "waiting": _waiting,
            "trickling": _trickling,
            "floods": _floods,
            "bombs": _bombs,
            "broken": _broken,
            "statuses": _statuses,
            "bodies": _bodies,
            "fields": _fields,
        }[kind]()
    )


KINDS: Final = ("waiting", "trickling", "floods", "bombs", "broken", "statuses", "bodies", "fields")


def tls_cases(context: ssl.SSLContext) -> dict[str, Case]:
    """Return what a server can do before, and under, TLS."""

    def under(case: Case) -> Case:
        def secured(peer: Peer) -> None:
            peer.sock = context.wrap_socket(peer.sock, server_side=True)
            with peer.sock:
                case(peer)

        return secured

    def handshake(*pieces: bytes, again: bytes = b"") -> Case:
        def case(peer: Peer) -> None:
            peer.sock.recv(1)
            for piece in pieces:
                peer.sock.sendall(piece)
            if again:
                peer.flood(again)
            peer.hold()

        return case

    hello = b"\x16\x03\x03\x3f\xff"  # a record of 16 KB, and what is in it is long in coming
    record = b"\x16\x03\x03\x40\x00" + b"\x02\xff\xff\xff" + bytes(16_380)

    def crawl(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.trickle([hello, *[b"\0"] * 1000])

    return {
        "silent handshake": handshake(),
        "half a hello": handshake(hello),
        "endless hello": handshake(record, again=b"\x16\x03\x03\x40\x00" + bytes(16_384)),
        "warnings without end": handshake(again=b"\x15\x03\x03\x00\x02\x01\x00"),
        "fatal alert": handshake(b"\x15\x03\x03\x00\x02\x02\x28"),
        "no TLS": handshake(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        "noise for a hello": handshake(secrets.token_bytes(50_000)),
        "handshake trickles": crawl,
        "good, by TLS": under(good),
        **{
            f"{name}, by TLS": under(cases(kind)[name])
            for kind, name in (
                ("waiting", "silence"),
                ("trickling", "body trickles"),
                ("trickling", "head trickles"),
                ("floods", "endless body"),
                ("floods", "endless chunk size"),
                ("bombs", "gzip bomb"),
                ("broken", "resets in the body"),
                ("broken", "closes in the body"),
            )
        },
    }
