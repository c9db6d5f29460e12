"""Runs the report once a day, as soon as there is a token."""

from datetime import UTC, datetime

from dagster import DefaultSensorStatus, Definitions, RunRequest, SkipReason, sensor
from report import client, report, robot

from deviceflow import LoginPending


@sensor(target=report, minimum_interval_seconds=60, default_status=DefaultSensorStatus.RUNNING)
def nightly() -> RunRequest | SkipReason:
    """Ask for today's run, unless a person must log in first."""
    try:
        client.get_token("report", robot, purpose="the nightly report")
    except LoginPending as pending:
        return SkipReason(str(pending))
    return RunRequest(run_key=f"{datetime.now(UTC):%F}")


defs = Definitions(assets=[report], sensors=[nightly])
