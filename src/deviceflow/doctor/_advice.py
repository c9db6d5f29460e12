"""Explain responses that are not understood, and suggest settings for the provider's entry."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.text import NOTHING, CleanText, SecretMatcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.wire import Fields, Response


_CODE_NAMES: Final = ("device_code", "user_code", "verification_uri", "expires_in", "interval")
_OTHER_ERROR_FIELDS: Final = ("error", "error_code", "errorCode", "code", "message", "detail")


_ADVICE: Final = {
    "invalid_client": "the client id, the client secret or the authentication method is wrong.",
    "invalid_grant": "the token endpoint does not know the code. Are both endpoints of one server?",
    "invalid_scope": "the client is not allowed to request one of the scopes.",
    "unauthorized_client": "enable the device grant in the client's registration at the server.",
    "unsupported_grant_type": "the server or this endpoint does not support the device grant.",
    "access_denied": "the server denied the login without asking a person.",
    "expired_token": "the code has expired already.",
}


def advise(
    provider: Any, answer: Response, known: SecretMatcher = NOTHING, *, pending: bool = False
) -> tuple[str, str | None]:
    """Explain a response that is an error, or that deviceflow does not understand.

    Args:
        provider: The provider that sent the response.
        answer: The response.
        known: The secrets that the response may echo.
        pending: Whether the response should have been `authorization_pending`.

    Returns:
        The explanation, and a line for the provider's entry with which deviceflow would understand
        the response.
    """
    fields, quirks = answer.fields(), provider.quirks
    status = f'statuses = {{ "{answer.status}" = "authorization_pending" }}'
    if fields is None:
        if answer.status == 415:
            return "the server does not accept a form.", 'request = "json"'
        quirk = status if pending and 400 <= answer.status < 500 else None
        return "the body is not a JSON object. Is the URL that of the endpoint?", quirk
    error = quirks.error(fields)
    if error is not None:
        shown = CleanText(error, known, redact_lookalikes=True)
        quirk = None
        if error not in _ADVICE and pending:
            quirk = f'errors = {{ {quoted(shown)} = "authorization_pending" }}'
        return f"{shown}: {_ADVICE.get(error, 'the error is not a standard one.')}", quirk
    for name in _OTHER_ERROR_FIELDS:
        if answer.status >= 400 and (text := fields.text(name)):
            shown = CleanText(text, known, redact_lookalikes=True)
            return f"the field {name} has {shown!r}.", f"error_fields = [{quoted(name)}]"
    if pending:
        return f"the body has no error code, but the fields {_names(fields, known)}.", status
    renamed = _renamed(fields)
    if renamed:
        pairs = ", ".join(f"{ours} = {quoted(theirs)}" for ours, theirs in renamed.items())
        others = f"the fields have other names than in RFC 8628: {_names(fields, known)}."
        return others, f"answer_names = {{ {pairs} }}"
    return f"a required field is missing; the body has {_names(fields, known)}.", None


def _renamed(fields: Fields) -> dict[str, str]:
    """Return names of RFC 8628, each with the similar name in the response."""
    plain = {re.sub(r"[^a-z]", "", name.lower()).replace("url", "uri"): name for name in fields}
    found = {ours: plain.get(ours.replace("_", "")) for ours in _CODE_NAMES}
    return {ours: theirs for ours, theirs in found.items() if theirs and theirs != ours}


def _names(fields: Iterable[str], known: SecretMatcher) -> str:
    return CleanText(", ".join(fields), known) or "nothing"


def quoted(text: str) -> str:
    return json.dumps(CleanText(text, NOTHING), ensure_ascii=False)
