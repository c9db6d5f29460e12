"""A Studio that is never done: one code, and `authorization_pending` for ever. Prints its port."""

from __future__ import annotations

import json
import socketserver

_CODE = {
    "device_code": "x" * 43,
    "user_code": "ABCD-EFGH",
    "token_name": "bench",
    "expires_in": 2_000_000,
}


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            if line.split()[1].endswith(b"/token"):
                status, sent = "400 Bad Request", b'{"detail": "authorization_pending"}'
            else:
                url = f"http://127.0.0.1:{self.request.getsockname()[1]}"
                pages = {"verification_uri": f"{url}/page", "token_uri": f"{url}/token"}
                status, sent = "200 OK", json.dumps(_CODE | pages).encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            self.wfile.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


with _Server(("127.0.0.1", 0), _Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
