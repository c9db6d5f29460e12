"""Metrics and spans through OpenTelemetry's API (extra `otel`), for any client and for workers.

The API records nothing until the program sets up OpenTelemetry's SDK, or is run by
`opentelemetry-instrument`. No name, no code, no token and no path of a URL is recorded.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deviceflow._version import __version__
from deviceflow.core.actions import NEED, NOTIFY, NOTIFY_FAILED, Kind, action_of
from deviceflow.core.states import GrantState, State
from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from deviceflow.client._async import AsyncClient
    from deviceflow.client._sync import Client
    from deviceflow.core.actions import Action
    from deviceflow.core.login import Login
    from deviceflow.core.wire import Request
    from deviceflow.worker import Counts, Step, Worker

_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG: Final = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0)

_TIMED: Final = frozenset(
    {"add", "claim", "commit", "load", "page", "put_off", "release", "select", "use"}
)
"""The methods of a store that are timed."""


class Metrics:
    """Records what clients and workers do.

    The reference lists the instruments. Each exchange with a server is a span. A status counts as
    an error from 500 on, because servers answer 400 while a login is pending.

    Args:
        meter_provider: Where metrics go; by default to the program's own meter provider.
        tracer_provider: Likewise for spans.

    Raises:
        ImportError: `opentelemetry-api` is missing (extra `otel`).
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415  # an extra
        except ImportError:
            raise ImportError(
                "Metrics need OpenTelemetry's API: pip install 'deviceflow[otel]'"
            ) from None
        self._trace = trace
        self._tracer = trace.get_tracer("deviceflow", __version__, tracer_provider)
        self._metrics = metrics
        self._meter = meter = metrics.get_meter("deviceflow", __version__, meter_provider)
        self._logins = meter.create_counter(
            "deviceflow.logins", "{login}", "Logins that ended, by their outcome."
        )
        self._polls = meter.create_counter(
            "deviceflow.polls", "{poll}", "Token requests that were answered, or were not."
        )
        self._refreshes = meter.create_counter(
            "deviceflow.refreshes", "{refresh}", "Refreshes that were answered, or were not."
        )
        self._losses = meter.create_counter(
            "deviceflow.grants.lost", "{grant}", "Grants that were lost, by the reason."
        )
        self._needs = meter.create_counter(
            "deviceflow.needs", "{need}", "Times that a person was needed to log in."
        )
        self._notifications = meter.create_counter(
            "deviceflow.notifications", "{notification}", "Notifications of needs, by the outcome."
        )
        self._login_duration = meter.create_histogram(
            "deviceflow.login.duration",
            "s",
            "From the begin of a login to its token.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self._lateness = meter.create_histogram(
            "deviceflow.worker.lateness",
            "s",
            "How late a worker's steps began.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self._store_duration = meter.create_histogram(
            "deviceflow.store.duration",
            "s",
            "Calls of a store.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )
        self._request_duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Requests to authorization servers.",
            explicit_bucket_boundaries_advisory=_SHORT,
        )

    # Hooks.

    def on_transition(self, event: dict[str, Any]) -> None:
        """Count a transition: the hook of a client."""
        action, reason = action_of(event["action"]), event["reason"]
        about = {"server.address": urlsplit(event["issuer"] or "").hostname or ""}
        if event["from"] == State.POLLING:
            self._polls.add(1, about | {"outcome": reason or event["outcome"]})
        if action.ends_login or action.issues_token:
            self._logins.add(1, about | {"outcome": reason or event["to"]})
        if action.kind is Kind.GRANT:
            self._count_of_grant(action, event, about)

    def _count_of_grant(self, action: Action, event: dict[str, Any], about: dict[str, Any]) -> None:
        lost = event["to"] == GrantState.LOST != event["from"]
        if event["from"] == GrantState.REFRESHING != event["to"]:
            outcome = event["reason"] if lost else event["outcome"]
            self._refreshes.add(1, about | {"outcome": outcome})
        if lost:
            self._losses.add(1, about | {"reason": event["reason"]})
        if action == NEED:
            self._needs.add(1, about)
        if action in (NOTIFY, NOTIFY_FAILED):
            self._notifications.add(1, about | {"outcome": event["outcome"]})

    def on_login(self, login: Login) -> None:
        """Record how long a login took, if it is authorized: `on_step` of `wait`."""
        if login.state is State.AUTHORIZED and login.ended_at is not None:
            about = {"server.address": urlsplit(login.provider.server).hostname or ""}
            self._login_duration.record(login.ended_at - login.created_at, about)

    def on_step(self, step: Step) -> None:
        """Record a step of a worker."""
        self._lateness.record(step.lateness)
        if step.login is not None:
            self.on_login(step.login)

    def watch(self, worker: Worker) -> None:
        """Report how many logins a worker drives, whenever metrics are collected."""
        observation = self._metrics.Observation

        def observe(_: object) -> Iterator[Any]:
            counts: Counts = worker.counts
            for state in ("waiting", "due", "in_flight"):
                yield observation(getattr(counts, state), {"state": state})

        self._meter.create_observable_gauge(
            "deviceflow.worker.logins", [observe], "{login}", "Logins that a worker drives."
        )

    def measure(self, client: Client | AsyncClient) -> None:
        """Measure a client's exchanges with servers, and the calls of its store, from now on.

        Transitions are counted by the client's `on_transition`.
        """
        kind = _MeasuredTransport if hasattr(client, "__enter__") else _MeasuredAsyncTransport
        client._transport = kind(self, client._transport)
        client._store = _MeasuredStore(self, client._store)

    @contextmanager
    def _exchange(self, request: Request) -> Iterator[_Exchange]:
        url = urlsplit(request.url)
        about: dict[str, Any] = {
            "http.request.method": request.method,
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
        }
        with self._tracer.start_as_current_span(
            request.method,
            kind=self._trace.SpanKind.CLIENT,
            attributes=about | {"deviceflow.request": request.purpose},
            record_exception=False,  # its traceback may show what was sent
            set_status_on_exception=False,
        ) as span:
            exchange, begun = _Exchange(), time.perf_counter()
            try:
                yield exchange
            except BaseException as stop:
                exchange.result = {"error.type": type(stop).__name__}
                raise
            finally:
                self._end(span, exchange)
                took = time.perf_counter() - begun
                self._request_duration.record(took, about | exchange.result)

    def _end(self, span: Span, exchange: _Exchange) -> None:
        span.set_attributes(exchange.result)
        if "error.type" in exchange.result:
            span.set_status(self._trace.StatusCode.ERROR)

    @contextmanager
    def _call(self, operation: str) -> Iterator[None]:
        begun, about = time.perf_counter(), {"operation": operation}
        try:
            yield
        except BaseException as stop:
            about["error.type"] = type(stop).__name__
            raise
        finally:
            self._store_duration.record(time.perf_counter() - begun, about)


