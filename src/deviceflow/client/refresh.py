"""The next token, in exchange for a refresh token (RFC 6749 section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow import errors
from deviceflow.client.exchange import transmit
from deviceflow.client.metadata import discover
from deviceflow.core.policy import judged
from deviceflow.core.text import CleanText, SecretMatcher
from deviceflow.core.wire import Failure

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.provider import Provider, Token


async def refresh(world: World, provider: Provider, token: Token) -> Token:
    """Return the next token."""
    provider = await discover(world, provider)
    clocks = world.clocks()
    now = clocks.wall
    result = await transmit(world, provider.refresh_request(token), now)
    answer = None
    if not isinstance(result, Failure):
        said = provider.read_token(result, now)
        answer = judged(provider, said, world.context.approver, renewed=True)
    if answer is None or answer.outcome in ("retry", "slow_down"):
        raise errors.UnreachableError("The token could not be refreshed now: no usable answer.")
    secrets = (*token.secrets, None if isinstance(result, Failure) else result.credential)
    refreshed = answer.token
    if refreshed is None:
        known = SecretMatcher(*secrets)
        message = CleanText(answer.error or answer.outcome, known, redact_lookalikes=True)
        raise errors.RejectedError(
            f"The token could not be refreshed: {message}.", hint="Log in again."
        )
    answer.hide(*secrets)
    if answer.rejection and answer.claims is None and refreshed.id_token is not None:
        raise errors.RejectedError(
            f"The refreshed token is not fit to be used: {answer.rejection[1]}.",
            hint="Log in again.",
        )
    if refreshed.refresh_token is None:
        refreshed.refresh_token = token.refresh_token
    if refreshed.scopes is None:
        refreshed.scopes = token.scopes  # none in the response: the same (RFC 6749 section 6)
    return refreshed
