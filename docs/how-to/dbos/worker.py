"""The process that runs the report each night."""

import os
import threading

from dbos import DBOS
from report import report

DBOS(config={"name": "reports", "system_database_url": os.environ["DEVICEFLOW_STORE"]})
DBOS.launch()
nightly = {"schedule_name": "nightly", "workflow_fn": report, "schedule": "0 3 * * *"}
DBOS.apply_schedules([nightly])
threading.Event().wait()
