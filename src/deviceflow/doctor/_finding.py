"""What the doctor reports: one finding for each thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: What: `tls`, `discovery`, `client`, `code`, `practice`, `clock`, `poll`, `early poll`,
            `left behind`. Under `practice` is in what the server departs from RFC 10027, the
            security practice for cross-device flows.
        verdict: `good`; `note`, where it works but differs; `bad`, where a login would fail.
        message: What was found, in words.
        quirk: A line of TOML for the provider's entry that takes care of it, where one does.
    """

    part: str
    verdict: Verdict
    message: str
    quirk: str | None = None


def as_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON types."""
    return asdict(finding)
