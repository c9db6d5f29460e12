"""Endpoints for tests of refreshing: end tokens and grants, spoil answers, and read the log."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flask import Blueprint, abort, make_response, request

from deviceflow.server.faults import LONGEST_DELAY, Fault
from deviceflow.server.pending import normalised

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from deviceflow.server.faults import Faults
    from deviceflow.server.grant_log import GrantView
    from deviceflow.server.grants import Grants

_MOST_TIMES: Final = 10_000


def create_grant_control(grants: Grants, faults: Faults) -> Blueprint:
    """Return the control endpoints for grants. A grant is named by the user code of its login."""
    control = Blueprint("control_grants", __name__, url_prefix="/control")

    @control.get("/grants")
    def log() -> ResponseReturnValue:
        return {"grants": [asdict(grant) for grant in grants.log()]}

    @control.post("/invalidate")
    def invalidate() -> ResponseReturnValue:
        user_code = _user_code(_body())
        return answer(user_code, done=grants.invalidate(user_code))

    @control.post("/revoke")
    def revoke() -> ResponseReturnValue:
        user_code = _user_code(_body())
        return answer(user_code, done=grants.end(user_code))

    @control.post("/spoil")
    def spoil() -> ResponseReturnValue:
        body = _body()
        user_code = _user_code(body)
        fault = _fault(body)
        times = _number(body, "times", 1, _MOST_TIMES) or 1
        if find(user_code):
            faults.plan(user_code, fault, times)
        return answer(user_code, done=True)

    @control.post("/release")
    def release() -> ResponseReturnValue:
        faults.release()
        return {}

    def find(user_code: str) -> GrantView | None:
        typed = normalised(user_code)
        return next((one for one in grants.log() if normalised(one.user_code) == typed), None)

    def answer(user_code: str, *, done: bool) -> ResponseReturnValue:
        grant = find(user_code)
        if grant is None:
            return {"detail": "unknown user_code"}, 404
        facts = {"state": grant.state, "generation": grant.generation}
        return {"user_code": grant.user_code} | facts, 200 if done else 409

    return control


def _body() -> dict[str, Any]:
    body = request.get_json()
    return body if isinstance(body, dict) else {}


def _user_code(body: dict[str, Any]) -> str:
    return str(body.get("user_code", ""))


def _fault(body: dict[str, Any]) -> Fault:
    fields = body.get("fields", {})
    if not isinstance(fields, dict):
        _refuse("fields: Must be an object.")
    return Fault(
        status=_number(body, "status", 400, 599),
        delay=_number(body, "delay", 0, LONGEST_DELAY) or 0.0,
        cut=_number(body, "cut", 0, 100_000),
        fields=fields,
    )


def _number(body: dict[str, Any], name: str, least: float, most: float) -> Any:
    value = body.get(name)
    if value is None:
        return None
    whole = name != "delay"
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        kind = "an integer" if whole else "a number"
        _refuse(f"{name}: Must be {kind} between {least} and {most}.")
    return value


def _refuse(why: str) -> NoReturn:
    abort(make_response({"detail": why}, 400))
