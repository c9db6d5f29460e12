"""An activity that lets the exception out, with the code and the link on it."""

import asyncio
import os
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import deviceflow


@activity.defn
async def raise_it() -> None:
    async with deviceflow.AsyncClient(os.environ["DEVICEFLOW_STORE"]) as client:
        robot = deviceflow.OAuth(issuer=os.environ["ISSUER"], client_id="robot")
        await client.get_token("raising", robot, purpose="to raise", mint="now")


@workflow.defn
class Raising:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            raise_it,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=2),
        )


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="raising", workflows=[Raising], activities=[raise_it]):
        await client.execute_workflow(Raising.run, id="raising", task_queue="raising")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
