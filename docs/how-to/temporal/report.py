"""The nightly report, as an activity of Temporal."""

import os
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from deviceflow import AsyncClient, LoginPending, OAuth

client = AsyncClient(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@activity.defn
async def make_report() -> None:
    """Make the report, with a token of its own grant."""
    try:
        async with await client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        wait = timedelta(seconds=pending.wait_seconds)
        raise ApplicationError(str(pending), next_retry_delay=wait) from None
