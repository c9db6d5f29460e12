"""Metrics and spans, as an OTLP receiver on loopback decodes them."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from deviceflow import AsyncClient, Client, OAuth
from deviceflow.errors import WaitTimeoutError
from deviceflow.metrics import Metrics
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import answer
from deviceflow.worker import Worker
from tests.grant_lives import GrantLife
from tests.stored import get, get_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.core.login import Login


class Receiver:
    """An OTLP/HTTP receiver: it decodes what it is sent."""

    def __init__(self) -> None:
        self.raw = b""
        self.metrics: dict[str, list[Any]] = defaultdict(list)
        self.spans: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take_in(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take_in(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        data = getattr(metric, str(metric.WhichOneof("data")))
                        self.metrics[metric.name] = list(data.data_points)
        else:
            for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in traced.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(point: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in point.attributes
    }


class Telemetry:
    """The SDK as a program sets it up, and what has come of it at the receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        exporter = OTLPMetricExporter(f"{receiver.url}/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        self.meters = MeterProvider([reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(f"{receiver.url}/traces"))
        )
        self.metrics = Metrics(self.meters, self.tracers)

    def export(self) -> Receiver:
        assert self.meters.force_flush()
        assert self.tracers.force_flush()
        return self.receiver

    def close(self) -> None:
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    receiver = Receiver()
    telemetry = Telemetry(receiver)
    yield telemetry
    telemetry.close()
    receiver.close()


def provider_of(server: LocalServer) -> OAuth:
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
        token_endpoint=f"{server.url}/oauth/token",
    )


def decide(server: LocalServer, login: Login, decision: str) -> None:
    body = {"user_code": login.user_code}
    requests.post(f"{server.url}/control/{decision}", json=body, timeout=60).raise_for_status()


def sums(receiver: Receiver, name: str, by: str) -> dict[Any, int]:
    """Return a counter's points, or how many values a histogram has, by an attribute."""
    return {
        attributes(point).get(by): getattr(point, "as_int", None) or point.count
        for point in receiver.metrics[name]
    }


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield server


async def work(telemetry: Telemetry, store: AsyncSQLiteStore, server: LocalServer) -> None:
    metrics = telemetry.metrics
    async with AsyncClient(store, on_transition=metrics.on_transition) as client:
        metrics.measure(client)
        approved, denied = [await client.start(provider_of(server)) for _ in range(2)]
        await client.step(approved.id)  # before it is due, nothing is sent
        decide(server, denied, "deny")
        worker = Worker(client, on_step=metrics.on_step)
        metrics.watch(worker)
        running = asyncio.create_task(worker.run(until_idle=True))
        while (await get_async(store, approved.id)).seq < 3:  # noqa: ASYNC110  # a store's row
            await asyncio.sleep(0.02)
        telemetry.export()
        decide(server, approved, "approve")
        await running


def test_grants_are_counted_by_what_became_of_their_refreshes(telemetry: Telemetry) -> None:
    life = GrantLife(MemoryStore(), on_transition=telemetry.metrics.on_transition)
    telemetry.metrics.measure(life.client)
    life.ask()
    life.log_in()
    life.refresh(3)
    life.refresh_answers.append(answer(503, "busy"))
    life.clock.advance(3000)
    life.client.get_token("nightly", min_ttl=3600)
    life.lose()
    receiver = telemetry.export()

    assert sums(receiver, "deviceflow.refreshes", "outcome") == {
        "refreshed": 3,
        "no_answer": 1,
        "refused": 1,
    }
    assert sums(receiver, "deviceflow.grants.lost", "reason") == {"refused": 1}
    assert sums(receiver, "deviceflow.needs", "server.address") == {"login.example.com": 2}
    assert sums(receiver, "deviceflow.notifications", "outcome") == {"notified": 3}
    assert sums(receiver, "deviceflow.logins", "outcome") == {"authorized": 1}
    timed = sums(receiver, "deviceflow.store.duration", "operation")
    assert timed["commit"] > 0
    assert timed["load"] > 0
    for secret in (b"ACCESS-", b"REFRESH-", b"CANARY", b"WDJB", b"nightly"):
        assert secret not in receiver.raw


def test_a_worker_s_work_is_measured(
    telemetry: Telemetry, server: LocalServer, tmp_path: Path
) -> None:
    store = AsyncSQLiteStore(tmp_path / "flows.db", trail="each")
    asyncio.run(work(telemetry, store, server))
    receiver = telemetry.export()

    assert sums(receiver, "deviceflow.logins", "outcome") == {"authorized": 1, "denied": 1}
    polls = sums(receiver, "deviceflow.polls", "outcome")
    assert polls.keys() == {"pending", "token_issued", "denied"}
    steps = sum(polls.values())
    assert sums(receiver, "deviceflow.worker.lateness", "")[None] >= steps
    [took] = receiver.metrics["deviceflow.login.duration"]
    assert took.count == 1
    assert 1 < took.sum < 60
    exchanges = sums(receiver, "http.client.request.duration", "http.response.status_code")
    assert exchanges == {200: 3, 400: steps - 1}
    calls = sums(receiver, "deviceflow.store.duration", "operation")
    assert calls["claim"] >= steps
    assert calls["commit"] >= steps
    watched = {attributes(p)["state"] for p in receiver.metrics["deviceflow.worker.logins"]}
    assert watched == {"waiting", "due", "in_flight"}

    spans = [attributes(span) | {"name": span.name, "kind": span.kind} for span in receiver.spans]
    assert [span["deviceflow.request"] for span in spans].count("code") == 2
    assert [span["deviceflow.request"] for span in spans].count("token") == steps
    for span in spans:
        assert (span["name"], span["kind"]) == ("POST", 3)
        assert span["server.address"] == "127.0.0.1"
        assert f"http://127.0.0.1:{span['server.port']}" == server.url
        assert span["http.response.status_code"] in (200, 400)
    assert all(span.status.code == 0 for span in receiver.spans)


def test_failures_are_measured_by_their_kind_and_no_secret_is_recorded(
    telemetry: Telemetry, server: LocalServer
) -> None:
    client = Client(on_transition=telemetry.metrics.on_transition)
    telemetry.metrics.measure(client)
    login = client.start(provider_of(server))
    server.close()
    with pytest.raises(WaitTimeoutError):
        client.wait(login.id, 1.5, on_step=telemetry.metrics.on_login)
    flow = get(client._store, login.id)
    receiver = telemetry.export()

    errors = sums(receiver, "http.client.request.duration", "error.type")
    assert errors.keys() == {None, "connection"}
    assert sums(receiver, "deviceflow.polls", "outcome").keys() == {"no_answer"}
    failed = [span for span in receiver.spans if span.status.code == 2]
    assert len(failed) == errors["connection"]
    assert flow.device_code is not None
    assert flow.user_code is not None
    for secret in (flow.device_code.reveal(), flow.user_code, "robot", flow.id):
        assert secret.encode() not in receiver.raw
    client.close()


def test_without_the_api_there_are_no_metrics_and_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"deviceflow\[otel\]"):
        Metrics()
