"""The conformance kit: on our own client, on a bad one, and as pytest runs it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trustme

from deviceflow.errors import UsageError
from deviceflow.testing.conformance import CHECKS, Kit, Result, lines, markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

pytest_plugins = ["pytester"]

CLIENTS: Final = Path(__file__).parents[1] / "conformance"
OURS: Final = (
    f"{shlex.quote(sys.executable)} -m deviceflow login --once --issuer {{issuer}}"
    " --client-id {client_id} --show-token --store memory:"
)
BAD: Final = shlex.join([sys.executable, str(CLIENTS / "bad.py"), "{device}", "{token}"])
LASTING: Final = {"default-interval", "silent", "slow-down-interval"}
"""Checks that take long: `python -m tests.conformance` runs them too."""

LOADED: Final = ("-p", "no:deviceflow", "-p", "deviceflow.testing.plugin", "-p", "no:randomly")


def run(command: str, names: Iterable[str]) -> dict[str, Result]:
    chosen = [check for check in CHECKS if check.name in names]
    return {one.check.name: one for one in Kit(command).run(chosen)}


def test_our_client_does_nothing_wrong() -> None:
    names = {check.name for check in CHECKS} - LASTING

    results = run(OURS, names)

    assert not {name: one.transcript for name, one in results.items() if one.problems}
    assert {name: one.notes for name, one in results.items() if one.notes} == {
        "duplicate-keys": ["takes the last"]
    }
    assert results["slow-down"].polls == 3
    assert sum(one.early for one in results.values()) == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("approved", "expected 1 s between two polls, and 0.4 s came"),
        (
            "request",
            "expected grant_type 'urn:ietf:params:oauth:grant-type:device_code' in the poll",
        ),
        ("request", "expected client_id in the request for a code, and none came"),
        ("slow-down", "expected 6 s between two polls, and 0.4 s came"),
        ("denied", "expected no poll after the end, and 6 came"),
        ("denied", "expected an exit status other than 0, and 0 came, without a token"),
        ("echo", "expected the device code to stay secret, and it was on stdout"),
        ("escapes", "expected clean text, and '\\x1b]0;owned' and "),
        ("huge", "expected at most 512 MiB of memory for an answer, and "),
        ("unavailable", "gives up"),
        ("long", "prints 100,"),
    ],
)
def test_a_bad_client_is_told_what_it_does_wrong(
    bad: dict[str, Result], name: str, problem: str
) -> None:
    result = bad[name]

    assert result.verdict == "fail"
    assert any(one.startswith(problem) for one in [*result.problems, *result.notes]), result


@pytest.fixture(scope="module")
def bad() -> dict[str, Result]:
    """Run the bad client."""
    names = {"approved", "request", "slow-down", "denied", "echo", "escapes", "huge", "long"}
    return run(BAD, names | {"unavailable"})


def test_a_client_that_does_not_end_or_is_killed_fails() -> None:
    check = [one for one in CHECKS if one.name == "approved"]

    (hung,) = Kit("sh -c 'sleep 60' {issuer}", deadline=0.5).run(check)
    (killed,) = Kit("sh -c 'kill -9 $$' {issuer}").run(check)

    assert hung.problems[0] == "expected an end, and the client still ran after 1 s"
    assert killed.problems[0] == "expected an exit status, and signal 9 ended the client"
    assert killed.problems[1] == "expected a request for a code, and none came"


def test_a_client_that_opens_an_unsafe_link_fails() -> None:
    check = [one for one in CHECKS if one.name == "unsafe-link"]

    (opened,) = Kit("sh -c '\"$BROWSER\" javascript:alert' {issuer}").run(check)

    expected = "expected a browser with a web address, and 'javascript:alert' came"
    assert expected in opened.problems


def test_the_servers_speak_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    own = authority.issue_cert("localhost")
    own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    check = [one for one in CHECKS if one.name == "reset-early"]
    client = f"env REQUESTS_CA_BUNDLE={tmp_path / 'authority.pem'} {OURS}"

    (result,) = Kit(client, tls=tmp_path / "server.pem").run(check)

    assert result.verdict == "pass", result.transcript


@pytest.mark.parametrize("command", ["", "client", "client {nothing}", "client {"])
def test_a_command_that_is_none_is_refused(command: str) -> None:
    with pytest.raises(UsageError, match="The client's command"):
        Kit(command)


def test_a_program_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no program '/nowhere/client'"):
        Kit("/nowhere/client {issuer}").run(CHECKS[:1])


def test_tables(bad: dict[str, Result]) -> None:
    table = markdown({"one": list(bad.values()), "other": list(bad.values())})

    assert "| `slow-down` | `slow_down`: 5 s more, for all further polls (RFC 8628 3.5) |" in table
    assert "| **failed** | 9 | 9 |" in table
    assert lines(bad.values())[-1].startswith("0 passed, 0 with notes, 9 failed; ")


# As pytest runs it.

TEST_OF_THE_PROGRAM: Final = "def test_of_the_program(): raise SystemExit"


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_pytest_runs_the_checks_alone_and_prints_a_table(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(TEST_OF_THE_PROGRAM)
    pytester.makeini("[pytest]\ntestpaths = .")
    chosen = ("-k", "denied or refused", "--deviceflow-client", BAD)

    run = pytester.runpytest_subprocess if workers else pytester.runpytest_inprocess
    result = run(*LOADED, *workers, *chosen)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*deviceflow-client: denied*",
            "denied: expected an exit status other than 0, and 0 came, without a token; expected*",
            "The server: `access_denied` (RFC 8628 3.5)",
            "*POST poll → 400 *access_denied*",
            "*--- stdout",
            "*conformance of the device-flow client*",
            "*✗ must * denied * 8 *",
            "0 passed, 0 with notes, 2 failed; * of 16 polls came too early",
            "RFC 8628 client: 2 of 34 checks: 0 passed, 0 with notes, 2 failed (deviceflow *",
            "FAILED *deviceflow-client::denied - denied: expected*",
        ]
    )


def test_pytest_runs_the_programs_tests_too_if_they_are_named(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile("def test_of_the_program(): pass")
    client = ("--deviceflow-client", "false {issuer}")

    result = pytester.runpytest_inprocess(*LOADED, *client, "-k", "program or huge", path)

    result.assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "The client's command is empty"),
        ("  ", "The client's command is empty"),
        ("client {nothing}", "unknown placeholder"),
        ("no-such-client {device}", "There is no program 'no-such-client'"),
    ],
)
def test_pytest_refuses_a_wrong_command(pytester: pytest.Pytester, command: str, said: str) -> None:
    result = pytester.runpytest_inprocess(*LOADED, "--deviceflow-client", command)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--deviceflow-client: *{said}*"])


def test_the_projects_settings_hold_and_its_tests_are_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST_OF_THE_PROGRAM)
    pytester.makeini(
        "[pytest]\ntestpaths = .\naddopts = -p no:cacheprovider test_it.py"
        "\nfilterwarnings = error\nxfail_strict = true"
    )
    before = {path.name for path in pytester.path.iterdir()}

    result = pytester.runpytest_inprocess(
        *LOADED, "-k", "denied", "--deviceflow-client", "false {issuer}"
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"deviceflow *: {len(CHECKS)} checks of a device-flow client (RFC 8628)",
            "client: false {issuer}",
            "The project's own tests are left out; name their paths to run them too.",
            f"rootdir: {pytester.path}",
            f"RFC 8628 client: 1 of {len(CHECKS)} checks: 0 passed, 0 with notes, 1 failed*",
        ]
    )
    assert {path.name for path in pytester.path.iterdir()} - before <= {"__pycache__"}


def test_a_mismatch_has_both_values() -> None:
    check = [one for one in CHECKS if one.name == "request"]
    client = (
        "import json, sys, urllib.request as u\n"
        "u.urlopen(sys.argv[1], b'client_id=' + sys.argv[3].encode()).read()\n"
        "u.urlopen(sys.argv[2], b'grant_type=guess&device_code=mine').read()\n"
    )
    command = shlex.join([sys.executable, "-c", client, "{device}", "{token}", "{client_id}"])

    (result,) = Kit(command).run(check)

    grant_type = "'urn:ietf:params:oauth:grant-type:device_code'"
    expected = f"expected grant_type {grant_type} in the poll, and 'guess' came"
    assert expected in result.problems
    assert any("device_code" in one and "'mine' came" in one for one in result.problems)
