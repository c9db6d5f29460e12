"""`deviceflow worker`: drive all logins of a store, as a service or until none is live."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.client._base import pages_at
from deviceflow.core.actions import action_of
from deviceflow.core.sanitize import is_loopback
from deviceflow.credentials import secret_refs
from deviceflow.errors import DeviceFlowError, UsageError
from deviceflow.worker._health import MAX_AGE, HealthFile, check
from deviceflow.worker._systemd import Notifier
from deviceflow.worker._worker import CONCURRENCY, SHUTDOWN_TIMEOUT, Retention, Worker

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.client._async import AsyncClient
    from deviceflow.core.ports import AsyncStore, AsyncTransport
    from deviceflow.metrics import Metrics
    from deviceflow.pages import Answer, NeedPages, PageRequest, PageServer
    from deviceflow.worker._worker import Counts, Step

_STATUS_EACH: Final = 1.0
_COLLECT: Final = (20_000, 20, 50)
_SIGNALS: Final = ("SIGINT", "SIGTERM")


class WorkerOptions(options.NoticeOptions, options.JobOptions, options.RetentionOptions):
    """The options of `worker`."""

    concurrency: int
    until_idle: bool
    shutdown_timeout: float
    check_every: float | None
    purge: bool
    health_file: Path | None
    check: Path | None
    max_age: float | None
    verbose: bool
    listen: tuple[str, int] | None
    public_url: str | None


def _add_worker(parser: ArgumentParser) -> None:
    parser.description = (
        "Drive all logins of a store: poll each login when it is due, whichever program started it."
        " Any number of workers may share a store. On SIGTERM, finish the requests in flight and"
        " exit. SIGHUP reads the configuration again."
    )
    parser.add_argument(
        "--concurrency",
        type=arguments.positive,
        default=CONCURRENCY,
        metavar="N",
        help="step at most N logins at a time, and N grants (%(default)s)",
    )
    parser.add_argument(
        "--until-idle", action="store_true", help="end with 0 when no login is pending"
    )
    parser.add_argument(
        "--shutdown-timeout",
        type=arguments.seconds,
        default=SHUTDOWN_TIMEOUT,
        metavar="SECONDS",
        help="how long requests in flight may take after SIGTERM (%(default)g)",
    )
    parser.add_argument(
        "--check-every",
        type=arguments.duration,
        metavar="AGE",
        help="ask the servers this often whether the tokens of grants in use are valid: 6h, 1d; by"
        " default never",
    )
    parser.add_argument("--verbose", "-v", action="store_true", help="log transitions to stderr")
    purging = parser.add_argument_group("purge")
    purging.add_argument(
        "--purge", action="store_true", help="wipe old secrets and delete old logins every hour"
    )
    options.add_retention(purging)
    probes = parser.add_argument_group("health")
    probes.add_argument(
        "--health-file",
        type=Path,
        metavar="PATH",
        help="a file that the worker writes whenever it makes progress",
    )
    probes.add_argument(
        "--check",
        type=Path,
        metavar="PATH",
        help="drive nothing: check another worker's health file, for probes",
    )
    probes.add_argument(
        "--max-age",
        type=arguments.seconds,
        metavar="SECONDS",
        help=f"how old the file may be ({MAX_AGE:g})",
    )
    pages = parser.add_argument_group("pages, where people log in for grants")
    pages.add_argument(
        "--listen",
        type=arguments.address,
        metavar="HOST:PORT",
        help="serve the pages at this address, or with a port alone at 127.0.0.1; by default, do"
        " not listen",
    )
    pages.add_argument(
        "--public-url",
        metavar="URL",
        help="where people reach the pages; by default public_url of the profile",
    )
    options.add_notices(pages)
    options.add_job(parser, what="print one JSON object a line")


def _run(args: WorkerOptions) -> int:
    """Run the command.

    Raises:
        DeviceFlowError: The store cannot be used, the checked worker is not healthy, or options do
            not go together.
    """
    if not args.purge and Retention(args.tokens_after, args.flows_after) != Retention():
        raise UsageError(
            "--tokens-after and --flows-after say what --purge wipes and deletes.",
            hint="Add --purge.",
        )
    if args.check is None and args.max_age is not None:
        raise UsageError("--max-age is for --check.", hint="Add --check PATH.")
    if args.check is not None:
        counts = check(args.check, MAX_AGE if args.max_age is None else args.max_age)
        if args.json:
            streams.show(json.dumps(counts))
        return 0
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(_Service(args).serve())


def _at_signal(number: int, act: Callable[[], None]) -> None:
    """Have the running loop call `act` at each of these signals."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, act)
    except NotImplementedError:  # on Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop  # psycopg cannot use the other one
    try:
        import uvloop  # faster, where it is installed
    except ImportError:
        return None
    return uvloop.new_event_loop


