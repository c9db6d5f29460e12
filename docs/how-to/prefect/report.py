"""The nightly report, as a flow of Prefect."""

import os
from datetime import UTC, datetime, timedelta

import prefect.deployments

from deviceflow import Client, LoginPending, OAuth

client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@prefect.flow(log_prints=True)
def report() -> None:
    """Make the report, with a token of its own grant."""
    try:
        with client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        again = datetime.now(UTC) + timedelta(seconds=pending.wait_seconds)
        prefect.deployments.run_deployment("report/nightly", scheduled_time=again, timeout=0)
