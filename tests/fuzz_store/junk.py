"""What somebody may put into a cell who can write to the tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core.encryption import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from tests.fuzz_store.places import Place

ESCAPES: Final = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe"
LINKS: Final = (
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "https://as.example.com@evil.example.com/device",
    "https://evil.example.com/<script>alert(1)</script>",
    "http://[::1",
    "file:///etc/passwd",
)
_DEEP: Final = '{"a":' * 5000 + "1" + "}" * 5000
_SHAPES: Final = ("null", "[]", "{}", "5", '"x"', '[["a"]]', '{"a": {"b": []}}', '"\\ud800"', "NaN")


class NothingError(Exception):
    """There is nothing of this kind to put there."""


class Cell(NamedTuple):
    """The cell that something is put into.

    Attributes:
        place: The store.
        random: The dice.
        table: The table.
        column: The column.
        row: The row, by column.
    """

    place: Place
    random: Random
    table: str
    column: str
    row: Mapping[str, Any]

    @property
    def was(self) -> Any:
        return self.row[self.column]

    @property
    def text(self) -> str:
        """What is there, if it is a text.

        Raises:
            NothingError: It is none.
        """
        if not isinstance(self.was, str) or not self.was:
            raise NothingError
        return self.was


def _other_row(cell: Cell) -> Any:
    rows = cell.place.saved[cell.table]
    others = [row[cell.column] for row in rows if row[cell.column] != cell.was]
    return cell.random.choice(_some(others))


def _other_column(cell: Cell) -> Any:
    return cell.row[cell.random.choice([name for name in cell.row if name != cell.column])]


def _flipped(cell: Cell) -> str:
    at = cell.random.randrange(len(cell.text))
    other = cell.random.choice([char for char in "0aA=.{" if char != cell.text[at]])
    return cell.text[:at] + other + cell.text[at + 1 :]


def _edited_json(cell: Cell) -> str:
    """Return the JSON that is there, with something else in one of its parts."""
    prefix = PLAIN if cell.text.startswith(PLAIN) else ""
    try:
        read = json.loads(cell.text.removeprefix(prefix))
    except ValueError:
        raise NothingError from None
    choose = cell.random.choice
    if isinstance(read, dict):
        name: Any = choose(_some([*read, "another"]))
        read[name] = choose(_PARTS)
        if isinstance(read[name], str) and cell.random.random() < 0.1:
            del read[name]
    elif isinstance(read, list) and read:
        read[cell.random.randrange(len(read))] = choose(_PARTS)
    else:
        read = choose(_PARTS)
    return prefix + json.dumps(read, separators=(",", ":")).replace('"<huge>"', "9" * 5000)


_PARTS: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 2**63, 1.5, 1e308, float("inf"), float("nan"), "<huge>"),
    *("", "x", "x" * 300_000, "\0", "\ud800", ESCAPES, *LINKS),
    *([], {}, ["x"], [5], {"a": ESCAPES}, [["a", "b"]], "init", "authorized", "denied", "purged"),
    [[[[[[[[[[["deep"]]]]]]]]]]],
)


def evil_provider(place: Place, random: Random, name: str = "mallory") -> str:
    """Return settings that lead to the attacker's server, with something of the worker's."""
    file = f"file:{place.canary}"
    places = ["env:FUZZ_WORKERS", file, "file:/proc/self/environ", "profile:work", None]
    reference = random.choice(places)
    record: dict[str, Any] = {
        "dialect": "rfc8628",
        "client_id": f"robot.{name}.",
        "device_authorization_endpoint": f"{place.servers.evil}/code",
        "token_endpoint": f"{place.servers.evil}/token",
        "revocation_endpoint": f"{place.servers.evil}/revoke",
        random.choice(["client_secret", "client_secret", "private_key"]): reference,
    }
    if reference is None:
        del record["client_secret" if "client_secret" in record else "private_key"]
    elif "client_secret" in record and random.random() < 0.3:
        record["client_auth"] = "client_secret_post"
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def _evil(cell: Cell) -> str:
    name = cell.row.get("id") or cell.row.get("flow_id") or "mallory"
    if cell.column == "record":
        read = json.loads(cell.text)
        read |= {
            "token_endpoint": f"{cell.place.servers.evil}/token",
            "verification_uri": f"{cell.place.servers.evil}/device",
            "user_code": "EVIL-CODE",
        }
        return json.dumps(read, separators=(",", ":"))
    if cell.column == "progress":
        return json.dumps(json.loads(cell.text) | {"due_at": 0.0}, separators=(",", ":"))
    return evil_provider(cell.place, cell.random, name)


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise NothingError
    return values


def _as_number(cell: Cell) -> Any:
    if isinstance(cell.was, bool) or not isinstance(cell.was, int | float):
        raise NothingError
    return cell.was + cell.random.choice([1, -1, 0.25, 2**33, -(2**33)])


KINDS: Final[Mapping[str, Callable[[Cell], Any]]] = {
    "NULL": lambda _: None,
    "0": lambda _: 0,
    "-1": lambda _: -1,
    "2^31": lambda _: 2**31,
    "2^53": lambda _: 2**53,
    "2^63-1": lambda _: 2**63 - 1,
    "0.5": lambda _: 0.5,
    "inf": lambda _: float("inf"),
    "-inf": lambda _: float("-inf"),
    "nan": lambda _: float("nan"),
    "1e308": lambda _: 1e308,
    "-0.0": lambda _: -0.0,
    "a bit more": _as_number,
    "empty text": lambda _: "",
    "text": lambda _: "abc",
    "number as text": lambda cell: cell.random.choice(["7", "-1", "1e400", "\u0667", " 1", "0x1"]),
    "300 kB": lambda cell: cell.random.choice(["x", "\u20ac", "[1],"]) * 100_000,
    "blob": lambda cell: cell.random.choice(
        [b"", b"\0\xff", str(cell.was).encode("utf-8", "replace")]
    ),
    "no UTF-8": lambda cell: cell.random.choice(["\udcff\udcfe", f"{cell.was}\udcc3"]),
    "NUL": lambda cell: cell.random.choice(["\0", f"{cell.was}\0", "a\0b"]),
    "3000 brackets": lambda cell: cell.random.choice(["[", '{"a":']) * 3000,
    "100000 brackets": lambda _: "[" * 100_000,
    "deep JSON": lambda cell: cell.random.choice([_DEEP, "[" * 900 + "]" * 900]),
    "wrong JSON": lambda cell: cell.random.choice(_SHAPES),
    "plain JSON": lambda cell: PLAIN + cell.random.choice(_SHAPES),
    "edited JSON": _edited_json,
    "another row's": _other_row,
    "another column's": _other_column,
    "escapes": lambda cell: cell.random.choice([ESCAPES, f"{cell.was}{ESCAPES}", "a\nb\tc"]),
    "link": lambda cell: cell.random.choice(LINKS),
    "attacker's": _evil,
    "flipped": _flipped,
    "truncated": lambda cell: cell.text[: cell.random.randrange(len(cell.text))],
    "longer": lambda cell: cell.text + cell.random.choice(["0", " ", "\n", "}", "="]),
    "a time": lambda cell: cell.random.choice(
        ["9999-12-31T23:59:59.999+00:00", "0001-01-01", "2026-01-01T00:00:00.000+23:59"]
    ),
    "a word": lambda cell: cell.random.choice(
        ["store", "init", "polling", "issue_token", "-", "--all"]
    ),
}
"""All of it, by what a person would call it."""
