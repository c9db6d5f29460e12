"""The nightly report, as an asset of Dagster."""

import os

from dagster import RetryRequested, asset

from deviceflow import Client, LoginPending, OAuth

client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@asset
def report() -> None:
    """Make the report, with a token of its own grant."""
    try:
        with client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        raise RetryRequested(max_retries=10_000, seconds_to_wait=pending.wait_seconds) from None
