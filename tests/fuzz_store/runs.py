"""One run: a store is attacked, used, and put back; and what must hold of that."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest import mock

from deviceflow import Client, export
from deviceflow.cli import main, prompt
from deviceflow.cli import stored as cli_stored
from deviceflow.client import _sync as client
from deviceflow.client.clock import SystemClock
from deviceflow.errors import DeviceFlowError
from deviceflow.stores.url import open_store
from tests.fuzz_store import attacks
from tests.fuzz_store.operations import (
    ALL,
    CLIENT,
    COMMANDS,
    STORE_METHODS,
    TOKENS,
    WRITTEN,
    Target,
)
from tests.fuzz_store.places import LIVE, STAGES, is_proper
from tests.fuzz_store.servers import SECRET, TOKEN
from tests.stored import get as get_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deviceflow.stores.sql import SQLStore
    from tests.fuzz_store.attacks import Attack, Case
    from tests.fuzz_store.places import Place

PATIENCE: Final = 30.0
"""Seconds that one operation may take. Each takes a fraction of one."""

_LONGEST_SLEEP: Final = 600.0
"""Seconds of waiting, none of which pass, until somebody presses Ctrl-C."""

_SUBPROCESS: Final = 60
"""Of so many runs one has its command in a process of its own."""

_STEERS: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_CODES: Final = {0, 1, 2, 3, 4, 5, 74, 75}
_ERRORS: Final = {2, 5, 74}


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        number: Which one it was.
        case: What was tried.
        secrecy: At which kind of store.
        operation: What was then done with the store.
        done: Whether the database took it.
        found: Whether `verify` found it.
        problems: What should not be so.
        said: What was done, in words.
    """

    number: int
    case: Case
    secrecy: str
    operation: str
    done: bool
    found: bool = False
    problems: Sequence[str] = ()
    said: str = ""


class Endless(BaseException):
    """An operation does not come to an end."""


class _Hurried(SystemClock):
    """Waits without waiting, and gives up when that has been for long."""

    slept = 0.0

    def sleep(self, seconds: float) -> None:
        # No less than a little: whoever waits for nothing again and again is in a loop.
        _Hurried.slept += max(seconds, 0.1)
        if _Hurried.slept > _LONGEST_SLEEP:
            raise KeyboardInterrupt


class _Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {vars(record).get('deviceflow')}")


