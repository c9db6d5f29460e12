"""The nightly report, as a workflow of DBOS."""

import os
from datetime import datetime

from dbos import DBOS

from deviceflow import Client, LoginPending, OAuth

client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@DBOS.step()
def make_report() -> float:
    """Make the report, or return in how many seconds to try again."""
    try:
        with client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        return pending.wait_seconds
    return 0


@DBOS.workflow()
def report(_scheduled: datetime, _context: object) -> None:
    """Make the report once somebody has logged in."""
    while wait := make_report():
        DBOS.sleep(wait)
