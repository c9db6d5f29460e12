"""DVC Studio's JSON dialect of the device grant.

It is taken from Studio's own client, https://github.com/treeverse/dvc-studio-client (`auth.py`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, request, url_for

from deviceflow.core.sanitize import printable
from deviceflow.server.pending import Asked, Status

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from deviceflow.server.grants import Grants
    from deviceflow.server.pending import PendingLogins
    from deviceflow.server.settings import Settings

_SCOPES: Final = ("EXPERIMENTS", "DATASETS", "MODELS")


class _Refused(Exception):  # noqa: N818  # an answer, not a fault
    pass


def create_studio(settings: Settings, logins: PendingLogins, grants: Grants) -> Blueprint:
    """Return the two endpoints of DVC Studio's device login."""
    studio = Blueprint("studio", __name__, url_prefix="/api/device-login")
    studio.register_error_handler(_Refused, lambda refused: ({"detail": str(refused)}, 400))

    @studio.post("", strict_slashes=False)
    def login() -> ResponseReturnValue:
        asked = _read(_body())
        login = logins.add(asked, secrets.token_urlsafe(32), logins.new_user_code())
        return {
            "device_code": login.device_code,
            "user_code": login.user_code,
            "verification_uri": url_for("pages.enter_studio", _external=True),
            "token_uri": url_for(".token", _external=True),
            "token_name": asked.token_name,
            "expires_in": settings.expires_in,
        }

    @studio.post("/token")
    def token() -> ResponseReturnValue:
        code = _text(_body(), "code")
        if code is None:
            raise _Refused("code: This field is required.")
        poll = logins.poll(code, "studio")
        if poll is None:
            return {"detail": "authorization_expired"}, 400
        if poll.login.status is Status.APPROVED and logins.redeem(poll):
            poll.record.answer = "issued"
            return {"access_token": grants.create(poll.login).access_token}
        poll.record.answer = {
            Status.WAITING: "authorization_pending",
            Status.DENIED: "access_denied",
        }.get(poll.login.status, "authorization_expired")
        return {"detail": poll.record.answer}, 400

    return studio


def _body() -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise _Refused("A JSON object is required.")
    return body


def _read(body: dict[str, Any]) -> Asked:
    client = printable(_text(body, "client_name") or "", 200).strip()
    if not client:
        raise _Refused("client_name: This field is required.")
    scopes = [scope.upper() for scope in _texts(body, "scopes")]
    if unknown := [printable(scope, 50) for scope in scopes if scope not in _SCOPES]:
        raise _Refused(
            f"scopes: Unknown scope {', '.join(unknown)}. Use some of {', '.join(_SCOPES)}."
        )
    team_names = tuple(printable(name, 100) for name in _texts(body, "team_names"))
    if _flag(body, "all_teams") is False and not team_names:
        raise _Refused("team_names: This field is required if all_teams is false.")
    days = body.get("expires_in_days")
    if days is not None and (type(days) is not int or days <= 0):
        raise _Refused("expires_in_days: Must be a positive integer.")
    return Asked(
        dialect="studio",
        client=client,
        scopes=tuple(dict.fromkeys(scopes)),
        purpose=printable(_text(body, "purpose") or "", 200).strip() or None,
        token_name=printable(_text(body, "token_name") or "", 200).strip()
        or f"token-{secrets.token_hex(4)}",
        team_names=team_names,
        all_teams=bool(_flag(body, "all_teams")),
        expires_in_days=days,
        never_expires=bool(_flag(body, "never_expires")),
    )


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _Refused(f"{name}: Must be a string.")
    return value


def _texts(body: dict[str, Any], name: str) -> list[str]:
    values = body.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _Refused(f"{name}: Must be a list of strings.")
    return values


def _flag(body: dict[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _Refused(f"{name}: Must be true or false.")
    return value
