"""The metadata of servers (RFC 8414): asked for once an hour, and kept in the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow import errors
from deviceflow.client.exchange import transmit
from deviceflow.core.wire import Failure, Request

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.provider import Provider
    from deviceflow.core.wire import Fields, Response

_JSON: Final = {"Accept": "application/json"}


async def discover(world: World, provider: Provider) -> Provider:
    """Return the provider with its endpoints, from its server's metadata where it needs them.

    Raises:
        ServerError: No metadata could be fetched, or none that fit the provider.
    """
    urls = provider.metadata_urls()
    if not urls:
        return provider
    return provider.with_metadata(await fetch(world, provider, urls))


async def fetch(world: World, provider: Provider, urls: tuple[str, ...]) -> Fields:
    """Return the metadata of a provider's server.

    Args:
        world: What the operation works with.
        provider: The provider.
        urls: Where they may be.

    Raises:
        ServerError: As for `discover`.
    """
    clocks = world.clocks()
    kept = world.context.metadata.get(provider.server, clocks.steady)
    if kept is not None:
        return kept
    problem: errors.ServerError | None = None
    for url in urls:
        request = Request("metadata", url, _JSON, b"")
        answer = await transmit(world, request, clocks.wall)
        if isinstance(answer, Failure):
            problem = _unreachable(provider, f": {answer.words}")
            continue
        metadata = _fields(answer)
        if metadata is None:
            # What another address came to says more.
            problem = problem or _unreachable(provider, f": {_status(answer)} at {url}")
            continue
        try:
            provider.with_metadata(metadata)
        except errors.ProtocolError as rejection:
            problem = rejection
            continue
        clocks = world.clocks()
        world.context.metadata.keep(provider.server, clocks.steady, metadata)
        return metadata
    assert problem is not None  # noqa: S101  # there was an address
    raise problem


def _status(response: Response) -> str:
    """Return why a response has no metadata."""
    status = f"HTTP {response.status}"
    return status if response.status != 200 else f"{status} without a JSON object"


def _unreachable(provider: Provider, why: str) -> errors.UnreachableError:
    return errors.UnreachableError(
        f"The metadata of {provider.server} could not be fetched{why}.",
        hint="Check the issuer's address and the network, with deviceflow doctor for example, or"
        " give both endpoints.",
    )


def _fields(response: Response) -> Fields | None:
    return response.fields() if response.status == 200 else None
