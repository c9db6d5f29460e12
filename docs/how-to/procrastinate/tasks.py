"""The report, as a task of Procrastinate."""

import os

from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision

from deviceflow import Client, LoginPending, OAuth

app = App(connector=PsycopgConnector(conninfo=os.environ["DEVICEFLOW_STORE"]))
client = Client(os.environ["DEVICEFLOW_STORE"])
robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot", scopes="read offline_access")


class Awaiting(BaseRetryStrategy):
    """Runs a task again while it waits for a person, and gives up on everything else."""

    def get_retry_decision(self, *, exception: BaseException, job: object) -> RetryDecision | None:
        """Say when the task is run again, if ever."""
        if isinstance(exception, LoginPending):
            return RetryDecision(retry_in={"milliseconds": int(1000 * exception.wait_seconds)})
        return None


@app.task(retry=Awaiting())
def report() -> None:
    """Make the report, with a token of its own grant."""
    with client.get_token("report", robot, purpose="the nightly report") as token:
        # A 401 in here, as from raise_for_status, has the token replaced.
        print(f"made with the token of generation {token.generation}")
