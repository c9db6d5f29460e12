"""How Celery runs the nightly task."""

from celery.schedules import crontab

broker_url = "redis://localhost:6379/0"
broker_transport_options = {"visibility_timeout": 900}  # seconds

task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1

beat_schedule = {
    "nightly": {
        "task": "tasks.report",
        "schedule": crontab(hour=3, minute=0),
        "options": {"expires": 23 * 3600},
    },
    "sweep": {
        "task": "deviceflow.sweep",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
}
