"""Ask the server whether the access token of a grant is still valid."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client.exchange import transmit
from deviceflow.client.grant_end import refuse
from deviceflow.client.grant_token import TokenQuery, obtain
from deviceflow.client.metadata import fetch
from deviceflow.core.access_token import AccessToken
from deviceflow.core.wire import Failure

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import Stored

_WORDS = {"introspect": "introspection", "userinfo": "the userinfo endpoint"}


class GrantCheck(NamedTuple):
    """What a server says of the access token of a grant.

    Attributes:
        name: The grant's name.
        valid: Whether the token is valid; None if the server cannot be asked, or does not say.
        asked: How the server was asked; None if it was not, or did not say.
        replaced: Whether the server had ended the former token, so that a refresh brought this one.
        why: Why `valid` is None.
    """

    name: str
    valid: bool | None
    asked: Literal["introspect", "userinfo"] | None = None
    replaced: bool = False
    why: str | None = None


async def check(world: World, name: str) -> GrantCheck:
    """Ask the server about the access token of a grant; replace one that is not valid."""
    stored = await _obtain(world, name)
    found = await _ask(world, stored)
    if found.valid is not False:
        return found
    token = AccessToken.of(stored.record)
    await refuse(world, name, token, sure=found.asked == "introspect")
    stored = await _obtain(world, name)
    if AccessToken.of(stored.record) == token:
        return found
    again = await _ask(world, stored)
    if again.valid is False and again.asked == "userinfo":
        # It cannot check the tokens of this grant, which may be for another server.
        return GrantCheck(name, None, why="its userinfo endpoint refuses new tokens as well")
    return again._replace(replaced=True)


async def _obtain(world: World, name: str) -> Stored[Grant]:
    clocks = world.clocks()
    stored, _ = await obtain(world, TokenQuery(name, None, None, 0.0, "later"), clocks, inf)
    return stored


async def _ask(world: World, stored: Stored[Grant]) -> GrantCheck:
    grant = stored.record
    provider, token = grant.asked, grant.token
    assert token is not None  # noqa: S101  # `obtain` returned one
    urls = provider.well_known_urls()
    if not urls:
        return GrantCheck(grant.name, None, why="the provider has no issuer, and so no metadata")
    metadata = await fetch(world, provider, urls)
    why = "its metadata names no introspection, and no userinfo endpoint for this token"
    failure: Failure | None = None
    for request in provider.check_requests(metadata, token):
        await world.check_credentials(provider)
        result = await transmit(world, request, stored.now)
        if isinstance(result, Failure):
            failure = result
            continue
        valid = provider.read_check(request, result)
        if valid is not None:
            asked: Literal["introspect", "userinfo"]
            asked = "introspect" if request.purpose == "introspect" else "userinfo"
            return GrantCheck(grant.name, valid, asked)
        why, failure = f"{_WORDS[request.purpose]} answered HTTP {result.status}", None
    if failure is not None:
        raise errors.UnreachableError(
            f"{provider.server} could not be asked about the token of {grant.name!r}:"
            f" {failure.words}.",
            flow_id=grant.id,
            state=grant.state,
        )
    return GrantCheck(grant.name, None, why=why)
