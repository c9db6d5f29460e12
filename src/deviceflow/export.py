"""Export a login as a record of JSON types, or as one sealed text, for engines with job state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.core import codec
from deviceflow.core.flow import Flow
from deviceflow.core.secret import without_traceback, wrapped
from deviceflow.errors import UsageError
from deviceflow.providers.codec import provider_from_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deviceflow.core.secret import Secret


def to_dict(flow: Flow, *, secrets: bool = False) -> dict[str, Any]:
    """Return the record of a login as JSON types.

    Args:
        flow: The login.
        secrets: Whether to include the device code and the token in clear. Without them, a program
            can read the record, but cannot resume the login from it.
    """
    record = {"schema": codec.SCHEMA} | codec.open_part(flow)
    record["provider"] = flow.provider.to_dict()
    if secrets:
        record["secrets"] = {kind: codec.hidden_part(flow, kind) for kind in codec.KINDS}
    return record


def from_dict(record: Mapping[str, Any]) -> Flow:
    """Return the login of a record that `to_dict` returned.

    Raises:
        UsageError: The record has another schema version, or is damaged.
    """
    flow = _read(record)
    del record  # it may hold secrets, and a traceback may show this frame
    if isinstance(flow, UsageError):
        raise flow
    return flow


def _read(record: Mapping[str, Any]) -> Flow | UsageError:
    """Return the login, or the error without the frames that hold the record."""
    try:
        if (schema := record.get("schema")) != codec.SCHEMA:
            return UsageError(
                f"The record of this login has the schema {schema!r}, not {codec.SCHEMA!r}.",
                hint="Read it with the version of deviceflow that wrote it, or a newer one.",
            )
        flow = Flow(record["id"], provider_from_dict(record["provider"]), 0.0)
        codec.fill(flow, record)
        for kind in codec.KINDS:
            codec.fill_hidden(flow, kind, record.get("secrets", {}).get(kind))
    except UsageError as unreadable:
        return unreadable.with_traceback(None)
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError):
        return UsageError(
            "The record of this login is incomplete or damaged.",
            hint="Start a new login.",
        )
    return flow


def seal(flow: Flow, keys: Sequence[Secret | str]) -> str:
    """Return the whole record of a login, with its secrets, as one sealed, URL-safe text.

    `unseal` returns the login. Only one process may resume the login at a time.

    Args:
        flow: The login.
        keys: Fernet keys, as `deviceflow keys generate` prints them. The first key seals.

    Raises:
        SealError: There is no key, or a key is not a Fernet key.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    passed = keys = wrapped(keys)
    from deviceflow.core.encryption import Sealer  # noqa: PLC0415  # an extra

    return without_traceback(lambda: Sealer(passed).seal(to_dict(flow, secrets=True), codec.SCHEMA))


def unseal(text: str, keys: Sequence[Secret | str]) -> Flow:
    """Return the login of a sealed text.

    Args:
        text: The text that `seal` returned.
        keys: Fernet keys; one of them sealed the text.

    Raises:
        SealError: The text was sealed with another key, or was changed.
        UsageError: The record has another schema version.
        ImportError: `cryptography` is missing (extra `seal`).
    """
    passed = keys = wrapped(keys)
    from deviceflow.core.encryption import Sealer  # noqa: PLC0415  # an extra

    return without_traceback(lambda: from_dict(Sealer(passed).open(text, codec.SCHEMA)))
