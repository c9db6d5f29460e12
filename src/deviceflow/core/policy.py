"""The policy on who may approve, and on which login is a grant's.

It is applied to every token that is kept or handed out: when a poll or a refresh brings the token,
when a grant takes it from a login, and when a program collects it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from deviceflow.core.states import Reason
from deviceflow.core.text import CleanText, trusted

if TYPE_CHECKING:
    from deviceflow.core.provider import Answer, Approver, Provider
    from deviceflow.core.wire import Fields


@lru_cache(256)
def settings_of(provider: Provider) -> str:
    """Return a digest of all that a provider says, before its endpoints are discovered.

    That is where requests go, as which client, what they ask for, and who may approve. Two logins
    with the same digest are the same login for a grant.
    """
    settings = provider.for_grant().to_dict()
    settings["scopes"] = sorted(settings.get("scopes", ()))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def wrong_approver(
    provider: Provider, claims: Fields | None, approver: Approver | None
) -> CleanText | None:
    """Return why a token must not be taken from the person who approved it; None if it may.

    Args:
        provider: The provider, whose own requirements count.
        claims: The validated claims of the id token; None without one.
        approver: The program's policy, which counts as well.
    """
    problem = provider.wrong_approver(claims)
    if problem is None and approver is not None:
        if claims is None:
            problem = "the server sent no id token, so it is unknown who approved"
        elif not approver(claims.as_dict()):
            problem = "the program does not accept the person who approved"
    return None if problem is None else trusted(problem)


def judged(
    provider: Provider, answer: Answer, approver: Approver | None, *, renewed: bool = False
) -> Answer:
    """Return an answer, with its token marked as unfit if the approver is not accepted.

    Args:
        provider: The provider.
        answer: The answer to a token request.
        approver: The program's policy.
        renewed: Whether the answer is to a refresh, which need not bring an id token again.
    """
    if answer.token is None or (answer.claims is None and (answer.rejection or renewed)):
        return answer
    wrong = wrong_approver(provider, answer.claims, approver)
    return (
        answer
        if wrong is None
        else replace(answer, rejection=(Reason.WRONG_APPROVER, wrong), claims=None)
    )
