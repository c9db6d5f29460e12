"""The filters of the actions of `deviceflow audit` that read the trail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.audit.events import text_of
from deviceflow.cli import arguments, options
from deviceflow.core.states import GrantState, Loss, Reason, State
from deviceflow.trail import query

if TYPE_CHECKING:
    from argparse import ArgumentParser


class FilterOptions(options.StoreOptions):
    """The filters for logins."""

    since: float | None
    until: float | None
    state: str | None
    reason: str | None
    client: str | None
    actor: str | None


def add_filters(parser: ArgumentParser) -> None:
    """Add the options."""
    which = parser.add_argument_group("filters (by default all logins and grants)")
    which.add_argument(
        "--since",
        type=arguments.moment,
        metavar="WHEN",
        help="started since: 2d ago, or 2026-01-31 (UTC)",
    )
    which.add_argument("--until", type=arguments.moment, metavar="WHEN", help="started before")
    which.add_argument("--state", choices=[*map(str, (*State, *GrantState))], help="in this state")
    reasons = [*map(str, (*Reason, *Loss))]
    which.add_argument("--reason", choices=reasons, help="failed or was lost for this reason")
    which.add_argument("--client", metavar="NAME", help="of the client of this name or id")
    which.add_argument("--actor", metavar="NAME", help="with an event of this actor")


def filters_of(args: FilterOptions) -> query.Filters:
    """Return the filters."""
    return query.Filters(args.since, args.until, args.state, args.client, args.actor, args.reason)


def named(filters: query.Filters) -> dict[str, str]:
    """Return the filters that are set, each as its option takes it."""
    values = {
        "since": None if filters.since is None else text_of(filters.since),
        "until": None if filters.until is None else text_of(filters.until),
        "state": filters.state,
        "reason": filters.reason,
        "client": filters.client,
        "actor": filters.actor,
    }
    return {name: value for name, value in values.items() if value is not None}
