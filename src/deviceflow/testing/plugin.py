"""The pytest plugin: fixtures for tests of programs that log in, and the conformance kit.

pytest loads this module at the start of each run in an environment with deviceflow, so it imports
nothing but pytest. A fixture imports what it needs, and says which extra is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.testing.clock import VirtualClock
    from deviceflow.testing.device_server import DeviceServer
    from deviceflow.testing.transitions import Transitions
    from deviceflow.typing import Store

_MARK = (
    "deviceflow(**settings): settings of the fixture device_server, such as interval=1 or"
    " expires_in=60; see deviceflow.server.Settings"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the conformance kit."""
    group = parser.getgroup("deviceflow", "device-flow clients")
    group.addoption(
        "--deviceflow-client",
        metavar="COMMAND",
        help="run a device-flow client, in any language, against scripted servers, and print what"
        " it does wrong. {device}, {token}, {issuer}, {host} and {client_id} stand for the"
        " endpoints, the server and the client id. Without paths of tests, nothing else is run.",
    )
    group.addoption(
        "--deviceflow-tls",
        metavar="FILE",
        help="have these servers speak TLS: a PEM file with a key and a certificate for localhost",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse a client that cannot be run before anything is."""
    config.addinivalue_line("markers", _MARK)
    if (command := _client(config)) is not None:
        from deviceflow.testing.conformance._items import prepare  # noqa: PLC0415

        prepare(config, command, config.getoption("--deviceflow-tls"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which client is checked by what."""
    if _client(config) is None:
        return []
    from deviceflow.testing.conformance._items import header  # noqa: PLC0415

    return header(config)


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the checks of the client: before `-k` and `-m`, after the hooks of a `conftest.py`."""
    if _client(config) is not None:
        from deviceflow.testing.conformance._items import collect  # noqa: PLC0415

        items += collect(session)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of the client's checks."""
    if _client(config) is not None:
        from deviceflow.testing.conformance._items import summary  # noqa: PLC0415

        ended = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
        if table := summary(ended):
            terminalreporter.section("conformance of the device-flow client")
            for line in table:
                terminalreporter.write_line(line)


def _client(config: pytest.Config) -> str | None:
    command: str | None = config.getoption("--deviceflow-client", None)
    return command


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Have time pass only when somebody sleeps, and then at once.

    `Client()`, `AsyncClient()`, the functions of `deviceflow.auth`, the command in this process,
    and `device_server` use this clock if the test creates them. `time.sleep` is not touched.
    A PostgreSQL store keeps the database's own time.
    """
    from deviceflow.client.clock import standing_in  # noqa: PLC0415
    from deviceflow.testing.clock import VirtualClock  # noqa: PLC0415

    clock = VirtualClock()
    with standing_in(clock, clock.for_asyncio()):
        yield clock


@pytest.fixture
def device_server(request: pytest.FixtureRequest) -> Iterator[DeviceServer]:
    """Run the local authorization server in a thread until the end of the test.

    With the fixture `virtual_clock` it goes by that clock, else by the machine's.
    """
    from dataclasses import fields  # noqa: PLC0415

    from deviceflow.core.suggest import did_you_mean  # noqa: PLC0415
    from deviceflow.testing.device_server import DeviceServer  # noqa: PLC0415

    clock: dict[str, Any] = {}
    if "virtual_clock" in request.fixturenames:
        clock["clock"] = request.getfixturevalue("virtual_clock").time
    settings = {
        name: value
        for mark in reversed([*request.node.iter_markers("deviceflow")])
        for name, value in mark.kwargs.items()
    }
    try:
        from deviceflow.server import Settings  # noqa: PLC0415

        known = [one.name for one in fields(Settings)]
        for name in settings.keys() - {*known}:
            pytest.fail(
                f"@pytest.mark.deviceflow has an unknown setting {name!r}."
                f" {did_you_mean(name, known)}The settings are {', '.join(known)}.",
                pytrace=False,
            )
        server = DeviceServer(Settings(**settings), **clock)
    except ImportError as missing:
        raise _unusable("device_server", missing) from None
    with server:
        yield server


@pytest.fixture
def flow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Open a new store in a SQLite file, and name it in `DEVICEFLOW_STORE` for this test.

    So the command, and `open_store()` and `open_async_store()` without a URL, use the same.
    """
    from deviceflow.stores._option import VARIABLE  # noqa: PLC0415
    from deviceflow.stores.url import open_store  # noqa: PLC0415

    url = f"sqlite:///{tmp_path / 'deviceflow.db'}"
    monkeypatch.setenv(VARIABLE, url)
    try:
        store = open_store(url)
    except ImportError as missing:
        raise _unusable("flow_store", missing) from None
    yield store
    store.close()


@pytest.fixture
def transitions() -> Iterator[Transitions]:
    """Keep the transitions that are logged: `transitions.actions == ["issue_code", …]`."""
    from deviceflow.testing.transitions import watching  # noqa: PLC0415

    with watching() as seen:
        yield seen


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain where the transitions are not as expected."""
    if op != "==" or not (isinstance(left, list) and isinstance(right, list)):
        return None
    if not any(type(one).__module__ == "deviceflow.testing.transitions" for one in (left, right)):
        return None
    from deviceflow.testing.transitions import Column, explain  # noqa: PLC0415

    return explain(left, right) if isinstance(left, Column) else explain(right, left)  # type: ignore[arg-type]


def _unusable(fixture: str, missing: ImportError) -> BaseException:
    return pytest.fail.Exception(f"The fixture {fixture} cannot be used. {missing}", pytrace=False)
