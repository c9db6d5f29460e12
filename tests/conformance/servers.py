"""The doctor's conformance checks on the servers of our tests, each with somebody who approves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, get_args

from deviceflow.doctor import Check, Recorder, conformance
from deviceflow.transports.requests import RequestsTransport
from tests.integration.oidc_provider import Hurried
from tests.integration.rotating.servers import Name, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES: Final[tuple[Name, ...]] = get_args(Name)
_PACKAGES: Final = Path(__file__).parents[1] / "integration"
_URL: Final = re.compile(r" at https?://\S+?(?=[:.]?(\s|$))")
_BEGINNING: Final = "Expected: "


def check_of(name: Name) -> list[Check]:
    """Run the checks on one server."""
    with serving(name) as server:
        endpoints = ("device_authorization_endpoint", "token_endpoint", "revocation_endpoint")
        unknown: dict[str, Any] = dict.fromkeys(endpoints)

        def approve(user_code: str, page: str) -> None:
            server.approve(
                SimpleNamespace(  # type: ignore[arg-type]  # of a login, what a person needs
                    user_code=user_code, verification_uri=page, verification_uri_complete=page
                )
            )

        provider = replace(server.provider, **unknown)
        recorder = Recorder(RequestsTransport())
        return list(conformance(recorder, provider, approve=approve, clock=Hurried()))


def title(name: Name) -> str:
    """Return the server's name with its version."""
    match name:
        case "local":
            return f"deviceflow serve {version('deviceflow')}"
        case "django-allauth":
            return f"django-allauth {version('django-allauth')}"
        case "oidc-provider":
            return f"oidc-provider {_node_version('oidc', 'oidc-provider')}"
        case "better-auth":
            return f"better-auth {_node_version('rotating/better-auth', 'better-auth')}"


def table(found: Mapping[str, list[Check]]) -> str:
    """Return the rules that not all servers keep, with what came; then those that all keep."""
    by_rule: dict[str, dict[str, str]] = {}
    for server, checks in found.items():
        for rule, cell in map(_row, checks):
            by_rule.setdefault(rule, {})[server] = cell
    kept = [rule for rule, cells in by_rule.items() if {*cells.values()} == {"✓"}]
    rows = [["rule", *found], ["---"] * (1 + len(found))]
    for rule, cells in by_rule.items():
        if rule not in kept:
            rows.append([rule, *(cells.get(server, "") for server in found)])
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    rest = "\n".join(f"- {rule}" for rule in kept)
    return f"{drawn}\n\nThe other rules, which all of them keep where they apply:\n\n{rest}"


def _row(check: Check) -> tuple[str, str]:
    message = _URL.sub("", check.message)
    if check.verdict == "good":
        return message, "✓"
    if not message.startswith(_BEGINNING):
        rule, _, rest = message.partition(": ")
        return (f"{rule}.", f"• {rest}") if rest else (message, "•")
    rule, _, came = message.removeprefix(_BEGINNING).partition(" Came: ")
    return rule, f"{'✗' if check.verdict == 'bad' else '•'} {came.rstrip('.')}"


def _node_version(folder: str, package: str) -> str:
    read = json.loads((_PACKAGES / folder / "package.json").read_text())
    return str(read["dependencies"][package]).lstrip("^~=")


def run() -> Iterator[tuple[str, list[Check]]]:
    """Run the checks on all servers."""
    for name in NAMES:
        yield title(name), check_of(name)
