"""Endpoints for tests: approve, deny and expire logins without a person, and read the log."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from flask import Blueprint, request

from deviceflow.server.pending import Status

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from deviceflow.server.pending import PendingLogins


def create_control(logins: PendingLogins) -> Blueprint:
    """Return the control endpoints. They need no login, so they are off by default.

    They accept JSON only: a browser asks the server before it sends JSON from another origin.
    """
    control = Blueprint("control", __name__, url_prefix="/control")

    @control.post("/approve")
    def approve() -> ResponseReturnValue:
        user_code = _user_code()
        return answer(user_code, done=logins.decide(user_code, Status.APPROVED))

    @control.post("/deny")
    def deny() -> ResponseReturnValue:
        user_code = _user_code()
        return answer(user_code, done=logins.decide(user_code, Status.DENIED))

    @control.post("/expire")
    def expire() -> ResponseReturnValue:
        user_code = _user_code()
        return answer(user_code, done=logins.expire(user_code))

    @control.get("/log")
    def log() -> ResponseReturnValue:
        return {
            "logins": [
                {
                    "user_code": login.user_code,
                    "dialect": login.asked.dialect,
                    "client": login.asked.client,
                    "asked_at": login.asked_at,
                    "interval": login.interval,
                    "state": login.status,
                    "requests": [asdict(record) for record in requests],
                }
                for login, requests in logins.log()
            ]
        }

    def answer(user_code: str, *, done: bool) -> ResponseReturnValue:
        login = logins.find(user_code)
        if login is None:
            return {"detail": "unknown user_code"}, 404
        return {"user_code": login.user_code, "state": login.status}, 200 if done else 409

    return control


def _user_code() -> str:
    body = request.get_json()
    return str(body.get("user_code", "")) if isinstance(body, dict) else ""
