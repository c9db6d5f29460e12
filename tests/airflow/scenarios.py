"""What happens to the DAGs, and what has to come of it."""

from __future__ import annotations

import re
import time
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import requests

from tests.airflow.place import INTERVAL, LIFETIME
from tests.airflow.results import until
from tests.airflow.search import Search, dump, files

if TYPE_CHECKING:
    from tests.airflow.engine import Airflow, Part
    from tests.airflow.place import Place
    from tests.airflow.results import Results

_ORPHANED: Final = 4.0
"""Seconds that the children of a killed triggerer may go on; they end once they notice, in 2."""

_ENDS: Final = ("success", "failed")
_LOGS: Final = "log files"
_KNOWN: Final = {
    "database of Airflow": "DeviceLoginTrigger",
    "store": "nightly",
    "command lines": "DEVICEFLOW_CONFIG",
    _LOGS: "deviceflow.transition",
}
_SECRET: Final = ("access_token", "refresh_token", "device_code")


class Run(NamedTuple):
    """One run of a DAG."""

    airflow: Airflow
    dag: str
    id: str

    @classmethod
    def begin(cls, airflow: Airflow, dag: str) -> Run:
        return cls(airflow, dag, airflow.api.run(dag))

    def task(self, task: str) -> dict[str, Any]:
        """Return what Airflow says of a task."""
        return self.airflow.api.tasks(self.dag, self.id)[task]

    def reach(self, task: str, *states: str) -> str:
        """Wait until a task is in one of these states, and return the state."""
        what = f"{self.dag}.{task} is {' or '.join(states)}"

        def look() -> str | None:
            state = self.task(task)["state"]
            return state if state in states else None

        return until(look, what) or ""

    def end(self) -> str:
        """Wait until the run has ended, and return its state."""

        def look() -> str | None:
            state = self.airflow.api.run_state(self.dag, self.id)
            return state if state in _ENDS else None

        return until(look, f"{self.dag} ends") or ""

    def returned(self, task: str) -> Any:
        """Return what a task returned."""
        return self.airflow.api.returned(self.dag, self.id, task)

    def log(self, task: str, number: int = 1) -> str:
        """Return the log of a try of a task."""
        return self.airflow.api.log(self.dag, self.id, task, number)


