"""Run both conformance kits: `python -m tests.conformance [--write PAGE] [CLIENT…]`.

Clients that are programs of others (gh, oidc-agent) are run where they are installed, those of
npm after `npm install --no-package-lock` in the folder `node`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme

from deviceflow.testing.conformance import CHECKS, Kit, Result, lines, markdown
from tests.conformance import servers
from tests.conformance.clients import CLIENTS, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRUSTED: Final = ("NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

MARK: Final = "<!-- conformance: {} {} -->"


def main() -> None:
    """Run the clients and the servers, and print or write what came."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--write", type=Path, help="the page whose tables to replace")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    args = parser.parse_args()
    results = dict(_run_clients(args.clients or list(CLIENTS)))
    tables = {"clients": f"Python {platform.python_version()}.\n\n{markdown(results)}"}
    if not args.clients:
        tables["servers"] = servers.table(dict(servers.run()))
    for name, table in tables.items():
        if args.write:
            _put(args.write, name, table)
        else:
            print(table, end="\n\n")


def _run_clients(names: list[str]) -> Iterator[tuple[str, list[Result]]]:
    with tempfile.TemporaryDirectory() as folder:
        authority, own = trustme.CA(), Path(folder) / "server.pem"
        trusted = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(trusted))
        certificate = authority.issue_cert("localhost", "127.0.0.1", "conformance.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(own))
        os.environ |= dict.fromkeys(_TRUSTED, str(trusted))
        for name in names:
            client = CLIENTS[name]
            if not client.is_installed():
                print(f"{name} is not installed.")
                continue
            print(f"{name}: {client.command}", flush=True)
            results = _kit(client, own).run(CHECKS)
            print("\n".join(lines(results)), flush=True)
            yield client.version(), results


def _kit(client: Client, own: Path) -> Kit:
    return Kit(client.command, tls=own if client.tls else None)


def _put(page: Path, name: str, table: str) -> None:
    begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
