"""Tokens for the tasks of Celery. Until a person has logged in, the task retries itself.

A task with a token::

    @app.task(bind=True, acks_late=True, max_retries=None)
    def report(self):
        with get_token(self, "report") as token:  # the name of a profile
            fetch_report(token).raise_for_status()  # a 401 invalidates the token

The store and the profiles are those of the environment (`DEVICEFLOW_STORE`, `DEVICEFLOW_CONFIG`),
unless settings of the Celery app say otherwise:

- `deviceflow_database_url`: the store's URL. It may contain a password, and Celery hides settings
  with DATABASE in their name from `celery inspect conf` and `celery report`.
- `deviceflow_config`: the path of the file with the profiles.
- `deviceflow_deadline`: how many seconds one request may take, as for `Client`.
- `deviceflow_longest_wait`: after how many seconds at most a task that waits for a person runs
  again; 60 by default. A broker with a visibility timeout, such as Redis, hands a message out again
  if it is not acknowledged by then, so the wait must be shorter than that timeout.
- `deviceflow_notify`: what to call when a person must log in, as for `Client`: a function, or the
  path of one, such as `reports.people:write_mail`. By default `DEVICEFLOW_NOTIFY`, else `notify` of
  the profile.
- `deviceflow_public_url`: where the pages of needs are, as for `Client`.

A task's message contains the name of a profile, and never a token: Celery cannot serialize a
`Secret`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.audit.origin import origin
from deviceflow.client._sync import Client
from deviceflow.client.context import DEADLINE
from deviceflow.core.secret import without_frames, without_traceback
from deviceflow.credentials import configured, profiles
from deviceflow.errors import LoginPending, UnreachableError, UsageError
from deviceflow.notify import notifier
from deviceflow.stores.url import open_store

try:
    from celery import shared_task, signals
    from celery.app import app_or_default
    from celery.exceptions import Reject
    from celery.utils.imports import symbol_by_name
except ImportError:
    raise ImportError(
        "deviceflow.integrations.celery needs Celery: pip install 'deviceflow[celery]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery, Task
    from celery.exceptions import Retry

    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import Store

__all__ = ["get_client", "get_token", "retried", "sweep"]

_LONGEST_WAIT: Final = 60.0
_SHORTEST_WAIT: Final = 1.0

_logger: Final = logging.getLogger("deviceflow")


class _Clients:
    """The clients of each app, in each process: none is shared with a process forked from it.

    An app has one store, and a client for each profile. The profile says who is notified.
    """

    _stores: weakref.WeakKeyDictionary[Celery, Store]
    _made: weakref.WeakKeyDictionary[Celery, dict[str | None, Client]]

    def __init__(self) -> None:
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        forks.abandon(getattr(self, "_made", None), getattr(self, "_stores", None))
        self._making = threading.Lock()
        self._stores = weakref.WeakKeyDictionary()
        self._made = weakref.WeakKeyDictionary()

    def of(self, app: Celery, profile: str | None) -> Client:
        with self._making:
            store = self._stores.get(app)
            if store is None:
                # A password may be in the URL.
                store = without_traceback(lambda: open_store(_setting(app, "database_url")))
                self._stores[app] = store
            clients = self._made.setdefault(app, {})
            client = clients.get(profile)
            if client is None:
                client = clients[profile] = _client_of(app, store, profile)
            return client

    def close(self) -> None:
        with self._making:
            for clients in self._made.values():
                for client in clients.values():
                    client.close()
            for store in self._stores.values():
                store.close()
            self._made.clear()
            self._stores.clear()


_clients: Final = _Clients()


@signals.worker_process_shutdown.connect
def _close(**_: object) -> None:
    _clients.close()


def get_client(app: Celery | None = None, *, profile: str | None = None) -> Client:
    """Return the client of a Celery app in this process. It is made at the first call.

    Args:
        app: The app; by default the current one.
        profile: Whose `notify` and `public_url` count, where no setting of the app or of the
            environment goes before.

    Raises:
        StoreError: The store cannot be used.
        UsageError: The URL of the store, or another setting, is invalid.
    """
    app = app_or_default(app)
    with profiles.reading(_config_of(app)):
        return _clients.of(app, profile)


def get_token(
    task: Task[Any, Any],
    name: str,
    *,
    profile: str | None = None,
    purpose: str | None = None,
    min_ttl: float = 60.0,
) -> AccessToken:
    """Return an access token that can be used now; if there is none, retry the task later.

    In `with get_token(…) as token`, an exception that says that a server refused the token
    invalidates it, as `AccessToken` says. The exception is passed on: with `autoretry_for`, the
    task runs again, with the next token.

    If a person must log in, the client records the need, and notifies the program. The task runs
    again every minute, or more often, until somebody has logged in, for example by `deviceflow
    login NAME`. No worker of Celery is blocked meanwhile.

    Args:
        task: The task, which must be bound (`bind=True`).
        name: The grant's name.
        profile: The profile that says where to log in; by default the one of the grant's name.
        purpose: Why the grant is needed; by default the profile's purpose.
        min_ttl: How many seconds the token must live, as for `Client.get_token`.

    Raises:
        celery.exceptions.Retry: The task will run again: a person must log in, or the token has
            expired and the server does not answer.
        celery.exceptions.Reject: Likewise, but the broker did not accept the task's next message,
            so the broker delivers the present message again.
        LoginPending: A person must log in, and the task cannot be retried: its `max_retries` are
            spent, or it was called directly or eagerly.
        UnreachableError: The server gives no answer, and the task cannot be retried.
        UsageError: The profile cannot be used, or the grant is of another server.
        StoreError: The store failed.
    """
    profile = profile or name
    with retried(task, profile=profile) as client:
        provider, stated = configured.of_profile(profile)
        token = client.get_token(name, provider, purpose=purpose or stated, min_ttl=min_ttl)

    def invalidate(refused: AccessToken) -> bool:
        with _at_work(task, profile) as client:
            return client.invalidate(name, refused)

    return replace(token, _invalidate=invalidate)


@contextmanager
def retried(task: Task[Any, Any], *, profile: str | None = None) -> Iterator[Client]:
    """Retry the task if a token is not there yet.

    For tasks that use the client themselves::

        with retried(self) as client:
            session.auth = DeviceFlowAuth(client, "report", interactive=False)
            session.get("https://api.example.com/report")

    Within the block, events have the engine `celery` and the id of the task. If the task runs
    again, so does the code of the block: it should have no effect before it has the token.

    Args:
        task: The task, which must be bound (`bind=True`).
        profile: As for `get_client`.

    Raises:
        celery.exceptions.Retry: As for `get_token`.
        celery.exceptions.Reject: Likewise.
        DeviceFlowError: As for `get_token`.
    """
    pending: LoginPending | UnreachableError
    with _at_work(task, profile) as client:
        try:
            yield client
        except (LoginPending, UnreachableError) as stop:
            pending = stop
        else:
            return
    if isinstance(pending, LoginPending):
        pending.login = pending.link = None  # they are for the person
    without_frames(pending)
    if task.request.is_eager or pending.wait_seconds is None:
        raise pending from None
    longest = float(_setting(task.app, "longest_wait") or _LONGEST_WAIT)
    wait = min(max(_SHORTEST_WAIT, pending.wait_seconds), longest)
    again: Retry | Reject
    try:
        again = task.retry(exc=pending, countdown=wait, throw=False)
    except Reject:  # which drops the present message
        again = Reject("The broker does not take the next message.", requeue=True)
    raise again from None


@shared_task(bind=True, name="deviceflow.sweep", ignore_result=True)
def sweep(self: Task[Any, Any], limit: int = 100) -> None:
    """Step all logins that are due, refresh grants ahead, and revoke what is left of ended ones.

    For Celery beat, once a minute or so. It also ends what a killed worker left half done.

    Args:
        self: The task.
        limit: How many logins, and how many grants, to look after at most.
    """
    with _at_work(self) as client:
        problems = [*client.sweep(limit).problems, *client.sweep_grants(limit=limit).problems]
    for problem in problems:
        _logger.warning("The sweep passed over this: %s", problem)


@contextmanager
def _at_work(task: Task[Any, Any], profile: str | None = None) -> Iterator[Client]:
    with (
        profiles.reading(_config_of(task.app)),
        origin(engine="celery", task=task.name, task_id=task.request.id),
    ):
        yield get_client(task.app, profile=profile)


def _client_of(app: Celery, store: Store, profile: str | None) -> Client:
    notices = profiles.notices(profile)
    tell = _notify_of(app)
    if tell is None and notices.notify is not None:
        tell = notifier(notices.notify)
    return Client(
        store,
        deadline=float(_setting(app, "deadline") or DEADLINE),
        notify=tell,
        public_url=_setting(app, "public_url") or notices.public_url,
        outage_after=notices.outage_after,
    )


def _notify_of(app: Celery) -> Callable[[LoginNeed], object] | None:
    named = _setting(app, "notify")
    try:
        found: Callable[[LoginNeed], object] | None = named and symbol_by_name(named)
    except (AttributeError, ImportError, ValueError) as trouble:
        raise UsageError(
            f"The setting deviceflow_notify names what cannot be imported: {trouble}.",
            hint="Use a function, or its path as MODULE:FUNCTION.",
        ) from None
    return found


def _config_of(app: Celery) -> Path | None:
    config = _setting(app, "config")
    return Path(config).expanduser() if config else None


def _setting(app: Celery, name: str) -> Any:
    return app.conf.get(f"deviceflow_{name}")
