"""The workflow, and the process that runs it."""

import asyncio
import os
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from report import make_report


@workflow.defn
class Report:
    """Makes the report once somebody has logged in."""

    @workflow.run
    async def run(self) -> None:
        """Let the activity run, again and again while a person is awaited."""
        await workflow.execute_activity(make_report, start_to_close_timeout=timedelta(minutes=1))


async def main() -> None:
    """Take tasks until the process is stopped."""
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    worker = Worker(client, task_queue="reports", workflows=[Report], activities=[make_report])
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
