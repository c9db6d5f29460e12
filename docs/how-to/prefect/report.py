"""The nightly report, as a flow of Prefect."""

import os
from datetime import UTC, datetime, timedelta

import prefect
from prefect.deployments import run_deployment
from prefect.states import Cancelled, State

from deviceflow import Client, LoginPending, OAuth

client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@prefect.flow(log_prints=True)
def report() -> State | None:
    """Make the report, with a token of its own grant."""
    try:
        with client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        print(pending)
        again = datetime.now(UTC) + timedelta(seconds=pending.wait_seconds)
        run_deployment("report/nightly", scheduled_time=again, timeout=0, as_subflow=False)
        return Cancelled(name="AwaitingLogin", message=pending.message)
    return None
