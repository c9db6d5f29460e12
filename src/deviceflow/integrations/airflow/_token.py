"""A token for a task, and what the task's log says if there is none."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.origin import origin
from deviceflow.core.need import WHY
from deviceflow.core.secret import without_frames
from deviceflow.credentials import configured
from deviceflow.errors import LoginPending, RejectedError, ServerError
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

    In `with get_token(…) as token`, an exception that says that a server refused the token
    invalidates it, as `AccessToken` says. The exception is passed on: with `retries`, the task runs
    again, with the next token.

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
    with origin_of(current_task()):
        client = clients.of(profile)
        provider, stated = configured.of_profile(profile)
        token = client.get_token(name, provider, purpose=purpose or stated, min_ttl=min_ttl)
    _mask(token)

    def invalidate(refused: AccessToken) -> bool:
        with origin(engine=ENGINE, task_id=current_task()):
            return client.invalidate(name, refused)

    return replace(token, _invalidate=invalidate)


def check(name: str, profile: str | None) -> None:
    """Ask the server whether the token of a grant is valid, if the server can be asked.

    Raises:
        LoginPending: The server has ended the grant: a person must log in.
        RejectedError: The server says that the token is not valid, and neither is the next one.
        StoreError: The store failed.
    """
    with origin(engine=ENGINE, task_id=current_task()):
        try:
            found = clients.of(profile or name).check(name)
        except ServerError as problem:
            _logger.warning("The server could not be asked about the token: %s", problem)
            return
    if found.valid is False:
        raise RejectedError(f"The server says that the token of {name!r} is not valid.")


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
    why = WHY.get(pending.reason or "", "")
    how = pending.how_to_log_in(link=show_link)
    logger.warning("%s %s To log in: %s", pending.message, why, how)


def current_task() -> Any:
    """Return the instance of a task that runs in this process; None outside of tasks."""
    try:
        from airflow.sdk import get_current_context  # noqa: PLC0415  # once Airflow is loaded

        return get_current_context()["ti"]
    except (ImportError, KeyError, RuntimeError):
        return None


def origin_of(task: Any) -> origin:
    """Return the origin of events for an instance of a task, or outside of tasks for None.

    The task is `DAG/TASK`. Its run is `DAG/RUN/TASK`, and `/INDEX` if the task is mapped.
    """
    if task is None:
        return origin(engine=ENGINE)
    index = task.map_index
    mapped = "" if index is None or index < 0 else f"/{index}"
    return origin(
        engine=ENGINE,
        task=f"{task.dag_id}/{task.task_id}",
        task_id=f"{task.dag_id}/{task.run_id}/{task.task_id}{mapped}",
    )


def _mask(token: AccessToken) -> None:
    with suppress(ImportError):
        from airflow.sdk.log import mask_secret  # noqa: PLC0415  # as above

        mask_secret(token.access_token.reveal())
