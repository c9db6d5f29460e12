"""The servers that can be logged in to, and what their answers mean. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow.errors import UsageError
from deviceflow.providers.studio import Studio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.providers.base import Provider

_DIALECTS: Final[Mapping[str, Callable[..., Provider]]] = {Studio.dialect: Studio}


def from_dict(settings: Mapping[str, Any]) -> Provider:
    """Return the provider whose `to_dict()` gave `settings`.

    Raises:
        UsageError: The dialect is not known to this version, or its settings are not.
    """
    values = dict(settings)
    dialect = values.pop("dialect", None)
    try:
        return _DIALECTS[dialect](**values)
    except (KeyError, TypeError):
        raise UsageError(
            f"The flow belongs to a provider that this version cannot read: {dialect!r}.",
            hint="It may have been written by a newer deviceflow: upgrade this one.",
        ) from None