class _Exchange:
    """What came of a request, as attributes."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}

    def end(self, result: Response | Failure) -> None:
        if isinstance(result, Failure):
            self.result = {"error.type": result.kind}
            return
        self.result = {"http.response.status_code": result.status}
        # `authorization_pending` comes with 400: what a server says of itself only is an error.
        if result.status >= 500:
            self.result["error.type"] = str(result.status)


class _MeasuredTransport:
    def __init__(self, metrics: Metrics, transport: Any) -> None:
        self._metrics = metrics
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, request: Request, timeout: float) -> Response | Failure:
        with self._metrics._exchange(request) as exchange:
            result: Response | Failure = self._transport.send(request, timeout)
            exchange.end(result)
        return result


class _MeasuredAsyncTransport:
    def __init__(self, metrics: Metrics, transport: Any) -> None:
        self._metrics = metrics
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as `Transport.send`
        with self._metrics._exchange(request) as exchange:
            result: Response | Failure = await self._transport.send(request, timeout)
            exchange.end(result)
        return result


class _MeasuredStore:
    """A store whose most frequent methods are timed. The rest is the store's own."""

    def __init__(self, metrics: Metrics, store: Any) -> None:
        self._metrics = metrics
        self._store = store
        for name in _TIMED:
            if method := getattr(store, name, None):
                setattr(self, name, self._timed(name, method))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _timed(self, name: str, method: Any) -> Any:
        if iscoroutinefunction(method):

            async def timed(*args: Any, **how: Any) -> Any:
                with self._metrics._call(name):
                    return await method(*args, **how)

            return timed

        def called(*args: Any, **how: Any) -> Any:
            with self._metrics._call(name):
                return method(*args, **how)

        return called
