"""A worker's metrics in a real Prometheus, by OpenTelemetry's exporter for it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
import prometheus_client
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider

from deviceflow import AsyncClient, OAuth
from deviceflow.metrics import Metrics
from deviceflow.server import LocalServer, Settings
from deviceflow.worker import Worker
from tests.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one


class Prometheus:
    """A server that scrapes one address each second."""

    def __init__(self, folder: Path, target: int) -> None:
        program = shutil.which("prometheus")
        if program is None:
            missing = "No Prometheus to test with: install the package prometheus."
            pytest.skip(missing)
        port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            "scrape_configs: [{job_name: worker, scrape_interval: 1s,"
            f" static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
        )
        self._url = f"http://127.0.0.1:{port}/api/v1/query"
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        self._process = subprocess.Popen(command)

    def wait_for(self, query: str, value: float) -> None:
        """Wait until a query has a value."""
        deadline = time.monotonic() + PATIENCE
        while (found := self._value(query)) != value:
            assert time.monotonic() < deadline, f"{query} is {found}"
            time.sleep(0.1)

    def _value(self, query: str) -> float | None:
        try:
            result = httpx.get(self._url, params={"query": query}).json()["data"]["result"]
        except (httpx.TransportError, KeyError, ValueError):  # it has just been started
            return None
        return float(result[0]["value"][1]) if result else None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def exporting() -> Iterator[tuple[MeterProvider, int]]:
    """Give a provider whose metrics are served at a port."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    http: Any
    http, thread = prometheus_client.start_http_server(0, "127.0.0.1")
    try:
        yield provider, http.server_address[1]
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        provider.shutdown()


async def work(metrics: Metrics, server: LocalServer) -> None:
    """Drive two logins to their deadline."""
    async with AsyncClient(on_transition=metrics.on_transition) as client:
        metrics.measure(client)
        provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{server.url}/oauth/token",
        )
        for _ in range(2):
            await client.start(provider)
        worker = Worker(client, on_step=metrics.on_step)
        metrics.watch(worker)
        await worker.run(until_idle=True)


def test_prometheus_scrapes_what_a_worker_did(tmp_path: Path) -> None:
    with exporting() as (provider, port):
        prometheus = Prometheus(tmp_path, port)
        try:
            with LocalServer(Settings(interval=1, expires_in=2)) as server:
                asyncio.run(work(Metrics(provider), server))
            prometheus.wait_for('sum(deviceflow_logins_total{outcome="expired"})', 2)
            prometheus.wait_for("deviceflow_worker_lateness_seconds_count > bool 1", 1)
            prometheus.wait_for(
                'sum(http_client_request_duration_seconds_count{http_request_method="POST"})'
                " > bool 3",
                1,
            )
            prometheus.wait_for('deviceflow_worker_logins{state="waiting"}', 0)
        finally:
            prometheus.close()
