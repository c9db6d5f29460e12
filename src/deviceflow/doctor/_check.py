"""The results of the doctor: its checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result.

    Attributes:
        part: What was checked: `tls`, `discovery`, `client`, `code`, `practice`, `clock`, `poll`,
            `early poll` or `left behind`. `practice` reports departures from RFC 10027, the
            security practice for cross-device flows.
        verdict: `good`; `note` if the server differs from the standard but a login works; `bad` if
            a login would fail.
        message: The result, in words.
        quirk: A line of TOML for the provider's entry that handles a difference, if there is one.
    """

    part: str
    verdict: Verdict
    message: str
    quirk: str | None = None


def as_dict(check: Check) -> dict[str, Any]:
    """Return a check as JSON types."""
    return asdict(check)
