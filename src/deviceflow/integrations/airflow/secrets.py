"""A secrets backend that gives operators connections with a fresh access token."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from airflow.secrets.base_secrets import BaseSecretsBackend

from deviceflow._environment import http_allowed
from deviceflow.core.sanitize import endpoint
from deviceflow.core.secret import without_traceback
from deviceflow.core.suggest import did_you_mean
from deviceflow.errors import DeviceFlowError, LoginPending, UsageError
from deviceflow.integrations.airflow._token import ask, current_task, log_need

_OURS: Final = {"grant": str, "profile": str, "purpose": str, "min_ttl": (int, float)}
_FIELDS: Final = {
    "conn_type": str,
    "description": str,
    "host": str,
    "schema": str,
    "login": str,
    "password": str,
    "port": int,
    "extra": dict,
}
_TOKEN: Final = "{token}"  # noqa: S105  # the token goes there

_logger: Final = logging.getLogger("deviceflow.airflow")


class DeviceFlowBackend(BaseSecretsBackend):
    """Connections whose password is the access token of a grant, fresh whenever Airflow asks.

    For example, in Airflow's configuration::

        [workers]
        secrets_backend = deviceflow.integrations.airflow.DeviceFlowBackend
        secrets_backend_kwargs = {"connections": {"report_api":
            {"grant": "report", "host": "https://api.example.com"}}}

    Connections need not be listed: `deviceflow_report` is the connection of the grant `report`.

    A connection of the type `http` has the header `Authorization`, for the operators and hooks of
    HTTP. Its scheme is https, unless the host is this machine, or `DEVICEFLOW_ALLOW_HTTP=1`. In any
    text of a connection, `{token}` stands for the access token.

    If there is no token, Airflow says that the connection is not defined, and the log says how to
    log in.

    Args:
        prefix: The prefix of connection ids that need not be listed; None if all must be listed.
        connections: By the id of a connection: `grant`, by default the id without the prefix;
            `profile`, `purpose` and `min_ttl` as for `get_token`; and fields of a connection:
            `conn_type` (by default `http`), `host`, `schema`, `login`, `password`, `port`, `extra`.
        show_link: Whether the task's log may contain the link to log in by.
    """

    def __init__(
        self,
        *,
        prefix: str | None = "deviceflow_",
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        show_link: bool = True,
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._connections = connections or {}
        self._show_link = show_link

    def get_conn_value(self, conn_id: str, *_: object, **__: object) -> str | None:
        """Return a connection as JSON; None for one that is not of a grant, or without a token."""
        settings = self._connections.get(conn_id)
        unlisted = self._prefix and conn_id.startswith(self._prefix)
        if settings is None and not unlisted:
            return None
        settings = {} if settings is None else settings
        try:
            fields = _fields(settings)
            name = settings.get("grant") or conn_id.removeprefix(self._prefix or "")
            profile, purpose = settings.get("profile"), settings.get("purpose")
            token = ask(name, profile, purpose, settings.get("min_ttl", 60.0))
        except LoginPending as pending:
            # The API server's log is not for those who look for a task.
            show = self._show_link and current_task() is not None
            log_need(_logger, pending, show_link=show)
            return None
        except (DeviceFlowError, ImportError) as problem:
            # Airflow would not say why.
            _logger.error("There is no connection %s: %s", conn_id, problem)  # noqa: TRY400
            return None
        return without_traceback(lambda: json.dumps(_filled(fields, token.access_token.reveal())))

    def get_connection(self, conn_id: str, *_: object, **__: object) -> Any:
        """Return a connection; None for one that is not of a grant, or without a token."""
        return without_traceback(lambda: BaseSecretsBackend.get_connection(self, conn_id))

    def deserialize_connection(self, conn_id: str, value: str) -> Any:
        """Return a connection from its JSON: in a task and a trigger, that of the task SDK."""
        runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
        if not hasattr(runner, "SUPERVISOR_COMMS"):
            return super().deserialize_connection(conn_id, value)
        from airflow.sdk import Connection  # noqa: PLC0415  # Airflow is being loaded above

        return Connection.from_json(value, conn_id=conn_id)

    def get_variable(self, key: str, *_: object, **__: object) -> str | None:  # noqa: ARG002
        """Return None: it has no variables."""
        return None


def _fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a connection, with the token left out.

    Raises:
        UsageError: A setting is unknown, or of another type; or there are no settings.
        InsecureURLError: The token would be sent by plain http to another machine.
    """
    if not isinstance(settings, Mapping):
        raise UsageError(
            f"The connection's settings have the type {type(settings).__name__}.",
            hint='Write them as an object: {"grant": NAME}.',
        )
    known: dict[str, Any] = _OURS | _FIELDS
    for name, value in settings.items():
        if name not in known:
            raise UsageError(
                f"The connection has an unknown setting {name!r}.",
                hint=f"{did_you_mean(name, known)}The settings are {', '.join(known)}.",
            )
        if not isinstance(value, known[name]):
            raise UsageError(f"The connection's {name} has the type {type(value).__name__}.")
    fields: dict[str, Any] = {"conn_type": "http", "password": _TOKEN}
    fields |= {name: value for name, value in settings.items() if name not in _OURS}
    if fields["conn_type"] == "http":
        fields["extra"] = {"Authorization": f"Bearer {_TOKEN}"} | fields.get("extra", {})
        fields.setdefault("schema", "https")  # Airflow would take http
        host = fields.get("host") or ""
        if host:
            url = host if "://" in host else f"{fields['schema']}://{host}"
            endpoint(url, allow_http=http_allowed())
    return fields


def _filled(value: Any, token: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, token) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, token) for item in value]
    return value.replace(_TOKEN, token) if isinstance(value, str) else value
