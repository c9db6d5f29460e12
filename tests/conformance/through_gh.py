"""GitHub's `gh` at a server with a port, which it does not take: `through_gh.py HOST`.

It is told a name, and reaches the name through a proxy of ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from typing import Final

NAME: Final = "conformance.example"


def main() -> int:
    """Log in by gh, and print what it keeps."""
    host, _, port = sys.argv[1].partition(":")
    proxy = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(proxy, (host, int(port))), daemon=True).start()
    environment = os.environ | {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
    login = ["gh", "auth", "login", "--hostname", NAME, "--web", "--git-protocol", "https"]
    code = subprocess.run(login, env=environment, check=False).returncode
    if code == 0:
        kept = ["gh", "auth", "token", "--hostname", NAME]
        subprocess.run(kept, env=environment, check=False)
    return code


def _accept(proxy: socket.socket, server: tuple[str, int]) -> None:
    while True:
        client, _ = proxy.accept()
        threading.Thread(target=_connect, args=(client, server), daemon=True).start()


def _connect(client: socket.socket, server: tuple[str, int]) -> None:
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += client.recv(4096)
    upstream = socket.create_connection(server)
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    for source, sink in ((client, upstream), (upstream, client)):
        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # Closing alone would not wake the thread that reads from the other.
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
