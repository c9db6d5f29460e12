"""An asset that lets the exception out, with the code and the link on it."""

import os

from dagster import asset

from deviceflow import Client, OAuth


@asset
def raising() -> None:
    with Client(os.environ["DEVICEFLOW_STORE"]) as client:
        robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot")
        client.get_token("raising", robot, purpose="to raise", mint="now")