def _transport(concurrency: int) -> AsyncTransport:
    """Return a transport with room for each step of a login, and as many of grants."""
    try:
        from deviceflow.transports._limits import CONNECTIONS
        from deviceflow.transports.httptools import HttptoolsTransport
    except ImportError:
        from deviceflow.transports.requests import RequestsTransport
        from deviceflow.transports.threaded import ThreadedTransport

        return ThreadedTransport(RequestsTransport(), threads=2 * concurrency)
    return HttptoolsTransport(connections=max(CONNECTIONS, 2 * concurrency))


def _metrics() -> Metrics | None:
    from deviceflow.metrics import Metrics

    try:
        return Metrics()
    except ImportError:
        return None


def _tame_collector() -> None:
    """Have the garbage collector look at what lives long less often.

    With 10,000 waiting logins, each full collection stops all polls for 30 to 160 ms.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECT)


class _Service:
    """A worker as a process: its signals, its signs of life, and its output."""

    def __init__(self, args: WorkerOptions) -> None:
        self._args = args
        self._metrics = _metrics()
        self._notifier = Notifier()
        self._health = None if args.health_file is None else HealthFile(args.health_file)
        self._stopping = False
        self._reloads: set[asyncio.Task[None]] = set()
        self._shows_status = sys.stderr is not None and sys.stderr.isatty() and not args.verbose
        self._pages: NeedPages | None = None
        self._page_server: PageServer | None = None
        self._public_url: str | None = args.public_url
        self._port = 0
        self._worker: Worker
        self._client: AsyncClient
        self._store: AsyncStore

    async def serve(self) -> int:
        """Drive logins until a signal, or the end of all logins; return the exit code."""
        await self._serve_pages()
        try:
            self._client, self._store = await self._open()
        except BaseException:
            await self._close_pages()
            raise
        self._worker = Worker(
            self._client,
            concurrency=self._args.concurrency,
            shutdown_timeout=self._args.shutdown_timeout,
            retention=self._retention(),
            check_each=self._args.check_every,
            on_step=self._stepped,
            on_problem=self._problem,
            on_progress=self._progress,
        )
        if self._metrics is not None:
            self._metrics.watch(self._worker)
        _tame_collector()
        self._listen()
        self._show("started", concurrency=self._args.concurrency)
        if self._page_server is not None:
            self._say_where()
            self._show("listening", public_url=self._public_url, port=self._port)
        self._notifier.ready()
        status = asyncio.create_task(self._status()) if self._shows_status else None
        try:
            await self._worker.run(until_idle=self._args.until_idle)
        finally:
            self._stop_notice()
            await self._close_pages()
            if status is not None:
                status.cancel()
            if self._reloads:
                await asyncio.wait(self._reloads)
            await self._close(self._client, self._store)
            self._notifier.close()
            if self._health is not None:
                self._health.remove()
        return self._end()

    def _end(self) -> int:
        lost = self._worker.unsaved
        for flow_id in lost:
            streams.say(
                f"deviceflow: The login {flow_id} was approved, but the store failed, and its token"
                " is lost. Revoke it at the server."
            )
        self._show("stopped", lost=lost, **self._worker.counts._asdict())
        return exits.STORE if lost else 0

    # The pages.

    async def _serve_pages(self) -> None:
        """Listen, if that was asked for.

        Raises:
            UsageError: The address cannot be used, or nobody said where people reach the pages.
        """
        if self._args.listen is None:
            return
        from deviceflow.pages import NeedPages, PageServer

        host, port = self._args.listen
        public_url = self._args.public_url or stored.notices(self._args)["public_url"]
        if not public_url and not is_loopback(host):
            raise UsageError(
                "--listen is for other machines, and nobody said where people reach the pages.",
                hint="Add --public-url https://…, which a proxy passes on to this address.",
            )
        server = PageServer(self._page, on_problem=self._problem)
        try:
            self._port = port = await server.listen(host, port)
        except OSError as trouble:
            # asyncio puts a sentence of its own into `strerror`.
            number = trouble.errno or 0
            why = os.strerror(number) if number > 0 else str(trouble.strerror)
            raise UsageError(
                f"The worker cannot listen at {host}:{port}: {why.rstrip('.')}.",
                hint="Choose another address: --listen HOST:PORT.",
            ) from None
        self._page_server = server
        self._public_url = public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
        try:
            where = str(pages_at(self._public_url))
        except UsageError:
            await self._close_pages()
            raise
        self._pages = NeedPages(lambda: self._client, where, host=host, on_problem=self._problem)

    def _say_where(self) -> None:
        host = (self._args.listen or ("",))[0]
        where = f"{f'[{host}]' if ':' in host else host}:{self._port}"
        streams.say(f"Listening at {where}, for pages at {self._public_url}")

    async def _page(self, request: PageRequest) -> Answer:
        if self._pages is None or not hasattr(self, "_client"):
            raise UsageError("The worker has not opened its store yet.")
        return await self._pages(request)

    async def _close_pages(self) -> None:
        if self._page_server is not None:
            await self._page_server.close()

    # The store and the client.

    async def _open(self) -> tuple[AsyncClient, AsyncStore]:
        from deviceflow.client._async import AsyncClient

        secret_refs.read_configured()
        settings = stored.notices(self._args)
        settings["public_url"] = self._public_url or settings["public_url"]
        new = stored.new_file(self._args)
        kept = stored.async_store(self._args)
        try:
            await kept.now(0.0)  # a store that cannot be used is an error at once
            if new is not None:  # its name may be mistyped
                streams.say(f"The store {new} is new.")
        except BaseException:
            await kept.close()
            raise
        transport = _transport(self._args.concurrency)
        client = AsyncClient(kept, transport=transport, on_transition=self._transition, **settings)
        if self._metrics is not None:
            self._metrics.measure(client)
        return client, kept

    @staticmethod
    async def _close(client: AsyncClient, store: AsyncStore) -> None:
        await client.close()
        await store.close()

    def _retention(self) -> Retention | None:
        if not self._args.purge:
            return None
        return Retention(self._args.tokens_after, self._args.flows_after)

    # Signals.

    def _listen(self) -> None:
        for name in _SIGNALS:
            _at_signal(getattr(signal, name), self._stop)
        if hasattr(signal, "SIGHUP"):
            _at_signal(signal.SIGHUP, self._begin_reload)

    def _stop(self) -> None:
        """End after the requests in flight; at the second signal, interrupt these."""
        self._worker.stop(at_once=self._stopping)
        if not self._stopping:
            self._stop_notice()
            self._show("stopping", in_flight=self._worker.counts.in_flight)

    def _stop_notice(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping()

    def _begin_reload(self) -> None:
        if not self._stopping:
            task = asyncio.get_running_loop().create_task(self._reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Reread the configuration, the keys and the certificates."""
        self._notifier.reloading()
        try:
            client, store = await self._open()
        except (DeviceFlowError, ImportError) as problem:
            streams.say("deviceflow: The configuration stays as it was:")
            self._problem(problem)
            self._notifier.ready()
            return
        former = self._client, self._store
        self._client, self._store = client, store
        replaced = asyncio.ensure_future(self._worker.replace(client))
        self._notifier.ready()
        self._show("reloaded")
        await replaced
        await self._close(*former)

    # What it says.

    def _transition(self, event: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.on_transition(event)
        action = action_of(event["action"])
        if action.ends_login or action.issues_token:
            self._show(
                "ended",
                flow_id=event["flow_id"],
                state=event["to"],
                reason=event["reason"],
                time=event["time"],
            )

    def _stepped(self, step: Step) -> None:
        if self._metrics is not None:
            self._metrics.on_step(step)

    def _problem(self, problem: Exception) -> None:
        known = isinstance(problem, DeviceFlowError | ImportError)
        message = str(problem) if known else f"Unexpected error: {type(problem).__name__}."
        if self._args.json:
            self._show("problem", flow_id=getattr(problem, "flow_id", None), error=message)
        else:
            streams.say(f"deviceflow: {message}")

    def _progress(self, worker: Worker) -> None:
        # The counts are made only where they are wanted.
        self._notifier.progress(lambda: _in_words(worker.counts))
        if self._health is not None:
            try:
                self._health.progress(lambda: worker.counts)
            except OSError as error:
                self._problem(UsageError(f"The health file cannot be written: {error.strerror}."))

    def _show(self, event: str, **fields: object) -> None:
        if self._args.json:
            streams.show(json.dumps({"event": event} | fields))

    async def _status(self) -> None:
        try:
            while True:
                self._say_status(_in_words(self._worker.counts))
                await asyncio.sleep(_STATUS_EACH)
        finally:
            self._say_status("")

    @staticmethod
    def _say_status(line: str) -> None:
        try:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        except OSError:
            return


def _in_words(counts: Counts) -> str:
    said = (
        f"{counts.waiting} waiting, {counts.due} due, {counts.in_flight} in flight,"
        f" {counts.lateness * 1000:.0f} ms late"
    )
    return f"{said}; the store cannot be used" if counts.store_failed else said


COMMANDS: Final = {"worker": Command(_add_worker, stored.reporting(_run))}
