"""What an answer means that was not understood, and which entry would take care of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.text import NOTHING, CleanText, Known

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.wire import Fields, Response


_CODE_NAMES: Final = ("device_code", "user_code", "verification_uri", "expires_in", "interval")
_OTHER_ERROR_FIELDS: Final = ("error", "error_code", "errorCode", "code", "message", "detail")


_ADVICE: Final = {
    "invalid_client": "the client id, its secret, or the way it is sent is wrong.",
    "invalid_grant": "the code is not known where it was issued: are both endpoints one server's?",
    "invalid_scope": "a scope is asked for that the client may not have.",
    "unauthorized_client": "switch the device grant on where the client is registered.",
    "unsupported_grant_type": "the server, or this endpoint, has no device grant.",
    "access_denied": "the server refuses it without asking anybody.",
    "expired_token": "the code is over already.",
}


def advise(
    provider: Any, answer: Response, known: Known = NOTHING, *, pending: bool = False
) -> tuple[str, str | None]:
    """Say what an answer says that was not understood, or not welcome.

    Args:
        provider: Who answered.
        answer: The answer.
        known: The secrets that it may echo.
        pending: Whether it should have said that the approval is pending.

    Returns:
        Words, and the line of an entry by which it would be understood.
    """
    fields, quirks = answer.fields(), provider.quirks
    status = f'statuses = {{ "{answer.status}" = "authorization_pending" }}'
    if fields is None:
        if answer.status == 415:
            return "and a form is not what it takes.", 'request = "json"'
        quirk = status if pending and 400 <= answer.status < 500 else None
        return "and no JSON object: is it the endpoint, or a page?", quirk
    error = quirks.error(fields)
    if error is not None:
        said = CleanText(error, known, looks=True)
        quirk = None
        if error not in _ADVICE and pending:
            quirk = f'errors = {{ {quoted(said)} = "authorization_pending" }}'
        return f"{said}: {_ADVICE.get(error, 'an error of its own.')}", quirk
    for name in _OTHER_ERROR_FIELDS:
        if answer.status >= 400 and (text := fields.text(name)):
            said = CleanText(text, known, looks=True)
            return f"{said!r} in the field {name}.", f"error_fields = [{quoted(name)}]"
    if pending:
        return f"and no error in it, but {_names(fields, known)}.", status
    renamed = _renamed(fields)
    if renamed:
        pairs = ", ".join(f"{ours} = {quoted(theirs)}" for ours, theirs in renamed.items())
        return f"with names of its own: {_names(fields, known)}.", f"answer_names = {{ {pairs} }}"
    return f"and a part of the code is missing: it has {_names(fields, known)}.", None


def _renamed(fields: Fields) -> dict[str, str]:
    """Return the names of RFC 8628 with what they are called here, as far as it is plain."""
    plain = {re.sub(r"[^a-z]", "", name.lower()).replace("url", "uri"): name for name in fields}
    found = {ours: plain.get(ours.replace("_", "")) for ours in _CODE_NAMES}
    return {ours: theirs for ours, theirs in found.items() if theirs and theirs != ours}


def _names(fields: Iterable[str], known: Known) -> str:
    return CleanText(", ".join(fields), known) or "nothing"


def quoted(text: str) -> str:
    return json.dumps(CleanText(text, NOTHING), ensure_ascii=False)