class Said(NamedTuple):
    """What a command did.

    Attributes:
        code: Its exit code; None where it raised something.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int | None
    out: str
    err: str


class Run:
    """One run, and what it shows.

    Attributes:
        problems: What should not be so.
    """

    def __init__(self, place: Place, attack: Attack, random: Random) -> None:
        self.place = place
        self.attack = attack
        self.random = random
        self.problems: list[str] = []
        self._stores: list[Any] = []
        self._left_alone: set[str] = set()

    def wrong(self, what: str) -> None:
        """Remember something that should not be so."""
        self.problems.append(what)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have nothing leave this process, and everything seen."""
        log, logger = _Log(), logging.getLogger("deviceflow")
        level = logger.level
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        _opened.clear()

        variables, get = type(os.environ), type(os.environ).__getitem__

        def read(environment: Any, name: str) -> str:
            if name == "FUZZ_WORKERS":
                self.wrong("the worker's variable was read")
            return get(environment, name)

        def opened(*args: Any, **options: Any) -> Any:
            self._stores.append(open_store(*args, **options))
            return self._stores[-1]

        with (
            self.place.environment(),
            mock.patch.object(variables, "__getitem__", read),
            # To hide a variable from a browser is to read it, which is what it is for.
            mock.patch.object(prompt, "kept_back", return_value=contextlib.nullcontext()),
            mock.patch.object(client, "DeferredTransport", return_value=self.place.servers),
            mock.patch.object(client, "default_clock", _Hurried),
            mock.patch.object(time, "sleep", _Hurried().sleep),
            mock.patch.object(cli_stored, "open_store", opened),
        ):
            try:
                yield
            finally:
                logger.removeHandler(log)
                logger.setLevel(level)
                for store in self._stores:
                    store.close()
        self._clean("the log", "\n".join(log.lines), steers=False)
        if str(self.place.canary) in _opened:
            self.wrong("the worker's file was read")

    def guarded(self, name: str, work: Callable[[], object]) -> DeviceFlowError | None:
        """Do something that ends, and raises nothing but errors of ours."""
        _Hurried.slept = 0.0
        signal.signal(signal.SIGALRM, _ring)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            work()
        except DeviceFlowError as error:
            self._clean(f"{name}: the error", str(error), steers=False)
            return error
        except KeyboardInterrupt:
            if _Hurried.slept < _LONGEST_SLEEP or not self.attack.said.startswith("lease of"):
                self.wrong(f"{name}: waits without end")
        except Endless:
            self.wrong(f"{name}: does not end")
        except BaseException as raw:  # noqa: BLE001  # which is what is looked for
            where = traceback.extract_tb(raw.__traceback__)[-1]
            self.wrong(
                f"{name}: raw {type(raw).__name__} at {where.name}:{where.lineno}: {raw}"[:400]
            )
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None

    def command(self, *args: str, apart: bool = False) -> Said:
        """Run a command, here or in a process of its own."""
        if self.place.plaintext:
            args = (*args, "--plaintext")
        name = f"deviceflow {' '.join(args)}"
        out, err, code = io.StringIO(), io.StringIO(), list[int]()

        def work() -> None:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code.append(main(args))

        if apart:
            done = subprocess.run(
                [sys.executable, "-m", "deviceflow", *args],
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=4 * PATIENCE,
            )
            code.append(done.returncode)
            out.write(done.stdout.decode())
            err.write(done.stderr.decode())
        elif error := self.guarded(name, work):
            self.wrong(f"{name}: {type(error).__name__} gets out of the command")
        said = Said(code[0] if code else None, out.getvalue(), err.getvalue())
        self._check_said(name, args, said)
        return said

    def _check_said(self, name: str, args: Sequence[str], said: Said) -> None:
        if said.code is None:
            return
        if said.code not in _CODES and not (said.code == 130 and _Hurried.slept):
            self.wrong(f"{name}: exit code {said.code}")
        if "Traceback" in said.err:
            self.wrong(f"{name}: a traceback: {said.err[-300:]}")
        if said.code in _ERRORS and not (said.err.strip() or said.out.strip()):
            self.wrong(f"{name}: exit code {said.code}, and no word")
        handed = args[0] in TOKENS
        self._clean(f"{name}: stdout", said.out, secrets=not handed)
        self._clean(f"{name}: stderr", said.err)

    def _clean(self, where: str, text: str, *, secrets: bool = True, steers: bool = True) -> None:
        if steers and (found := _STEERS.search(text)):
            at = found.start()
            self.wrong(f"{where}: steers the terminal: {text[max(0, at - 60) : at + 20]!r}")
        if "CANARY" in text:
            self.wrong(f"{where}: has something of the worker's")
        if secrets and self.attack.quiet and (shown := SECRET.search(text)):
            at = shown.start()
            self.wrong(f"{where}: has a secret: {text[max(0, at - 60) : at + 20]!r}")

    # What must hold.

    def verify(self) -> bool:
        """Verify, and see that the attack is found, or not, as it must be."""
        said = self.command("audit", "verify", "--json")
        found = said.code in (1, 74)
        if said.code not in (0, 1) and not (self.attack.shuts and said.code == 74):
            self.wrong(f"verify: exit code {said.code}: {said.out[-300:]}{said.err[-300:]}")
        elif self.attack.found not in (None, found):
            what = "not found" if self.attack.found else f"found, and is nothing: {said.out}"
            self.wrong(f"verify: {what[:400]}")
        if self.attack.signed:
            digests = ("--digests", str(self.place.digests))
            if self.command("audit", "verify", "--json", *digests).code != 1:
                self.wrong("verify: not found by the digests")
        if said.code == 1 and not self.attack.shuts:
            self._check_named(json.loads(said.out)["findings"])
        return found

    def _check_named(self, findings: Sequence[dict[str, Any]]) -> None:
        named = {finding["flow_id"] for finding in findings} - {None}
        if strangers := named & {*STAGES} - self.attack.logins:
            self.wrong(f"verify: names {strangers}, to whom nothing was done")

    def operate(self, operation: str, *, apart: bool) -> None:
        """Do an operation to the login that was attacked, or to another one."""
        # Some are too long for a command line.
        names = sorted(name[:2000] for name in self.attack.logins) or ["waiting"]
        name = self.random.choice([*names, self.random.choice(list(STAGES))])
        target = Target(self.place, name, self.random)
        if "snooze" in operation:
            self._left_alone = {name}
        elif operation == "Client.start":
            self.attack.silent = self.attack.silent - {name}  # the client asks for a code by itself
        whose, _, what = operation.partition(" ")
        if whose == "deviceflow":
            for file in WRITTEN:
                (self.place.folder / file).unlink(missing_ok=True)
            args = COMMANDS[what](target)
            if not name.startswith("-") and "\0" not in name and is_proper(name):
                self.command(*args, apart=apart)
            self._check_files(args)
            return
        whose, _, what = operation.partition(".")
        if (store := self.open()) is None:
            return
        if whose == "Client":
            with self.client(store) as one:
                self.guarded(operation, lambda: CLIENT[what](one, target))
        else:
            self.guarded(operation, lambda: STORE_METHODS[what](store, target))

    def _check_files(self, args: Sequence[str]) -> None:
        for file in WRITTEN:
            path = self.place.folder / file
            if path.exists():
                text = path.read_text("utf-8", errors="replace")
                self._clean(f"{' '.join(args)}: the file", text, secrets=args[0] == "audit")

    def open(self) -> SQLStore | None:
        """Open the store, if that can be done."""
        opened: list[SQLStore] = []
        if (error := self.guarded("open", lambda: opened.append(self.place.open()))) and (
            not self.attack.shuts
        ):
            self.wrong(f"the store cannot be opened: {error}")
        self._stores += opened
        return opened[0] if opened else None

    def client(self, store: SQLStore) -> Client:
        """Return a client whose requests are seen."""
        parts: dict[str, Any] = {"transport": self.place.servers, "clock": _Hurried()}
        return Client(store, **parts, output=lambda _: None)

    def check_sent(self) -> None:
        """See that nothing left that must not."""
        for sent in self.place.servers.sent:
            if not sent.honest and not self.attack.evil:
                self.wrong(f"sent to the attacker: {sent.text[:200]}")
            if "CANARY" in sent.text:
                self.wrong(f"something of the worker's was sent: {sent.text[:200]}")
            if strangers := sent.logins & self.attack.silent:
                self.wrong(f"sent from a damaged row of {strangers}: {sent.text[:200]}")

    def check_others(self) -> None:
        """See that all other logins go on: a sweep, a list, and a purge reach them."""
        store = self.open()
        if store is None or self.attack.shuts:
            return
        problems: list[DeviceFlowError] = []
        with self.client(store) as one:
            self._sweep_others(one, problems)
            self._list_others(one, problems)
            self._purge_others(one, problems)
        for problem in problems:
            self._clean("then, a problem", str(problem), steers=False)
            if problem.flow_id in self._others():
                self.wrong(f"then, a problem of {problem.flow_id}: {problem}")

    def _others(self) -> set[str]:
        """Return the logins to which nothing was done, and that are in the store still."""
        there = {row["id"] for row in self.place.rows("flows")} & {*STAGES}
        return there - self.attack.logins - self._left_alone

    def _then(self, what: str, work: Callable[[], object]) -> None:
        if error := self.guarded(f"then, {what}", work):
            self.wrong(f"then, {what}: {error}")

    def _sweep_others(self, one: Client, problems: list[DeviceFlowError]) -> None:
        before = {row["id"]: row["seq"] for row in self.place.saved["flows"]}
        self._then("sweep", lambda: problems.extend(one.sweep(1000).problems))
        after = {row["id"]: row["seq"] for row in self.place.rows("flows")}
        for name in self.place.due & self._others():
            if after[name] == before[name]:
                self.wrong(f"then, sweep: {name} was not stepped")

    def _list_others(self, one: Client, problems: list[DeviceFlowError]) -> None:
        listed: list[str] = []
        self._then(
            "list", lambda: listed.extend(f.id for f in one.logins(on_problem=problems.append))
        )
        if missing := self._others() - {*listed}:
            self.wrong(f"then, list: without {missing}")

    def _purge_others(self, one: Client, problems: list[DeviceFlowError]) -> None:
        self._then("purge", lambda: problems.extend(one.purge(tokens_after=60).problems))
        left = {row["id"]: row for row in self.place.rows("flows")}
        others = self._others()
        for name in others & {"authorized", "late", "collected"}:
            if left[name]["token"] is not None:
                self.wrong(f"then, purge: the token of {name} is there")
        if "ancient" in others:
            self.wrong("then, purge: ancient is there")

    def check_undone(self) -> None:
        """Put back what was there, and see that nothing was lost by what was done meanwhile."""
        attack, place = self.attack, self.place
        assert attack.undo is not None
        try:
            attack.undo()
        except attacks.REFUSED as refused:
            # A new login may have got the key or the id that was free meanwhile.
            if not re.search(r"flows_open_name_key|flows\.name|flows_pkey|flows\.id", str(refused)):
                self.wrong(f"undone: the database refuses: {refused}")
            return
        damaged = attack.logins & {*STAGES}
        self.attack = attacks.Attack("undone", quiet=attack.quiet)
        said = self.command("audit", "verify", "--json")
        if said.code not in (0, 1):
            self.wrong(f"undone, verify: {said}"[:500])
            return
        findings = json.loads(said.out)["findings"]
        if attack.shuts:
            # What was begun or noted meanwhile was so under another store's name or key.
            findings = [one for one in findings if one["flow_id"] in STAGES]
        if findings:
            self.wrong(f"undone, verify: {findings}"[:500])
            return
        with place.open() as store, self.client(store) as one:
            there = {row["id"] for row in place.rows("flows")} | {"ancient"}
            for name in damaged - there:
                self.wrong(f"undone: {name} is gone")
            damaged &= {row["id"] for row in place.rows("flows")}
            for name in damaged if attack.same else ():
                if export.to_dict(get_stored(one._store, name), secrets=True) != place.logins[name]:
                    self.wrong(f"undone: {name} is not as before")
            for name in damaged & {*LIVE} if attack.same else ():
                place.servers.granting.add(name)
                self.guarded(f"undone, wait for {name}", lambda name=name: self._granted(one, name))  # type: ignore[misc]

    def _granted(self, one: Client, name: str) -> None:
        if one.wait_for_token(name, 0).access_token.reveal() != TOKEN.format(name):
            self.wrong(f"undone: {name} has another token")


def perform(
    place: Place, case: Case, seed: str, number: int, operation: str | None = None
) -> Outcome:
    """Do one run.

    Args:
        place: The store.
        case: What is done to it.
        seed: What chance goes by.
        number: Which run it is.
        operation: What is then done with it, where that is not left to chance.
    """
    random = Random(f"{seed} {number}")
    operation = operation or random.choice(ALL)
    place.reset()
    with place.environment():
        attack = attacks.done(case, place, random)
    if attack is None:
        return Outcome(number, case, place.secrecy, operation, done=False)
    run = Run(place, attack, random)
    apart = operation.startswith("deviceflow") and random.randrange(_SUBPROCESS) == 0
    with run.watched():
        found = run.verify()
        run.operate(operation, apart=apart)
        run.check_others()
        run.check_sent()
        if attack.undo is not None and "prune" not in operation:
            run.check_undone()
    return Outcome(
        number, case, place.secrecy, operation, True, found, tuple(run.problems), attack.said
    )


_opened: Final[set[str]] = set()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(args[0], str | os.PathLike):
        _opened.add(os.fspath(args[0]))


sys.addaudithook(_audit)


def _ring(*_: object) -> None:
    raise Endless
