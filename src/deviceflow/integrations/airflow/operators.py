"""An operator that has a person log in, and is deferred meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink

from deviceflow.core.text import CleanText, SecretMatcher
from deviceflow.credentials import configured
from deviceflow.errors import LoginPending, UnreachableError, UsageError, WaitTimeoutError
from deviceflow.integrations.airflow._token import ask, check, closed, log_need
from deviceflow.integrations.airflow.triggers import DeviceLoginTrigger
from deviceflow.notify import NotifyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta


class AuthorizationServerLink(BaseOperatorLink):
    """The button beside the task: the server to log in to.

    Airflow keeps such links as XComs, in clear, so the link to log in by is not one of them.
    """

    name = "Authorization server"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002  # the name is Airflow's
        """Return the server's URL; nothing if the profile cannot be used."""
        try:
            provider, _ = configured.of_profile(operator.profile or operator.grant)
        except UsageError:
            return ""
        return provider.server


class DeviceLoginOperator(BaseOperator):
    """Ends when a grant gives tokens. Until a person has logged in, the task is deferred.

    If the server can be asked whether the token is valid, as `Client.check` does, the operator asks
    it: a grant that the server has ended needs a person.

    The client records the need and notifies the program once, as `Client.get_token` does. The log
    of the task says how to log in. If the task is cleared or retried, it continues the same need
    and login. The task's XCom is the grant's name.

    Args:
        grant: The grant's name. It may be a template, as may be `profile` and `purpose`.
        profile: The profile that says where to log in; by default the one of the grant's name.
        purpose: Why the grant is needed; by default the profile's purpose.
        min_ttl: How many seconds the token must live, as for `Client.get_token`.
        timeout: For how long to wait for a person, by default for as long as it takes. If somebody
            is about to approve a code by then, the task waits for as long as that code lives.
        notifiers: Notifiers of Airflow, called whenever the task begins to wait. Their context has
            the `LoginPending` as `pending`; `{{ pending.how_to_log_in() }}` is the link to log in
            by, or the command where no link is known. If a notifier fails, the task fails.
        show_link: Whether the task's log may contain the link. Whoever has the link can approve
            with an account of their own.
        **kwargs: As for any operator.
    """

    template_fields: Sequence[str] = ("grant", "profile", "purpose")
    operator_extra_links = (AuthorizationServerLink(),)

    def __init__(
        self,
        *,
        grant: str,
        profile: str | None = None,
        purpose: str | None = None,
        min_ttl: float = 60.0,
        timeout: timedelta | None = None,
        notifiers: Sequence[Callable[[Any], object]] = (),
        show_link: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.grant = grant
        self.profile = profile
        self.purpose = purpose
        self.min_ttl = min_ttl
        self.timeout = timeout
        self.notifiers = notifiers
        self.show_link = show_link

    def execute(self, context: Any) -> str:
        """Return the grant's name, or defer the task.

        Raises:
            NotifyError: A notifier failed.
            DeviceFlowError: As for `Client.get_token`.
        """
        wait = None if self.timeout is None else self.timeout.total_seconds()
        return self._go_on(context, None if wait is None else time.time() + wait)

    def resume(self, context: Any, event: Mapping[str, Any]) -> str:
        """Go on after the trigger's event.

        Raises:
            WaitTimeoutError: Nobody has logged in in time.
            DeviceFlowError: As for `execute`.
        """
        return self._go_on(context, event["until"], timed_out=event["timed_out"])

    def _go_on(self, context: Any, until: float | None, *, timed_out: bool = False) -> str:
        stop: LoginPending | UnreachableError
        try:
            ask(self.grant, self.profile, self.purpose, self.min_ttl)
            check(self.grant, self.profile)
        except LoginPending as pending:
            stop = pending
        except UnreachableError as unreachable:
            if unreachable.wait_seconds is None:
                raise
            stop = unreachable
        else:
            return self.grant
        if timed_out and isinstance(stop, UnreachableError):
            raise stop
        if timed_out:
            raise WaitTimeoutError(
                f"Nobody has logged in for {self.grant!r} in time.",
                hint="Run the task again, or clear it: it continues the same login.",
            )
        need_id = None
        if isinstance(stop, LoginPending):
            need_id = stop.need_id
            log_need(self.log, stop, show_link=self.show_link)
            self._notify(context, stop)
            closed(stop)
        self.defer(
            trigger=DeviceLoginTrigger(
                self.grant,
                self.profile,
                until,
                need_id,
                show_link=self.show_link,
                purpose=self.purpose,
            ),
            method_name="resume",
        )
        raise AssertionError  # `defer` has raised

    def _notify(self, context: Any, pending: LoginPending) -> None:
        failed = list[str]()
        for notifier in self.notifiers:
            try:
                notifier({**context, "pending": pending})
            except Exception as problem:  # noqa: BLE001  # its text may hold the link
                why = CleanText(str(problem), SecretMatcher(pending.link), redact_lookalikes=True)
                name = getattr(notifier, "__name__", type(notifier).__name__)
                failed.append(f"{name}: {type(problem).__name__}: {why}")
        if failed:
            raise NotifyError(
                f"A person must log in, and could not be notified: {'; '.join(failed)}",
                hint="Correct the notifier, then clear the task: it notifies again.",
            )
