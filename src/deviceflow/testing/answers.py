"""What each known provider answers, made from the same data as the provider itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow.errors import UsageError
from deviceflow.providers import known
from deviceflow.providers.oauth import GRANT_TYPE, OAuth
from deviceflow.providers.studio import DIALECT as STUDIO
from deviceflow.providers.studio import Studio
from deviceflow.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.wire import Response
    from deviceflow.providers.dialect import Dialect
    from deviceflow.testing.transport import Scripted

_SERVER: Final = "https://login.example.com"

# Statuses other than 400, from the pages that the providers' entries name. deviceflow reads each
# of these errors with any status, so the entries do not have them.
_STATUSES: Final[Mapping[str, Mapping[str, int]]] = {
    "Auth0": {
        "authorization_pending": 403,
        "slow_down": 429,
        "access_denied": 403,
        "expired_token": 403,
        "invalid_grant": 403,
    },
    "GitHub": {
        "authorization_pending": 200,
        "slow_down": 200,
        "access_denied": 200,
        "expired_token": 200,
        "invalid_grant": 200,
    },
    "Google": {"authorization_pending": 428, "slow_down": 403, "access_denied": 403},
    "PingAM (ForgeRock AM)": {"authorization_pending": 403, "expired_token": 401},
}


def answers_of(provider: OAuth | Studio | str) -> Answers:
    """Return a provider's answers.

    Args:
        provider: The provider, or its name: `studio`, or one of `deviceflow providers`.

    Raises:
        UsageError: There is no provider of that name.
    """
    if isinstance(provider, str):
        dialect = STUDIO if provider == "studio" else known.entry(provider)
        return Answers(dialect)
    if isinstance(provider, Studio):
        return Answers(STUDIO, server=provider.server)
    return Answers(provider.quirks, provider)


class Answers:
    """The answers of one provider, for a `ScriptedTransport`.

    Each has the field names, error codes and statuses of the provider. Fields can be replaced by
    arguments of their names in RFC 8628 and RFC 6749; None leaves a field out.

    Args:
        dialect: How the provider departs from RFC 8628.
        provider: The provider, if a program's settings for it are known.
        server: Its URL, if it is not an `OAuth`.
    """

    def __init__(
        self, dialect: Dialect, provider: OAuth | None = None, *, server: str = _SERVER
    ) -> None:
        self._dialect = dialect
        self._provider = provider
        self._server = provider.server if provider else server

    def login(self, *polls: Scripted, **code: Any) -> list[Scripted]:
        """Return the script of one login: metadata if the client reads it, the code, the polls.

        Args:
            *polls: The answers to the polls.
            **code: Fields of the answer with the code, as for `code`.
        """
        provider = self._provider
        if provider is None and self._dialect.issuer and not self._dialect.token_endpoint:
            raise UsageError(
                f"{self._dialect.title}'s endpoints are in its metadata, whose URL depends on"
                " settings.",
                hint="Pass the provider itself: answers_of(provider(…)).",
            )
        asks = provider is not None and provider.metadata_urls()
        return [*([self.metadata()] if asks else []), self.code(**code), *polls]

    def metadata(self, **fields: Any) -> Response:
        """Return the server's metadata (RFC 8414)."""
        base = self._server.rstrip("/")
        issuer = self._server
        if self._dialect.issuer_template and self._dialect.issuer:
            issuer = self._dialect.issuer.format(tenant="{tenantid}")
        body = {
            "issuer": issuer,
            "device_authorization_endpoint": f"{base}/device_authorization",
            "token_endpoint": f"{base}/token",
            "revocation_endpoint": f"{base}/revoke",
            "grant_types_supported": [GRANT_TYPE, "refresh_token"],
            "response_types_supported": [],
        }
        return answer(200, _without_none(body | fields))

    def code(self, **fields: Any) -> Response:
        """Return the answer with the codes (RFC 8628 section 3.2)."""
        page = f"{self._server.rstrip('/')}/device"
        body: dict[str, Any] = {
            "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
            "user_code": "WDJB-MJHT",
            "verification_uri": page,
            "expires_in": 900,
        }
        if self._dialect is STUDIO:
            body |= {"token_uri": f"{page}/token", "token_name": "a-token"}
        else:
            body["interval"] = 5
        return answer(200, self._renamed(body | fields))

    def token(self, **fields: Any) -> Response:
        """Return the answer with an access token (RFC 6749 section 5.1)."""
        body: dict[str, Any] = {"access_token": "2YotnFZFEjr1zCsicMWpAA"}
        if self._dialect is not STUDIO:
            body |= {"token_type": "Bearer", "expires_in": 3600}
        return answer(200, self._renamed(body | fields))

    def pending(self) -> Response:
        """Return the answer while nobody has decided."""
        return self.error("authorization_pending")

    def slow_down(self, interval: float | None = None) -> Response:
        """Return the answer to a poll that came too early.

        Args:
            interval: The new interval in seconds, for servers that name it, as GitHub does.
        """
        return self.error("slow_down", interval=interval)

    def denied(self) -> Response:
        """Return the answer after the person said no."""
        return self.error("access_denied")

    def expired(self) -> Response:
        """Return the answer after the code's lifetime."""
        return self.error("expired_token")

    def unknown_code(self) -> Response:
        """Return the answer to a device code that the server does not know."""
        return self.error("invalid_grant")

    def error(self, code: str, **fields: Any) -> Response:
        """Return an error, by its code in RFC 8628 or RFC 6749."""
        dialect = self._dialect
        for status, meant in dialect.statuses.items():
            if meant == code:
                return answer(int(status), _without_none(fields))
        named = next((own for own, meant in dialect.errors.items() if meant == code), code)
        status_code = _STATUSES.get(dialect.title, {}).get(code, 400)
        body = {dialect.error_fields[0]: named} | fields
        return answer(status_code, self._renamed(body))

    def _renamed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        names = self._dialect.answer_names
        return {names.get(name, name): value for name, value in _without_none(body).items()}


def _without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
