"""Says what a client did wrong, from what its server saw and how its process ended.

Each mismatch names what was expected and what came, codes and tokens too: they were made up for the
check. Only where something leaked, it says where, and does not repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, quote_plus

from deviceflow.testing.conformance._checks import (
    ACCESS_TOKEN,
    DEVICE_CODE,
    MARKS,
    SILENCE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.testing.conformance._checks import Check
    from deviceflow.testing.conformance._run import Outcome
    from deviceflow.testing.conformance._server import Record, Sent

Verdict = Literal["pass", "note", "fail"]

TOLERANCE: Final = 0.1
"""Seconds by which a poll may be early: clocks and sleeps are not exact."""

MOST_OUTPUT: Final = 20_000
"""Characters of a hostile text that a client may print."""

MOST_MEMORY: Final = 512 << 20
"""Bytes of memory that no login needs."""

_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"
_BEGINNING: Final = ACCESS_TOKEN[:10]
_LATE: Final = 3.0
_LESS_OFTEN: Final = 1.5
_TAIL: Final = 2000
_SHOWN: Final = 120
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one check.

    Attributes:
        check: The check.
        verdict: `pass`; `note`: the client gave up though it could have continued, or did
            something that its users should know; `fail`.
        problems: What it did wrong: what was expected, and what came.
        notes: What else was seen.
        polls: How many polls came.
        early: How many of them came too early.
        seconds: How long it took.
        transcript: What was asked and answered, and the end of what the client printed.
    """

    check: Check
    verdict: Verdict
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    polls: int
    early: int
    seconds: float
    transcript: str = field(repr=False)


def judge(record: Record, outcome: Outcome) -> Result:
    """Return the result of a check."""
    problems = [*_ending(record.check, record, outcome), *_polls(record), *_harm(record, outcome)]
    if record.check.name == "request":
        problems += _requests(record)
    notes = [*_notes(record, outcome)]
    verdict: Verdict = "fail" if problems else "note" if notes else "pass"
    return Result(
        check=record.check,
        verdict=verdict,
        problems=problems,
        notes=notes,
        polls=len(record.polls),
        early=len(_early(record)),
        seconds=outcome.seconds,
        transcript=_transcript(record, outcome),
    )


def _ending(check: Check, record: Record, outcome: Outcome) -> Iterator[str]:
    if outcome.code is None:
        yield f"expected an end, and the client still ran after {outcome.seconds:.0f} s"
    elif outcome.code < 0:
        yield f"expected an exit status, and signal {-outcome.code} ended the client"
    elif outcome.code == 0 and not _issued(record):
        yield "expected an exit status other than 0, and 0 came, without a token"
    elif outcome.code != 0 and check.expected == "token" and check.level in ("must", "should"):
        yield f"expected the token and exit status 0, and {outcome.code} came"
    if outcome.code == 0 and _BEGINNING in outcome.out and ACCESS_TOKEN not in outcome.out:
        printed = next(line for line in outcome.out.splitlines() if _BEGINNING in line)
        yield f"expected {ACCESS_TOKEN!r} to be printed, and {_value(printed)} came"
    if not record.codes:
        yield "expected a request for a code, and none came"


def _issued(record: Record) -> bool:
    return any(
        poll.answer and poll.answer.status == 200 and poll.answer.final for poll in record.polls
    )


def _polls(record: Record) -> Iterator[str]:
    if early := _early(record):
        seconds, asked = min(early, key=lambda gap: gap[0] - gap[1])
        yield f"expected {asked:g} s between two polls, and {seconds:.1f} s came"
    if after := record.after_final():
        yield f"expected no poll after the end, and {after} came"
    if record.codes:
        over = record.codes[0].at + record.check.lifetime + record.check.interval + _LATE
        if late := sum(poll.at > over for poll in record.polls):
            yield f"expected no poll after the code's lifetime, and {late} came"
    left = record.polls[0].left_at if record.polls else None
    if left is not None and len(record.polls) > 1:
        seconds = record.polls[1].at - left
        if seconds < record.check.interval * _LESS_OFTEN:
            yield f"expected fewer polls after a timeout, and the next came after {seconds:.1f} s"


def _early(record: Record) -> list[tuple[float, float]]:
    return [gap for gap in record.gaps() if gap[0] < gap[1] - TOLERANCE]


