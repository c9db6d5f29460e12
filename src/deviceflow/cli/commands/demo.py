"""`deviceflow demo`: run a login against a local server, and show its events."""

from __future__ import annotations

import logging
import threading
import webbrowser
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

import requests

from deviceflow import auth
from deviceflow.audit.log import TRANSITION
from deviceflow.cli import streams
from deviceflow.cli.commands import Command
from deviceflow.client.browser import kept_back
from deviceflow.core.secret import Secret
from deviceflow.credentials.secret_refs import variables

if TYPE_CHECKING:
    from argparse import ArgumentParser


class DemoOptions:
    """The options of `demo`."""

    auto_approve: bool
    no_browser: bool


def _add_demo(parser: ArgumentParser) -> None:
    parser.description = "Start a local authorization server, log in to it, and show the events."
    parser.add_argument("--auto-approve", action="store_true", help="approve without a person")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _run(args: DemoOptions) -> int:
    """Log in to a local server with `get_access_token`, and print the events."""
    from deviceflow.server import LocalServer, Settings  # an extra

    events = _Events()
    logger = logging.getLogger("deviceflow")
    logger.addHandler(events)
    logger.setLevel(logging.INFO)
    if args.auto_approve:
        webbrowser.register("deviceflow-demo", None, _Approver(), preferred=True)
    # The library opens the browser, and must not change the environment beside the server's
    # threads. So the secret variables are removed here, once.
    with LocalServer(Settings()) as server, kept_back(*variables()):
        streams.say(f"A local authorization server runs at {server.url}.")
        streams.say("")
        try:
            name, token = auth.get_access_token(
                hostname=server.url,
                client_name="deviceflow demo",
                scopes="experiments",
                open_browser=args.auto_approve or not args.no_browser,
            )
        finally:
            streams.show("")
            streams.show("What was logged (deviceflow.transition):")
            for event in events.seen:
                streams.show(_line(event))
    fingerprint = Secret(token).fingerprint()
    streams.show("")
    streams.show(f"Logged in: token {name!r}, {len(token)} characters, fingerprint {fingerprint}.")
    return 0


class _Events(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.__dict__.get("deviceflow_event") == TRANSITION:
            self.seen.append(record.__dict__["deviceflow"])


def _line(event: dict[str, Any]) -> str:
    arrow = f"{event['from']} → {event['to']}"
    facts = [f"attempt {event['attempt']}"] if event["attempt"] else []
    facts += [f"HTTP {event['http_status']}"] if event["http_status"] else []
    facts += [f"next in {event['wait']:g} s"] if event["wait"] is not None else []
    return f"  {event['seq']:>2}  {event['time'][11:23]}  {event['action']:<11}  {arrow:<26}  {', '.join(facts)}".rstrip()  # noqa: E501


class _Approver(webbrowser.BaseBrowser):
    """A browser without a person. It submits the page's form, and approves."""

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:  # noqa: ARG002
        threading.Thread(target=_approve, args=(url,), name="approver").start()
        return True


def _approve(url: str) -> None:
    with requests.Session() as browser:
        page = browser.get(url, timeout=10)
        for choice in ({}, {"decision": "approve"}):
            form = _Form(page.text)
            to = urljoin(page.url, form.action)
            page = browser.post(to, data=form.fields | choice, timeout=10)
            page.raise_for_status()


class _Form(HTMLParser):
    """The form of a page: its action and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        got = dict(attributes)
        if tag == "form":
            self.action = got.get("action") or ""
        elif tag == "input" and (name := got.get("name")):
            self.fields[name] = got.get("value") or ""


COMMANDS: Final = {"demo": Command(_add_demo, _run)}