class Scenarios:
    """All that is done with one Airflow.

    Args:
        airflow: Whose parts run.
        parts: Those parts, by name.
        place: The server, the store, and the person.
        results: Where each check is noted.
        databases: Databases to search for secrets: name to URL.
    """

    def __init__(
        self,
        airflow: Airflow,
        parts: dict[str, Part],
        place: Place,
        results: Results,
        databases: dict[str, str],
    ) -> None:
        self._airflow, self._parts, self._place = airflow, parts, place
        self._results = results
        self._databases = databases
        self._search = Search()

    def run(self) -> None:
        """Do it all. What waits for one thing leaves the time to another."""
        nightly = self._wait_for_a_person()
        first, second = self._parts["triggerer"], self._airflow.start("triggerer")
        self._parts["scheduler"].kill()
        first.freeze()
        at = time.time()
        self._parts["scheduler"] = self._airflow.start("scheduler")
        self._results.say("the scheduler is killed and started again, a triggerer is frozen")
        self._existing()
        self._taken_over("frozen", at)
        first.thaw()
        self._polled_on(time.time() + _ORPHANED)
        second.kill(children=False)  # they end by themselves
        at = time.time()
        self._results.say("the frozen triggerer is awake, and the other one is killed")
        self._cleared()
        self._taken_over("killed", at)
        self._place.approve("nightly")
        self._used(nightly)
        self._searched()
        self._verified()

    def _wait_for_a_person(self) -> Run:
        run = Run.begin(self._airflow, "login_nightly")
        run.reach("log_in", "deferred")
        self._place.start("nightly")
        until(lambda: len(self._place.polls("nightly")) >= 2, "the triggerer polls")
        self._look()
        return run

    def _taken_over(self, part: str, at: float) -> None:
        """Check that another triggerer goes on with what one left at that time."""
        first = self._polled_on(at + _ORPHANED)
        self._check(part, "another triggerer goes on", True, f"after {first - at:.1f} s")

    def _polled_on(self, at: float) -> float:
        """Wait until triggerers have polled twice after a time; return when they began to."""

        def look() -> list[float]:
            later = [poll for poll, _ in self._triggered() if poll > at]
            return later if len(later) > 1 else []

        return until(look, "a triggerer polls on")[0]

    def _triggered(self) -> list[tuple[float, int]]:
        """Return when triggerers polled, and which process that was."""
        return [
            (datetime.fromisoformat(event["time"]).timestamp(), event["pid"])
            for event in self._events("nightly", "poll")
            if event["engine"] == "airflow"  # and not deviceflow's own worker
        ]

    def _used(self, run: Run) -> None:
        """Check the run whose triggerer was killed while it waited."""
        state = run.end()
        self._check("login", "the DAG succeeds", state == "success", state)
        tokens = [run.returned(task) for task in ("use_first", "use_again")]
        self._check("login", "the second token is a later one", tokens[0] < tokens[1], tokens)
        self._paced("killed", "nightly")
        pollers = {process for _, process in self._triggered()}
        self._check("killed", "two triggerers polled", len(pollers) == 2, len(pollers))
        self._once("killed", "nightly")
        self._refreshed("login", "nightly")

    def _cleared(self) -> None:
        """Clear a task that waits, after somebody has asked for a code by the link in its log."""
        run = Run.begin(self._airflow, "login_cleared")
        run.reach("log_in", "deferred")
        with self._place.worker():
            link = self._link_in(run.log("log_in"))
            self._check("cleared", "the link is in the log of the task", link)
            until(lambda: _answers(link), "the page of the need is there")
            self._place.person.request_code(link)
            before = self._place.logins("cleared")
            tries = run.task("log_in")["try_number"]
            self._airflow.api.clear(run.dag, run.id, "log_in")
            until(lambda: run.task("log_in")["try_number"] > tries, "the task runs again")
            run.reach("log_in", "deferred")
            after = self._place.logins("cleared")
            same = [one["user_code"] for one in before] == [one["user_code"] for one in after]
            self._check("cleared", "the same code", same, f"{len(after)} code(s)")
            again = self._link_in(run.log("log_in", tries + 1))
            self._check("cleared", "the same link", again == link)
            self._place.approve("cleared")
            state = run.end()
        self._check("cleared", "the DAG succeeds", state == "success", state)
        self._paced("cleared", "cleared")
        self._once("cleared", "cleared")

    def _link_in(self, log: str) -> str:
        found = re.search(re.escape(self._place.pages) + r"/\S+", log)
        return found[0] if found else ""

    def _existing(self) -> None:
        """Run a DAG that only reads a connection."""
        run = Run.begin(self._airflow, "existing")
        run.reach("by_hook", "up_for_retry")
        need = self._needs("existing")
        self._check("existing", "the task fails, and is to be retried", True)
        self._check("existing", "one need is on record", len(need) == 1, len(need))
        link = self._link_in(run.log("by_hook"))
        self._check("existing", "the link is in the log of the task", link)
        self._place.log_in("existing")
        state = run.end()
        tries = run.task("by_hook")["try_number"]
        self._check(
            "existing", "all tasks succeed after the login", state == "success", f"{tries} tries"
        )
        self._once("existing", "existing")
        self._refreshed("existing", "existing")

    def _paced(self, part: str, grant: str) -> None:
        """Check that no poll came before its time."""
        polls = self._place.polls(grant)
        gaps = [after - before for before, after in pairwise(polls)]
        closest = min(gaps, default=float(INTERVAL))
        seen = f"{len(polls)} polls, the closest {closest:.2f} s apart"
        what = f"no two polls are closer than {INTERVAL} s"
        self._check(part, what, closest >= INTERVAL, seen)

    def _once(self, part: str, grant: str) -> None:
        """Check that one need is on record, and that the person was told of it once."""
        needs = len(self._needs(grant))
        told = len(self._place.person.told_of(grant, "needed"))
        self._check(part, "one need, one notification", needs == told == 1, f"{needs}, {told}")

    def _refreshed(self, part: str, grant: str) -> None:
        """Check that the grant was refreshed, and that the server is content with it."""
        grants = self._place.grants(grant)
        refreshes = sum(one["refreshes"] for one in grants)
        fine = [(one["state"], one["reuses"]) for one in grants] == [("active", 0)]
        seen = f"{refreshes} refreshes with tokens of {LIFETIME} s"
        self._check(part, "its token was refreshed, and not revoked", fine and refreshes, seen)

    def _needs(self, grant: str) -> list[dict[str, Any]]:
        return self._events(grant, "need")

    def _events(self, grant: str, action: str) -> list[dict[str, Any]]:
        return [event for event in self._place.events(grant) if event["action"] == action]

    def _look(self) -> None:
        """Collect what is to be searched, as it is now."""
        for name, database in self._databases.items():
            self._search.add(name, dump(database))
        self._search.add("command lines", self._airflow.command_lines())

    def _searched(self) -> None:
        """Search everything for secrets, and for what is no secret: else nothing is searched."""
        self._look()
        self._search.add(_LOGS, files(self._airflow.folder))
        seen = self._place.gate.seen
        secrets = {kind: seen[kind] for kind in _SECRET}
        links = {one["link"].rpartition("/")[2] for one in self._place.person.told if one["link"]}
        counted = [f"{len(values)} {kind}s" for kind, values in secrets.items()]
        self._check("secrets", "there are some", all(secrets.values()), ", ".join(counted))
        for name, word in _KNOWN.items():
            assert self._search.find(name, [word]) is not None, f"{word} is not in the {name}"
            # The log of a task has the link, since people look there.
            asked = secrets if name == _LOGS else secrets | {"link": links}
            found = {kind: self._search.find(name, values) for kind, values in asked.items()}
            leaks = [f"{kind}: …{before}" for kind, before in found.items() if before is not None]
            size = f"{self._search.size(name) / 1e6:.1f} MB"
            self._check("secrets", f"none in the {name}", not leaks, " ".join([size, *leaks]))

    def _verified(self) -> None:
        """Verify the trail, and look at what it says of who asked."""
        done = self._place.command("audit", "verify")
        said = done.stdout.partition("\n")[0]
        self._check("trail", "it verifies", done.returncode == 0, said)
        for grant in ("nightly", "existing"):
            event = self._needs(grant)[0]
            by = (event["engine"], (event["task_id"] or "").partition("/")[0])
            dag = {"nightly": "login_nightly"}.get(grant, grant)
            self._check("trail", f"the need of {grant} names its task", by == ("airflow", dag), by)

    def _check(self, part: str, what: str, passed: object, seen: object = "") -> None:
        self._results.check(part, what, passed, seen)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).ok
    except requests.ConnectionError:
        return False
