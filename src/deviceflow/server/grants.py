"""The server's grants, in memory: which tokens are valid, and what a refresh does to them."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Final

from deviceflow.server.grant_log import Answer, GrantState, GrantView, RefreshRecord
from deviceflow.server.pending import normalised
from deviceflow.server.tokens import Issued, TokenView, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.server.pending import PendingLogin
    from deviceflow.server.settings import Settings
    from deviceflow.server.tokens import Kind

_DAY: Final = 86400.0
_REMEMBERED: Final = 3600.0
_CLEANED_EVERY: Final = 60.0

_AS_GRANTED: Final = Wanted()


@dataclass(slots=True, kw_only=True, eq=False)
class _Token:
    grant: _Grant
    kind: Kind
    value: str = field(repr=False)
    generation: int
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    issued_at: float
    expires_at: float | None
    revoked: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Grant:
    login: PendingLogin
    state: GrantState = GrantState.ACTIVE
    generation: int = 1
    access_tokens: list[_Token] = field(default_factory=list)
    refresh_token: _Token | None = None
    previous: _Token | None = None
    replaced_at: float = 0.0
    requests: list[RefreshRecord] = field(default_factory=list)
    all_refresh_tokens: list[_Token] = field(default_factory=list)

    def ended_before(self, moment: float) -> bool:
        tokens = (*self.access_tokens, *([self.refresh_token] if self.refresh_token else ()))
        ends = [token.expires_at for token in tokens]
        # Tokens of a grant that was revoked are remembered until they would have expired.
        return all(end is not None and end < moment for end in ends)


class Grants:
    """All grants of the server. Thread-safe: each method holds the lock while it runs."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = Lock()
        self._grants: dict[str, _Grant] = {}
        self._tokens: dict[str, _Token] = {}
        self._cleaned_at = clock()

    def change(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        with self._lock:
            self._settings = settings

    def create(self, login: PendingLogin, wanted: Wanted = _AS_GRANTED) -> Issued:
        """Create the grant of an approved login, and issue its first tokens."""
        with self._lock:
            now = self._clock()
            self._drop_ended(now)
            grant = _Grant(login=login)
            self._grants[normalised(login.user_code)] = grant
            if self._is_refreshable(grant):
                grant.refresh_token = self._issue_refresh_token(grant, now)
            access = self._issue_access_token(grant, wanted, now)
            return self._issued(access, grant.refresh_token, now)

    def refresh(self, value: str, wanted: Wanted) -> Issued | None:
        """Issue the next tokens for a refresh token (RFC 6749 section 6).

        Returns:
            The tokens; None if the refresh token is not valid, or no longer.
        """
        with self._lock:
            now = self._clock()
            token = self._tokens.get(value)
            if token is None or token.kind != "refresh_token":
                return None
            answer = self._judge(token, now)
            token.grant.requests.append(
                RefreshRecord(
                    monotonic=time.monotonic(),
                    wall=now,
                    generation=token.generation,
                    scopes=wanted.scopes,
                    resource=wanted.resource,
                    audience=wanted.audience,
                    answer=answer,
                )
            )
            match answer:
                case Answer.ISSUED:
                    return self._advance(token.grant, wanted, now)
                case Answer.REPLAYED:
                    return self._repeat(token.grant, wanted, now)
                case Answer.REUSED if self._settings.reuse_detection:
                    token.grant.state = GrantState.REUSED
            return None

    def find(self, value: str) -> TokenView | None:
        """Return the token of that value, valid or not; None if the server never issued it."""
        with self._lock:
            now = self._clock()
            token = self._tokens.get(value)
            if token is None:
                return None
            replaced = token.kind == "refresh_token" and token is not token.grant.refresh_token
            return TokenView(
                kind=token.kind,
                user_code=token.grant.login.user_code,
                client_id=token.grant.login.asked.client_id,
                scopes=token.scopes,
                audience=token.audience,
                granted_resource=token.grant.login.asked.resource,
                issued_at=token.issued_at,
                expires_at=token.expires_at,
                generation=token.generation,
                active=not replaced and self._is_alive(token, now),
            )

    def revoke(self, value: str) -> None:
        """Revoke a token (RFC 7009 section 2.1).

        An access token ends alone. With a refresh token, also one that was replaced, the grant
        ends, with all its tokens.
        """
        with self._lock:
            token = self._tokens.get(value)
            if token is None:
                return
            if token.kind == "access_token":
                token.revoked = True
            elif token.grant.state is GrantState.ACTIVE:
                token.grant.state = GrantState.REVOKED

    # For tests.

    def invalidate(self, user_code: str) -> bool:
        """End the access tokens of a grant, not its refresh token. False if the grant has ended."""
        with self._lock:
            grant = self._grants.get(normalised(user_code))
            if grant is None or grant.state is not GrantState.ACTIVE:
                return False
            for token in grant.access_tokens:
                token.revoked = True
            return True

    def end(self, user_code: str) -> bool:
        """End a grant, with all its tokens. False if the grant has ended."""
        with self._lock:
            grant = self._grants.get(normalised(user_code))
            if grant is None or grant.state is not GrantState.ACTIVE:
                return False
            grant.state = GrantState.REVOKED
            return True

    def log(self) -> list[GrantView]:
        """Return every grant with its refreshes, oldest first."""
        with self._lock:
            return [_view(grant) for grant in self._grants.values()]

    # Under the lock.

    def _is_refreshable(self, grant: _Grant) -> bool:
        asked, needed = grant.login.asked, self._settings.refresh_scope
        return (
            asked.dialect == "rfc8628"
            and self._settings.refresh_tokens != "none"
            and (not needed or needed in asked.scopes)
        )

    def _judge(self, token: _Token, now: float) -> Answer:
        grant = token.grant
        if not self._is_alive(token, now):
            return Answer.REFUSED
        if token is grant.refresh_token:
            return Answer.ISSUED
        if token is grant.previous and now < grant.replaced_at + self._settings.reuse_grace:
            return Answer.REPLAYED
        return Answer.REUSED

    def _advance(self, grant: _Grant, wanted: Wanted, now: float) -> Issued:
        grant.generation += 1
        if self._settings.refresh_tokens == "rotate":
            grant.previous, grant.replaced_at = grant.refresh_token, now
            grant.refresh_token = self._issue_refresh_token(grant, now)
        if self._settings.refresh_ends_token:
            for token in grant.access_tokens:
                token.revoked = True
        self._drop_expired(grant, now)
        access = self._issue_access_token(grant, wanted, now)
        told = None if self._settings.refresh_tokens == "keep" else grant.refresh_token
        return self._issued(access, told, now)

    def _repeat(self, grant: _Grant, wanted: Wanted, now: float) -> Issued:
        access = grant.access_tokens[-1]
        same = (access.scopes, access.audience) == _extent(grant, wanted)
        if not same or not self._is_alive(access, now):
            access = self._issue_access_token(grant, wanted, now)
        return self._issued(access, grant.refresh_token, now)

    def _issue_access_token(self, grant: _Grant, wanted: Wanted, now: float) -> _Token:
        asked = grant.login.asked
        scopes, audience = _extent(grant, wanted)
        life: float | None = self._settings.access_token_lifetime
        if asked.dialect == "studio":
            life = asked.expires_in_days * _DAY if asked.expires_in_days else None
        token = _Token(
            grant=grant,
            kind="access_token",
            value=f"{'isat_' if asked.dialect == 'studio' else ''}{secrets.token_urlsafe(32)}",
            generation=grant.generation,
            scopes=scopes,
            audience=audience,
            issued_at=now,
            expires_at=None if life is None else now + life,
        )
        grant.access_tokens.append(token)
        self._tokens[token.value] = token
        return token

    def _issue_refresh_token(self, grant: _Grant, now: float) -> _Token:
        scopes, audience = _extent(grant, _AS_GRANTED)
        token = _Token(
            grant=grant,
            kind="refresh_token",
            value=secrets.token_urlsafe(36),
            generation=grant.generation,
            scopes=scopes,
            audience=audience,
            issued_at=now,
            expires_at=now + self._settings.refresh_token_lifetime,
        )
        grant.all_refresh_tokens.append(token)
        self._tokens[token.value] = token
        return token

    @staticmethod
    def _issued(access: _Token, refresh: _Token | None, now: float) -> Issued:
        left = None if access.expires_at is None else access.expires_at - now
        return Issued(
            access_token=access.value,
            # A sum of floats may be a little less than the whole number of seconds it stands for.
            expires_in=None if left is None else int(left + 0.001),
            scopes=access.scopes,
            refresh_token=refresh.value if refresh else None,
        )

    @staticmethod
    def _is_alive(token: _Token, now: float) -> bool:
        expired = token.expires_at is not None and now >= token.expires_at
        return token.grant.state is GrantState.ACTIVE and not token.revoked and not expired

    def _drop_expired(self, grant: _Grant, now: float) -> None:
        for token in grant.access_tokens[:]:
            if token.expires_at is not None and token.expires_at < now - _REMEMBERED:
                grant.access_tokens.remove(token)
                del self._tokens[token.value]

    def _drop_ended(self, now: float) -> None:
        """Delete the grants whose tokens all expired an hour ago."""
        if now < self._cleaned_at + _CLEANED_EVERY:
            return
        self._cleaned_at = now
        for user_code, grant in list(self._grants.items()):
            if grant.ended_before(now - _REMEMBERED):
                del self._grants[user_code]
                for token in (*grant.access_tokens, *grant.all_refresh_tokens):
                    del self._tokens[token.value]


def _extent(grant: _Grant, wanted: Wanted) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the scopes and the audience of an access token."""
    asked = grant.login.asked
    audience = wanted.audience or asked.audience
    return (
        asked.scopes if wanted.scopes is None else wanted.scopes,
        (*(wanted.resource or asked.resource), *([audience] if audience else ())),
    )


def _view(grant: _Grant) -> GrantView:
    answers = [record.answer for record in grant.requests]
    return GrantView(
        user_code=grant.login.user_code,
        client=grant.login.asked.client,
        scopes=grant.login.asked.scopes,
        state=grant.state,
        generation=grant.generation,
        refreshes=answers.count(Answer.ISSUED),
        replays=answers.count(Answer.REPLAYED),
        reuses=answers.count(Answer.REUSED),
        requests=tuple(grant.requests),
    )
