"""A workflow and a step that let the exception out, with the code and the link on it."""

import os

from dbos import DBOS

from deviceflow import Client, OAuth


@DBOS.step(retries_allowed=True, max_attempts=2)
def step() -> None:
    with Client(os.environ["DEVICEFLOW_STORE"]) as client:
        robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot")
        client.get_token("raising", robot, purpose="to raise", mint="now")


@DBOS.workflow()
def raising() -> None:
    step()


DBOS(config={"name": "raising", "system_database_url": os.environ["DEVICEFLOW_STORE"]})
DBOS.launch()
raising()
