"""The files that the how-tos for cron, Make, systemd and Kubernetes show, run as they stand there.

The server is a real one, where somebody approves or not. Only its address, the paths of programs
and how long a script sleeps are other than on the page.
"""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import requests
import yaml

from deviceflow.cli import exits
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HOW_TO: Final = Path(__file__).parents[2] / "docs" / "how-to"
PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one


def files(page: str) -> dict[str, str]:
    """Return the files that a page shows or includes, by name."""
    text = (HOW_TO / page).read_text()
    shown = re.finditer(
        r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    included = re.findall(r"^```\{literalinclude\} (\w+)/(\S+)$", text, re.MULTILINE)
    return {block[1]: block[2] for block in shown} | {
        name: (HOW_TO / folder / name).read_text() for folder, name in included
    }


def command(page: str, name: str) -> str:
    """Return a command that a page shows."""
    [found] = re.findall(
        rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", (HOW_TO / page).read_text(), re.DOTALL
    )
    return str(found).replace("\\\n", " ")


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


class Place:
    """A machine of the reader's: programs in `bin`, a home, and a server where somebody decides."""

    def __init__(self, root: Path, server: LocalServer) -> None:
        self.server = server
        self.bin = root / "bin"
        self.home = root / "home" / "alice"
        self.bin.mkdir()
        self.home.mkdir(parents=True)
        command = shlex.join([sys.executable, "-m", "deviceflow"])
        self.program(self.bin / "deviceflow", f'#!/bin/sh\nexec {command} "$@"\n')

    def program(self, path: Path, text: str) -> Path:
        """Write a program, with the names that stand for the reader's own replaced by ours."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.adapted(text))
        path.chmod(0o755)
        return path

    def adapted(self, text: str) -> str:
        for name in ("https://studio.example.com", "https://login.example.com"):
            text = text.replace(name, self.server.url)
        return text.replace("/opt/deviceflow/bin", str(self.bin))

    def run(self, command: list[str], cwd: Path, environment: Mapping[str, str]) -> Done:
        """Run a command with nothing in its environment but that."""
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def logins(self, state: str | None = None) -> list[str]:
        """Return the codes that the server has given out, or those in a state."""
        log = requests.get(f"{self.server.url}/control/log", timeout=60).json()
        return [entry["user_code"] for entry in log["logins"] if state in (None, entry["state"])]

    def decide(self, decision: str) -> None:
        """Approve, deny or expire the one login that waits."""
        [code] = self.logins("waiting")
        answer = requests.post(
            f"{self.server.url}/control/{decision}", json={"user_code": code}, timeout=60
        )
        answer.raise_for_status()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield Place(tmp_path, server)


def until(code: int, again: Callable[[], Done], pending: int = exits.PENDING) -> Done:
    """Do something again, as long as it says that nothing has happened yet."""
    deadline = time.monotonic() + PATIENCE
    while (done := again()).code == pending and time.monotonic() < deadline:
        time.sleep(0.2)
    assert done.code == code, done.said
    return done


def swept(sweep: Callable[[], Done]) -> None:
    """Sweep until somebody's approval was seen; before the login is due there is nothing to do."""
    deadline = time.monotonic() + PATIENCE
    while "authorized" not in (done := sweep()).out:
        assert done.code == 0, done.said
        assert time.monotonic() < deadline
        time.sleep(0.2)


# cron


class Cron:
    """Runs a crontab's commands as cron does: by sh, with the crontab's variables and four more."""

    def __init__(self, place: Place, crontab: str = "crontab") -> None:
        self.place = place
        shown = files("cron.md")
        place.program(place.home / "bin" / "report-login", shown["report-login"])
        place.program(
            place.home / "bin" / "report",
            '#!/bin/sh\necho "report: $DVC_STUDIO_TOKEN of $DVC_STUDIO_URL"\n',
        )
        self.environment = {"HOME": str(place.home), "LOGNAME": "alice", "SHELL": "/bin/sh"}
        self.jobs: list[tuple[str, str]] = []
        for line in place.adapted(shown[crontab]).splitlines():
            if assigned := re.fullmatch(r"(\w+)=(.*)", line):
                self.environment[assigned[1]] = assigned[2]
            elif line and not line.startswith("#"):
                *when, command = line.split(None, 5)
                self.jobs.append((" ".join(when), command))

    def __call__(self, when: str) -> Done:
        """Run what is due then; what it prints is the mail."""
        [command] = [command for at, command in self.jobs if at == when]
        assert "%" not in command  # to cron that is the end of the line
        return self.place.run(["/bin/sh", "-c", command], self.place.home, self.environment)


AT_NIGHT: Final = "0 3 * * *"
NINE: Final = "0 9 * * 1-5"
EACH_MINUTE: Final = "* * * * *"
SUNDAYS: Final = "0 4 * * 0"


@pytest.fixture
def cron(place: Place) -> Cron:
    return Cron(place)


def test_cron_mails_one_code_and_runs_the_report_once_it_is_approved(cron: Cron) -> None:
    place = cron.place
    assert cron(EACH_MINUTE) == Done(0, "", "")
    begun = cron(NINE)
    [code] = place.logins()
    assert begun.code == 0
    assert code in begun.said

    assert cron(EACH_MINUTE) == Done(0, "", "")
    assert cron(EACH_MINUTE) == Done(0, "", "")
    again = cron(NINE)  # somebody runs it by hand
    assert code in again.said
    place.decide("approve")
    deadline = time.monotonic() + PATIENCE
    while not (mail := cron(EACH_MINUTE)).said and time.monotonic() < deadline:
        time.sleep(0.5)

    assert mail.code == 0
    assert re.fullmatch(rf"report: isat_\S+ of {re.escape(place.server.url)}\n", mail.said)
    assert cron(EACH_MINUTE) == Done(0, "", "")
    assert place.logins() == [code]
    kept = place.home / ".local/state/deviceflow/flows.db"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert mail.out.split()[1].encode() not in kept.read_bytes()
    assert cron(SUNDAYS) == Done(0, "", "")


@pytest.mark.parametrize(
    ("decision", "code"), [("deny", exits.DENIED), ("expire", exits.EXPIRED)], ids=["no", "expired"]
)
def test_cron_mails_once_that_there_is_no_report(cron: Cron, decision: str, code: int) -> None:
    cron(NINE)
    cron.place.decide(decision)

    mail = cron(EACH_MINUTE)
    assert mail.code == code
    assert f"To request another code: {cron.place.home}/bin/report-login begin" in mail.out
    assert decision[:3] in mail.err
    assert cron(EACH_MINUTE) == Done(0, "", "")


def test_cron_goes_on_once_the_file_of_logins_can_be_used_again(cron: Cron) -> None:
    cron(NINE)
    kept = cron.place.home / ".local/state/deviceflow"
    kept.chmod(0o755)
    mail = cron(EACH_MINUTE)
    assert mail.code == exits.STORE
    assert "chmod 700" in mail.said
    kept.chmod(0o700)
    cron.place.decide("approve")

    assert "report: isat_" in cron(EACH_MINUTE).said


def test_cron_has_a_token_each_night_from_one_login(place: Place) -> None:
    shown = files("cron.md")
    cron = Cron(place, "crontab-nightly")
    place.program(place.home / "bin" / "nightly", shown["nightly"])
    place.program(place.home / "bin" / "report", '#!/bin/sh\necho "report: $REPORT_TOKEN"\n')
    place.program(place.home / ".config/deviceflow/config.toml", shown["config.toml"]).chmod(0o600)
    login = command("cron.md", "login")

    def person(command: str) -> Done:
        return place.run(["/bin/sh", "-c", command], place.home, cron.environment)

    assert person(f"{login} --no-browser --timeout 0").code == exits.PENDING
    place.decide("approve")
    assert until(0, lambda: person(login)).code == 0
    first, second = cron(AT_NIGHT), cron(AT_NIGHT)
    assert (first.code, first.err) == (0, "")
    assert re.fullmatch(r"report: \S+\n", first.out)
    assert second == first
    assert len(place.logins()) == 1

    assert person("deviceflow logout nightly").code == 0
    mail = cron(AT_NIGHT)
    assert (mail.code, mail.out) == (exits.PENDING, "")
    assert "deviceflow login nightly" in mail.err


# Make


class Make:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.project = place.home / "project"
        self.project.mkdir()
        (self.project / "Makefile").write_text(place.adapted(files("make.md")["Makefile"]))
        place.program(self.project / "report", '#!/bin/sh\necho "report: $REPORT_TOKEN"\n')
        self.environment = {
            "HOME": str(place.home),
            "PATH": f"{place.bin}:/usr/local/bin:/usr/bin:/bin",
            "XDG_STATE_HOME": str(place.home / "state"),
            "LC_ALL": "C",
        }

    def __call__(self, *goals: str) -> Done:
        make = shutil.which("make")
        assert make is not None, "GNU make is needed: install the package make."
        return self.place.run([make, *goals], self.project, self.environment)


@pytest.fixture
def make(place: Place) -> Make:
    return Make(place)


def test_make_fails_with_the_code_until_it_is_approved(make: Make) -> None:
    place = make.place
    first, second = make(), make()
    [code] = place.logins()
    for done in (first, second):
        assert done.code == 2
        assert code in done.err
        assert "Approve the login, then run make again.\n" in done.err
        assert re.search(r"^make: \*\*\* \[Makefile:10: login\] Error 75$", done.err, re.MULTILINE)
        assert "report: " not in done.out
    place.decide("approve")

    done = until(0, make, pending=2)

    assert (shown := re.search(r"^report: (\S+)\n\Z", done.out, re.MULTILINE))
    assert done.said.count(shown[1]) == 1  # the recipe, which Make prints, has no token in it
    assert make().out.endswith(shown[0])
    assert place.logins() == [code]
    assert make("logout").code == 0
    assert "Error 75" in make().err
    assert len(place.logins()) == 2


def test_make_asks_for_another_code_when_it_is_run_again(make: Make) -> None:
    make()
    make.place.decide("expire")

    # Whichever of its commands polls first learns that the code has expired.
    while len(make.place.logins()) == 1:
        done = make()
        code = int(re.findall(r"Error (\d+)", done.err)[-1])
        assert code in (exits.EXPIRED, exits.PENDING)
        assert (code == exits.EXPIRED) == ("To request another code, run make again." in done.err)

    assert "Error 75" in make().err
    assert len(make.place.logins()) == 2


# systemd

Unit = dict[str, dict[str, list[str]]]


def unit(text: str) -> Unit:
    """Return a unit file's settings by section and name; a setting may be given more than once."""
    sections: Unit = {}
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(header[1], {})
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            section.setdefault(name, []).append(value)
    return sections


class Systemd:
    """Starts a service of the page as systemd does, as far as the service can tell."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place = place
        shown = {name: place.adapted(text) for name, text in files("systemd.md").items()}
        self.units = {
            name: unit(text)
            for name, text in shown.items()
            if name.endswith((".service", ".timer"))
        }
        self.shared = {
            name.partition("-")[0]: unit(text)["Service"]
            for name, text in shown.items()
            if "-.service.d/" in name
        }
        self.state, self.credentials = root / "state", root / "credentials"
        self.etc = root / "etc"
        place.program(self.etc / "nightly" / "config.toml", shown["config.toml"]).chmod(0o644)
        for program in ("report-begin", "report-run", "nightly"):
            place.program(place.bin / program, shown[program])
        place.program(place.bin / "report", '#!/bin/sh\necho "report: $REPORT_TOKEN"\n')
        self.credentials.mkdir(mode=0o700)
        [(key, _)] = [loaded.split(":") for loaded in self.shared["report"]["LoadCredential"]]
        (self.credentials / key).write_text(f"{generate_key().reveal()}\n")
        (self.credentials / key).chmod(0o400)

    def service(self, name: str) -> dict[str, list[str]]:
        """Return what a service has, the drop-in for all of its name's prefix included."""
        return self.shared[name.partition("-")[0]] | self.units[f"{name}.service"]["Service"]

    def start(self, name: str) -> Done:
        service = self.service(name)
        assert service["Type"] == ["oneshot"]
        return self._run(service)

    def person(self, name: str, *options: str) -> Done:
        """Do what a command of the page does: `systemd-run` makes a service of it."""
        program, *given = shlex.split(command("systemd.md", name))
        assert program == "systemd-run"
        [unit] = [one.removeprefix("--unit=") for one in given if one.startswith("--unit=")]
        start = next(at for at, word in enumerate(given) if not word.startswith("--"))
        return self.run_as(unit, shlex.join([*given[start:], *options]))

    def run_as(self, name: str, command: str) -> Done:
        """Run a command as a service of that name, which has its drop-in only."""
        shared = self.shared[name.partition("-")[0]]
        return self._run(shared | {"ExecStart": [self.place.adapted(command)]})

    def store(self, shared: str) -> str:
        """Return the store of all services of a prefix."""
        given = dict(item.split("=", 1) for item in self.shared[shared]["Environment"])
        return self._expanded(given["DEVICEFLOW_STORE"])

    def _run(self, service: dict[str, list[str]]) -> Done:
        assert service["DynamicUser"] == ["yes"]
        [state] = service["StateDirectory"]
        [mode] = service["StateDirectoryMode"]
        directory = self.state / state
        directory.mkdir(mode=int(mode, 8), parents=True, exist_ok=True)
        given = dict(item.split("=", 1) for item in service["Environment"])
        environment = {name: self._expanded(value) for name, value in given.items()} | {
            "CREDENTIALS_DIRECTORY": str(self.credentials),
            "STATE_DIRECTORY": str(directory),
        }
        environment["PATH"] = f"{self.place.bin}:{environment['PATH']}"
        [command] = service["ExecStart"]
        words = shlex.split(self._expanded(command))
        if words[0].startswith("/usr/local/bin/"):
            words[0] = str(self.place.bin / Path(words[0]).name)
        [where] = service["WorkingDirectory"]
        return self.place.run(words, Path(self._expanded(where)), environment)

    def _expanded(self, text: str) -> str:
        text = text.replace("%S", str(self.state)).replace("%d", str(self.credentials))
        assert "%" not in text
        return text.replace("/etc/", f"{self.etc}/")


@pytest.fixture
def systemd(place: Place, tmp_path: Path) -> Systemd:
    return Systemd(place, tmp_path)


def test_systemd_steps_the_login_until_the_report_can_run(systemd: Systemd) -> None:
    place = systemd.place
    begun = systemd.start("report-begin")
    [code] = place.logins()
    assert begun.code == 0
    assert code in begun.err

    early = systemd.start("report-run")
    assert early == Done(exits.PENDING, "", "")
    assert code in systemd.start("report-begin").err
    place.decide("approve")
    done = until(0, lambda: systemd.start("report-run"))

    assert re.fullmatch(r"report: \S{20,}\n", done.said)
    assert place.logins() == [code]
    assert not (systemd.state / "report" / "id").exists()
    assert systemd.start("report-sweep") == Done(0, "", "")
    assert systemd.start("report-purge").code == 0


def test_systemd_finds_a_login_that_was_swept_meanwhile(systemd: Systemd) -> None:
    systemd.start("report-begin")
    systemd.place.decide("approve")
    swept(lambda: systemd.start("report-sweep"))

    begun = systemd.start("report-begin")
    assert (begun.code, begun.out) == (0, "")
    assert "authorized" in begun.err
    assert systemd.start("report-run").said.startswith("report: ")
    assert len(systemd.place.logins()) == 1


def test_systemd_has_the_service_fail_for_good(systemd: Systemd) -> None:
    systemd.start("report-begin")
    systemd.place.decide("deny")

    until(exits.DENIED, lambda: systemd.start("report-run"))
    assert not (systemd.state / "report" / "id").exists()


def test_systemd_starts_the_service_again_only_while_the_login_is_pending(
    systemd: Systemd,
) -> None:
    service = systemd.service("report-run")
    final = {int(code) for code in " ".join(service["RestartPreventExitStatus"]).split()}

    assert service["Restart"] == ["on-failure"]  # the one that oneshot may have since 244
    assert exits.PENDING not in final
    assert {exits.USAGE, exits.EXPIRED, exits.DENIED, exits.FAILED} <= final
    assert systemd.units["report-begin.service"]["Unit"]["OnSuccess"] == ["report-run.service"]


def test_systemd_has_each_timer_s_service_and_no_secret_in_a_unit(systemd: Systemd) -> None:
    timers = [name for name in systemd.units if name.endswith(".timer")]
    assert len(timers) == 4
    for name in timers:
        assert systemd.units[name]["Timer"]["OnCalendar"]
        assert systemd.units[name]["Install"] == {"WantedBy": ["timers.target"]}
        assert name.replace(".timer", ".service") in systemd.units
    for shared, file in (("report", "flows.db"), ("nightly", "grants.db")):
        given = dict(item.split("=", 1) for item in systemd.shared[shared]["Environment"])
        assert given["DEVICEFLOW_KEYS"] == "file:%d/keys"
        assert given["DEVICEFLOW_STORE"] == f"sqlite:///%S/{shared}/{file}"


def test_systemd_has_a_token_each_night_from_one_login(systemd: Systemd) -> None:
    place = systemd.place
    shown = ("--no-browser", "--timeout", "0")
    assert systemd.person("login", *shown).code == exits.PENDING
    place.decide("approve")
    assert until(0, lambda: systemd.person("login")).code == 0
    for _ in range(2):
        assert re.fullmatch(r"report: \S{20,}\n", systemd.start("nightly-report").said)
    assert len(place.logins()) == 1

    place.program(place.bin / "report", "#!/bin/sh\nexit 75\n")
    assert systemd.start("nightly-report").code == 1  # the report's own codes mean something else
    assert (
        systemd.run_as("nightly-logout", "/opt/deviceflow/bin/deviceflow logout nightly").code == 0
    )
    waits = systemd.start("nightly-report")
    assert waits.code == exits.PENDING
    assert f"deviceflow login --store {systemd.store('nightly')} nightly" in waits.err
    assert systemd.person("again", *shown).code == exits.PENDING
    place.decide("approve")
    assert until(0, lambda: systemd.person("again")).code == 0
    assert systemd.start("nightly-report").code == 1


def test_systemd_tries_again_only_while_a_person_must_log_in(systemd: Systemd) -> None:
    service = systemd.service("nightly-report")
    final = {int(code) for code in " ".join(service["RestartPreventExitStatus"]).split()}

    assert service["Restart"] == ["on-failure"]
    assert not {exits.PENDING, exits.STORE} & final
    assert {1, exits.USAGE, exits.FAILED} <= final


# Kubernetes


class Cluster:
    """The page's objects, and what runs in their containers, run here."""

    def __init__(self, place: Place, root: Path, database: str) -> None:
        self.place = place
        shown = {name: place.adapted(text) for name, text in files("kubernetes.md").items()}
        self.config, self.job = yaml.safe_load_all(shown["job.yaml"])
        self.sweep, self.purge = yaml.safe_load_all(shown["housekeeping.yaml"])
        nightly, self.nightly = yaml.safe_load_all(shown["nightly.yaml"])
        secret = dict(line.split("=", 1) for line in shown["secret.env"].splitlines())
        assert secret.keys() == {"DEVICEFLOW_STORE", "PGPASSWORD", "DEVICEFLOW_KEYS"}
        self.secret = secret | {
            "DEVICEFLOW_STORE": database,
            "DEVICEFLOW_KEYS": generate_key().reveal(),
        }
        self.volume = root / "login"
        self.scripts = root / "scripts"
        for name, text in (self.config["data"] | nightly["data"]).items():
            script = text.replace("/login/token", str(self.volume / "token"))
            script = script.replace("sleep 5", "sleep 1")
            place.program(self.scripts / name, script)

    def run(self, container: dict[str, Any], **environment: str) -> Done:
        """Run a container's command in a pod of its own, with the environment that it gets."""
        assert container["envFrom"] == [{"secretRef": {"name": "deviceflow"}}]
        given = {
            each["name"]: each["value"] for each in container.get("env", ()) if "value" in each
        }
        words = [word.replace("/scripts", str(self.scripts)) for word in container["command"]]
        shutil.rmtree(self.volume, ignore_errors=True)
        self.volume.mkdir()
        return self.place.run(
            [shutil.which(words[0], path=f"{self.place.bin}:/bin") or words[0], *words[1:]],
            self.volume,
            self.secret | given | environment | {"PATH": f"{self.place.bin}:/usr/bin:/bin"},
        )

    def login(self, patience: int = 0) -> Done:
        """Run the login in a pod of the Job."""
        [container] = self.job["spec"]["template"]["spec"]["initContainers"]
        return self.run(container, JOB="report", PATIENCE=str(patience))

    @contextmanager
    def pod(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command in the nightly Job's pod, and kill the pod."""
        words = [word.replace("/scripts", str(self.scripts)) for word in command]
        process = subprocess.Popen(
            words,
            cwd=self.place.home,
            env=self.secret | {"PATH": f"{self.place.bin}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            yield process
            process.kill()

    def follows(self, container: str, code: int) -> str:
        """Return what the Job's policy does about a container's exit code."""
        for rule in self.job["spec"]["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule and rule["onExitCodes"]["containerName"] == container:
                among = code in rule["onExitCodes"]["values"]
                if among == (rule["onExitCodes"]["operator"] == "In"):
                    return str(rule["action"])
        return "Count"


@pytest.fixture
def cluster(place: Place, tmp_path: Path, postgres_url: str) -> Cluster:
    return Cluster(place, tmp_path, postgres_url)


def test_kubernetes_has_the_next_pod_go_on_with_the_same_code(cluster: Cluster) -> None:
    place = cluster.place
    first = cluster.login()
    [code] = place.logins()
    assert first.code == exits.PENDING
    assert code in first.err
    assert cluster.follows("login", first.code) == "Ignore"

    second = cluster.login()
    assert second.code == exits.PENDING
    assert code in second.err
    place.decide("approve")
    done = cluster.login(patience=30)

    assert done.code == 0
    token = (cluster.volume / "token").read_text()
    assert token.strip()
    assert token not in done.said
    assert place.logins() == [code]
    report = cluster.job["spec"]["template"]["spec"]["containers"][0]["command"]
    place.program(place.bin / "report", '#!/bin/sh\necho "report: $REPORT_TOKEN"\n')
    shell = [word.replace("/login/token", str(cluster.volume / "token")) for word in report]
    ran = place.run(shell, cluster.volume, {"PATH": f"{place.bin}:/usr/bin:/bin"})
    assert ran == Done(0, f"report: {token}", "")


def test_kubernetes_asks_once_for_all_nights(cluster: Cluster) -> None:
    place = cluster.place
    place.program(
        place.bin / "python",
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(":".join(sys.path))} exec {sys.executable} "$@"\n',
    )
    pod = cluster.nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [report] = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert report["envFrom"] == [{"secretRef": {"name": "deviceflow"}}]
    python, script = report["command"]
    command = (str(place.bin / python), script)

    with cluster.pod(*command) as waiting:
        assert waiting.stderr is not None
        assert "A person must log in" in waiting.stderr.readline()
        [shown] = re.findall(r"-- (deviceflow login \w+)", (HOW_TO / "kubernetes.md").read_text())
        program, *rest = shown.split()
        with cluster.pod(str(place.bin / program), *rest) as login:
            deadline = time.monotonic() + PATIENCE
            while not place.logins("waiting"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            with cluster.pod(*command) as another:  # since the login began, it asks each second
                assert another.stderr is not None
                assert "A person must log in" in another.stderr.readline()
                place.decide("approve")
                assert another.wait(PATIENCE) == 0
            assert login.wait(PATIENCE) == 0
        assert waiting.poll() is None
    for _ in range(2):
        with cluster.pod(*command) as night:
            said, trouble = night.communicate(timeout=PATIENCE)
            assert (night.returncode, said) == (0, "made with the token of generation 1\n"), trouble
    assert len(place.logins()) == 1


def test_kubernetes_sweeps_a_login_whose_pod_is_gone(cluster: Cluster) -> None:
    containers = {
        job["metadata"]["name"]: job["spec"]["jobTemplate"]["spec"]["template"]["spec"][
            "containers"
        ]
        for job in (cluster.sweep, cluster.purge)
    }
    cluster.login()
    cluster.place.decide("approve")
    [sweep], [purge] = containers["deviceflow-sweep"], containers["deviceflow-purge"]
    swept(lambda: cluster.run(sweep))
    assert cluster.run(purge).code == 0

    assert cluster.login().code == 0
    assert (cluster.volume / "token").exists()
    assert len(cluster.place.logins()) == 1


def test_kubernetes_has_the_job_fail_where_another_pod_would_bother_somebody(
    cluster: Cluster,
) -> None:
    cluster.login()
    cluster.place.decide("deny")
    denied = cluster.login(patience=30)

    assert denied.code == exits.DENIED
    for code in (exits.USAGE, exits.EXPIRED, exits.DENIED, exits.FAILED):
        assert cluster.follows("login", code) == "FailJob"
    assert cluster.follows("login", exits.STORE) == "Count"
    for code in (1, exits.PENDING):
        assert cluster.follows("report", code) == "FailJob"


def test_kubernetes_tries_again_when_the_database_is_away(cluster: Cluster) -> None:
    cluster.secret["DEVICEFLOW_STORE"] = "postgresql://127.0.0.1:1/nothing?connect_timeout=1"

    assert cluster.follows("login", cluster.login().code) == "Count"


def test_kubernetes_puts_no_secret_into_an_argument(cluster: Cluster) -> None:
    templates = [
        cluster.job["spec"]["template"]["spec"],
        *(
            job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            for job in (cluster.nightly, cluster.sweep, cluster.purge)
        ),
    ]
    for pod in templates:
        assert pod["restartPolicy"] == "Never"  # else the policy about exit codes is refused
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not re.search("PGPASSWORD|DEVICEFLOW_", " ".join(container["command"]))
    mounted = {volume["name"] for volume in templates[0]["volumes"]}
    for container in [*templates[0]["initContainers"], *templates[0]["containers"]]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
    [report] = templates[0]["containers"]
    assert "envFrom" not in report
    scripts = next(v for v in templates[0]["volumes"] if v["name"] == "scripts")
    assert scripts["configMap"]["name"] == cluster.config["metadata"]["name"]
