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
        token = client.get_token("report", robot, purpose="the nightly report")
    except LoginPending as pending:
        return pending.wait_seconds
    print(f"made with the token of generation {token.generation}")
    return 0


@DBOS.workflow()
def report(_scheduled: datetime, _context: object) -> None:
    """Make the report once somebody has logged in."""
    while wait := make_report():
        DBOS.sleep(wait)
