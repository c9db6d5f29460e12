"""Make a provider from its settings as they are in the record of a login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.provider import Provider


def provider_from_dict(settings: Mapping[str, Any]) -> Provider:
    """Return the provider whose `to_dict()` returned `settings`.

    Raises:
        UsageError: The settings are unknown to this version, or invalid.
    """
    # Only one of them is needed, and a process that takes one step would wait for the other.
    dialect = settings.get("dialect")
    typed = isinstance(dialect, str) and isinstance(settings.get("allow_http", False), bool)
    try:
        if typed and dialect == "studio":
            from deviceflow.providers.studio import Studio  # noqa: PLC0415

            return Studio(**{name: settings[name] for name in settings if name != "dialect"})
        if typed:
            from deviceflow.providers.oauth import OAuth  # noqa: PLC0415

            return OAuth.from_dict(settings)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise UsageError(
        f"The provider settings of this login cannot be read: dialect {dialect!r}.",
        hint="A newer version of deviceflow may have written them: upgrade deviceflow.",
    )
