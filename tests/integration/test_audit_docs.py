"""The pages on the trail: all options are there, all kinds, and what can be tried of the rest."""

from __future__ import annotations

import configparser
import io
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import pytest
import structlog
import yaml

from deviceflow.audit import log
from deviceflow.audit.events import render_store_event
from deviceflow.cli import main
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import Origin
from deviceflow.trail.ledger import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS: Final = Path(__file__).parents[2] / "docs"
SHIP: Final = (DOCS / "how-to/ship-events.md").read_text()
AUDIT: Final = (DOCS / "reference/audit.md").read_text()
ACTIONS: Final = (
    "verify",
    "digest",
    "keygen",
    "prune",
    "show",
    "list",
    "export",
    "stats",
    "report",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SHIP, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_page_on_the_trail_has_every_option(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["audit", action, "--help"])
    options = {*re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)} - {"--help"}

    assert {option for option in options if f"`{option}" not in AUDIT} == set()
    assert f"## deviceflow audit {action}" in AUDIT


def test_the_page_names_every_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])

    named = re.findall(r"^    ([a-z]+) {2,}", capsys.readouterr().out, re.MULTILINE)
    assert tuple(named) == ACTIONS


def test_the_page_says_what_each_kind_of_finding_means() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", AUDIT, re.MULTILINE)

    assert {kind for kind in get_args(Kind) if kind not in rows} == set()


def test_the_yaml_is_what_a_parser_takes() -> None:
    (text,) = blocks("yaml")

    config = yaml.safe_load(text)

    (source,) = config["filebeat.inputs"]
    assert source["parsers"][0]["ndjson"]["expand_keys"] is True
    assert config["processors"][0]["fingerprint"]["fields"] == ["event.id"]


def test_the_splunk_files_are_what_a_parser_takes() -> None:
    for text in blocks("ini"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_file(io.StringIO(text))
        assert len(parser.sections()) == 1


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where the example sends to."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(10)
        code = blocks("python")[-1].replace("/run/systemd/journal/socket", path)
        exec(compile(code, "<example>", "exec"), {})
        yield listener
    structlog.reset_defaults()


def entry_of(datagram: bytes) -> dict[str, str]:
    """Read an entry of journald's native protocol, of fields that have their length before them."""
    fields: dict[str, str] = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        assert rest[8 + length : 9 + length] == b"\n"
        fields[name.decode()] = rest[8 : 8 + length].decode()
        datagram = rest[9 + length :]
    return fields


def test_journald_is_sent_what_its_protocol_asks_for(journal: socket.socket) -> None:
    event = render_store_event(PLAIN_HTTP, 1e9, 1, "two\nlines\nMESSAGE=forged", Origin(pid=7))

    log.emit(log.TRANSITION, event)

    entry = entry_of(journal.recv(65536))
    assert entry["MESSAGE"] == "deviceflow.transition store plain_http"
    assert entry["PRIORITY"] == "6"
    assert entry["DEVICEFLOW_DETAIL"] == "two\nlines\nMESSAGE=forged"
    assert entry["DEVICEFLOW_PID"] == "7"
    assert "DEVICEFLOW_ACTOR" not in entry
    assert all(re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name) for name in entry)
