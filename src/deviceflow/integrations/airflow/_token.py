"""A token for a task, and what the task's log says if there is none."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.origin import origin
from deviceflow.core.notice import argument
from deviceflow.core.secret import without_frames
from deviceflow.credentials import configured
from deviceflow.errors import LoginPending
from deviceflow.integrations.airflow._clients import clients

if TYPE_CHECKING:
    from deviceflow.core.access_token import AccessToken

ENGINE: Final = "airflow"
"""The engine in the origin of events."""

_logger: Final = logging.getLogger("deviceflow.airflow")


def get_token(
    name: str,
    *,
    profile: str | None = None,
    purpose: str | None = None,
    min_ttl: float = 60.0,
    show_link: bool = True,
) -> AccessToken:
    """Return an access token that can be used now. Airflow masks it in the task's log.

    If a person must log in, the client records the need, and notifies the program. The task's log
    says how to log in. To wait for the person, put a `DeviceLoginOperator` before the task; or give
    the task `retries`.

    Args:
        name: The grant's name.
        profile: The profile that says where to log in; by default the one of the grant's name.
        purpose: Why the grant is needed; by default the profile's purpose.
        min_ttl: How many seconds the token must live, as for `Client.get_token`.
        show_link: Whether the task's log may contain the link to log in by, as for
            `DeviceLoginOperator`.

    Raises:
        LoginPending: A person must log in.
        UnreachableError: The token has expired, and the server does not answer.
        UsageError: The profile cannot be used, or the grant is of another server.
        StoreError: The store failed.
    """
    try:
        return ask(name, profile, purpose, min_ttl)
    except LoginPending as stop:
        pending = stop
    log_need(_logger, pending, show_link=show_link)
    raise closed(pending) from None


def ask(name: str, profile: str | None, purpose: str | None, min_ttl: float) -> AccessToken:
    """Return an access token, as `get_token` does, and leave the link to the caller."""
    profile = profile or name
    with origin(engine=ENGINE, task_id=current_task()):
        client = clients.of(profile)
        provider, stated = configured.of_profile(profile)
        token = client.get_token(name, provider, purpose=purpose or stated, min_ttl=min_ttl)
    _mask(token)
    return token


def closed(pending: LoginPending) -> LoginPending:
    """Return an exception for the engine: what is for the person is not in it."""
    pending.login = pending.link = None
    without_frames(pending)
    return pending


def log_need(logger: Any, pending: LoginPending, *, show_link: bool) -> None:
    """Log how to log in.

    Args:
        logger: What to log to.
        pending: What says that a person must log in.
        show_link: Whether to log the link, which is for whoever may log in.
    """
    way = pending.command or f"deviceflow resume {argument(pending.name or '')}"
    if show_link and pending.link is not None:
        way = pending.link.reveal()
    logger.warning("%s To log in: %s", pending.message, way)


def current_task() -> str | None:
    """Return which task runs in this process, for the record; None outside of tasks."""
    try:
        from airflow.sdk import get_current_context  # noqa: PLC0415  # once Airflow is loaded

        return name_of(get_current_context()["ti"])
    except (ImportError, KeyError, RuntimeError):
        return None


def name_of(task: Any) -> str:
    """Return the name of an instance of a task: of its DAG, run and task, and its map index."""
    index = task.map_index
    mapped = "" if index is None or index < 0 else f"/{index}"
    return f"{task.dag_id}/{task.run_id}/{task.task_id}{mapped}"


def _mask(token: AccessToken) -> None:
    with suppress(ImportError):
        from airflow.sdk.log import mask_secret  # noqa: PLC0415  # as above

        mask_secret(token.access_token.reveal())