def _harm(record: Record, outcome: Outcome) -> Iterator[str]:
    printed = {"stdout": outcome.out, "stderr": outcome.err}
    codes = (DEVICE_CODE, quote(DEVICE_CODE), quote_plus(DEVICE_CODE))
    if record.strays:
        yield "expected the device code to go to localhost only, and it came to 127.0.0.1"
    if leaks := [name for name, text in printed.items() if any(code in text for code in codes)]:
        yield f"expected the device code to stay secret, and it was on {' and '.join(leaks)}"
    if marks := [mark for mark in MARKS if any(mark in text for text in printed.values())]:
        yield f"expected clean text, and {' and '.join(map(ascii, marks))} came from the server"
    if "javascript:" in outcome.opened:
        yield f"expected a browser with a web address, and {_value(outcome.opened.strip())} came"
    if outcome.memory > MOST_MEMORY:
        most, used = MOST_MEMORY >> 20, outcome.memory >> 20
        yield f"expected at most {most} MiB of memory for an answer, and {used} MiB were used"


def _requests(record: Record) -> Iterator[str]:
    asked: dict[str, str | None] = {"client_id": record.client_id}
    polled: dict[str, str | None] = {"grant_type": _GRANT_TYPE, "device_code": DEVICE_CODE}
    for what, sent, wanted in (
        ("request for a code", record.codes[:1], asked),
        ("poll", record.polls[:1], polled),
    ):
        for one in sent:
            if one.method != "POST":
                yield f"expected POST for the {what}, and {one.method} came"
            elif one.form is None:
                came = _value(one.content_type) if one.content_type else "none"
                yield f"expected Content-Type {_FORM!r} for the {what}, and {came} came"
            else:
                yield from _fields(what, one, wanted)


def _fields(what: str, sent: Sent, wanted: dict[str, str | None]) -> Iterator[str]:
    form = sent.form or {}
    for name, value in wanted.items():
        if not form.get(name) if value is None else form.get(name) != value:
            wish = name if value is None else f"{name} {value!r}"
            came = _value(form[name]) if name in form else "none"
            yield f"expected {wish} in the {what}, and {came} came"
    if what == "poll" and "client_id" not in form and not sent.authorization:
        yield "expected client_id or the header Authorization in the poll, and neither came"


def _notes(record: Record, outcome: Outcome) -> Iterator[str]:
    check, failed = record.check, bool(outcome.code)
    if check.level == "robust" and check.expected == "token" and failed:
        yield "gives up"
    if check.name == "approved" and outcome.code == 0 and ACCESS_TOKEN not in outcome.out:
        yield "does not print the token"
    if check.name == "duplicate-keys":
        yield "takes the first" if failed else "takes the last"
    if check.name == "long" and len(outcome.out + outcome.err) > MOST_OUTPUT:
        yield f"prints {len(outcome.out + outcome.err):,} characters"
    if "Traceback (most recent call last)" in outcome.err and check.level == "hostile":
        yield "ends with a traceback"
    yield from _noted_polls(record)


def _noted_polls(record: Record) -> Iterator[str]:
    check, polls = record.check, record.polls
    for poll, (seconds, _) in zip(polls, record.gaps(), strict=False):
        if poll.answer and seconds < poll.answer.interval - TOLERANCE:
            asked = poll.answer.interval
            yield f"does not read the interval of {asked:g} s: polls after {seconds:.1f} s"
    if check.name == "silent" and polls and polls[0].left_at is None:
        yield f"waits for an answer for more than {SILENCE:.0f} s"
    if check.name == "interval" and record.codes and polls:
        first = polls[0].at - record.codes[0].at
        if first < check.interval - TOLERANCE:
            yield f"polls first after {first:.1f} s, not {check.interval:g} s"


def _transcript(record: Record, outcome: Outcome) -> str:
    zero = record.codes[0].at if record.codes else 0.0
    lines = [f"  {one.at - zero:6.2f} s  {one.method} code" for one in record.codes]
    for poll in record.polls:
        answer = poll.answer
        told = "" if answer is None else answer.fault or f"{answer.status} {_short(answer.body)}"
        lines.append(f"  {poll.at - zero:6.2f} s  {poll.method} poll → {told}")
    lines.append(f"  {outcome.seconds:6.2f} s  exit status {outcome.code}")
    for name, text in (("stdout", outcome.out), ("stderr", outcome.err)):
        if text.strip():
            lines += [f"  --- {name}", _printable(text[-_TAIL:]).strip()]
    return "\n".join(lines)


def _value(text: str) -> str:
    """Quote what came, without its escapes."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _short(body: bytes) -> str:
    return _printable(body[:100].decode(errors="replace"))


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)
