"""Makes the pictures of the documentation: `python docs/make_pictures.py [login] [report]`.

It runs a login to GitHub in a terminal, with a local server in the place of GitHub, and takes the
picture of what a person sees; and it takes that of the report of some logins in Chromium. It needs
the extra `dev`, and for the report Chromium.
"""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from getpass import getuser
from pathlib import Path
from typing import Final

import requests
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from deviceflow.server import LocalServer, Settings

PICTURES: Final = Path(__file__).with_name("pictures")
COLUMNS: Final = 64
# What a person types. GitHub has no page with the code in its address.
COMMAND: Final = "deviceflow login github --client-id Iv1.0123456789abcdef"
GITHUB: Final = """[github]
title = "GitHub"
device_authorization_endpoint = "{url}/oauth/device_authorization"
token_endpoint = "{url}/oauth/token"
answer_names = {{ verification_uri_complete = "none" }}
"""
LOGINS: Final = {
    "the nightly report": "approve",
    "the weekly report": "approve",
    "the upload of a model": "deny",
    "the backup": "approve",
}
"""What else is in the report: the purposes of logins, and what a person decided."""

# Rich's own template loads a font from elsewhere.
TEMPLATE: Final = """<svg viewBox="0 0 {width} {height}" width="680" xmlns="http://www.w3.org/2000/svg"
 role="img"><style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
{styles}</style>
<rect width="{width}" height="{height}" rx="8" fill="#0c0c0c"/>
<g fill="#555"><circle cx="20" cy="20" r="6"/><circle cx="40" cy="20" r="6"/>
<circle cx="60" cy="20" r="6"/></g>
<g transform="translate({terminal_x}, {terminal_y})" class="{unique_id}-matrix">
{backgrounds}{matrix}</g></svg>
"""


def main() -> None:
    """Make the pictures that are named, or both."""
    wanted = sys.argv[1:] or ["login", "report"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "DEVICEFLOW_STORE": f"sqlite:///{folder}/logins.db",
            "XDG_STATE_HOME": folder,
            "COLUMNS": str(COLUMNS),
            "TERM": "xterm-256color",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        with LocalServer(Settings(control=True, interval=1)) as server:
            if "login" in wanted:
                _draw_login(server.url, folder, environment)
            if "report" in wanted:
                for purpose, verb in LOGINS.items():
                    _log_in(server.url, purpose, verb, folder, environment)
        if "report" in wanted:
            _draw_report(folder, environment)


def _draw_login(url: str, folder: str, environment: dict[str, str]) -> None:
    providers = Path(folder, "providers.toml")
    providers.write_text(GITHUB.format(url=url))
    command = [*COMMAND.split(), "--no-browser", "--no-qr"]
    environment = environment | {
        "DEVICEFLOW_STORE": f"sqlite:///{folder}/github.db",
        "DEVICEFLOW_PROVIDERS": str(providers),
    }
    person = threading.Thread(target=_decide, args=(url, "approve"), daemon=True)
    person.start()
    main_end, terminal = pty.openpty()
    program = subprocess.Popen(  # noqa: S603
        command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    seen = b""
    while chunk := _read(main_end):
        seen += chunk
    if program.wait() != 0:
        raise SystemExit(seen.decode())
    shown = seen.decode().replace("\r\n", "\n")
    shown = re.sub(rf"{re.escape(url)}(/device)?", _at_github, shown)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: PTH123, SIM115
    console.print(Text(f"$ {COMMAND}", style="bold"))
    console.print(Text.from_ansi(shown.rstrip()))
    console.save_svg(
        str(PICTURES / "login.svg"), theme=MONOKAI, code_format=TEMPLATE, unique_id="login"
    )


def _at_github(address: re.Match[str]) -> str:
    return "https://github.com" + ("/login/device" if address[1] else "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the program has ended
        return b""


def _log_in(url: str, purpose: str, verb: str, folder: str, environment: dict[str, str]) -> None:
    threading.Thread(target=_decide, args=(url, verb), daemon=True).start()
    command = ["deviceflow", "login", "--once", "studio", url, "--no-browser", "--no-qr"]
    command += ["--show-token", "--client-name", "nightly", "--purpose", purpose]
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    if (done.returncode == 0) != (verb == "approve"):
        raise SystemExit(done.stderr)


def _decide(url: str, verb: str) -> None:
    decided = len(requests.get(f"{url}/control/log", timeout=5).json()["logins"])
    while True:
        time.sleep(2)
        logins = requests.get(f"{url}/control/log", timeout=5).json()["logins"]
        if len(logins) > decided:
            code = {"user_code": logins[-1]["user_code"]}
            requests.post(f"{url}/control/{verb}", json=code, timeout=5).raise_for_status()
            return


def _draw_report(folder: str, environment: dict[str, str]) -> None:
    report = Path(folder, "report.html")
    command = ["deviceflow", "audit", "report", "-o", report]
    subprocess.run(command, env=environment, cwd=folder, check=True)  # noqa: S603
    # The picture must not show the machine that made it.
    shown = report.read_text().replace(folder, "/srv/jobs")
    shown = shown.replace(f"{getuser()} on {socket.gethostname()}", "alice on jobs-1")
    report.write_text(shown)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("DEVICEFLOW_CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox"],
        )
        page = browser.new_page(viewport={"width": 960, "height": 1100}, device_scale_factor=1)
        page.goto(report.as_uri())
        page.screenshot(path=PICTURES / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
