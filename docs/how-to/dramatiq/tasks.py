"""The nightly report, as an actor of Dramatiq."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from deviceflow import Client, LoginPending, OAuth

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))
client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


@dramatiq.actor(max_retries=None)
def report() -> None:
    """Make the report, with a token of its own grant."""
    try:
        with client.get_token("report", robot, purpose="the nightly report") as token:
            # A 401 in here, as from raise_for_status, has the token replaced.
            print(f"made with the token of generation {token.generation}")
    except LoginPending as pending:
        raise dramatiq.Retry(delay=int(1000 * pending.wait_seconds)) from None
