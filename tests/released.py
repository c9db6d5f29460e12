"""When the versions were published that the pages with results name."""

from __future__ import annotations

import gzip
import json
import subprocess
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Final

_PUBLISHED: Final = {
    "@azure/msal-node 7.2.4": "December 2026",
    "@octokit/auth-oauth-device 8.0.5": "August 2026",
    "huggingface_hub 2.4.0": "October 2026",
    "msal 1.39.0": "September 2026",
    "msal-extensions 1.3.1": "March 2025",
    "oauth4webapi 3.8.9": "November 2026",
    "openid-client 6.9.1": "November 2026",
    "requests_oauth2client 1.8.0": "December 2025",
    "singleflight-auth 0.2.0": "August 2026",
}
"""By name and version: a distribution does not say when it was published."""


def released(distribution: str) -> str:
    """Return a Python distribution's name and version, and when that was published."""
    named = f"{distribution} {metadata.version(distribution)}"
    if distribution == "deviceflow":
        when = _said("git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%cs")
        return f"{named} (this checkout, {when})" if when else f"{named} (this checkout)"
    return f"{named} ({_PUBLISHED.get(named, 'date unknown')})"


def released_by_npm(package: str, folder: Path) -> str:
    """Return a package's name and version in this folder, and when that was published."""
    described = json.loads((folder / "node_modules" / package / "package.json").read_text())
    named = f"{package} {described['version']}"
    return f"{named} ({_PUBLISHED.get(named, 'date unknown')})"


def packaged(package: str) -> str:
    """Return a Debian package's version, and when that was packaged."""
    version = _said("dpkg-query", "-W", "-f", "${source:Upstream-Version}", package)
    log = Path(f"/usr/share/doc/{package}/changelog.Debian.gz")
    if not log.exists():
        return f"{version or 'of unknown version'} (Debian)"
    lines = gzip.decompress(log.read_bytes()).decode().splitlines()
    stamp = next(line.partition(">  ")[2] for line in lines if line.startswith(" -- "))
    return f"{version.partition('+')[0]} (Debian, {parsedate_to_datetime(stamp):%B %Y})"


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
