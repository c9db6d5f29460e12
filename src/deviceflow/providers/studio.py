"""DVC Studio's JSON dialect of the device grant.

It is taken from Studio's own client, https://github.com/treeverse/dvc-studio-client (`auth.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NotRequired, Self, TypedDict, Unpack
from urllib.parse import urlsplit, urlunsplit

from deviceflow._environment import http_allowed
from deviceflow.core.provider import (
    DEFAULT_INTERVAL,
    LONGEST_USER_CODE,
    Answer,
    DeviceCode,
    Token,
    ill_formed,
    problem_with,
)
from deviceflow.core.sanitize import endpoint, is_loopback, number, with_query
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason
from deviceflow.core.text import CleanText, PersonText, SecretMatcher, link
from deviceflow.core.wire import Request
from deviceflow.errors import (
    InsecureURLError,
    InvalidArgumentError,
    InvalidScopesError,
    UsageError,
)
from deviceflow.providers.dialect import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.provider import LoginRequest
    from deviceflow.core.wire import Fields, Response

DEFAULT_URL: Final = "https://studio.datachain.ai"
AVAILABLE_SCOPES: Final = ["EXPERIMENTS", "DATASETS", "MODELS"]

_HEADERS: Final = {"Accept": "application/json", "Content-type": "application/json"}
_LIFETIME: Final = 1800.0
_LONGEST: Final = 30 * 86400.0
DIALECT: Final = Dialect(
    title="DVC Studio",
    error_fields=("detail", "error"),
    errors={"authorization_expired": "expired_token", "authorization_denied": "access_denied"},
)


def _texts(name: str, values: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(values, str):
        values = [text.strip() for text in values.split(",") if text.strip()]
    try:
        texts = tuple(values or ())
        "".join(texts)
    except TypeError:
        raise InvalidArgumentError(f"{name} must be a list of strings, not {values!r}.") from None
    return texts


def _can_be_sent(value: object) -> bool:
    return (
        value is None
        or isinstance(value, str | int)
        or (isinstance(value, float) and isfinite(value))
    )


class DeviceLoginResponse(TypedDict):
    """Studio's answer to a device login request.

    `device_code` is a secret. `expires_in` is in seconds.
    """

    device_code: str
    user_code: str
    verification_uri: str
    token_uri: str
    token_name: str
    expires_in: NotRequired[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioRequest:
    """What a login asks of Studio.

    Attributes:
        client_name: The program's name, which Studio shows to the person.
        token_name: The name of the token; by default Studio invents one.
        scopes: Some of `AVAILABLE_SCOPES`, in upper or lower case: a list, or one string with
            commas. They are sent as given.
        team_names: The teams that the token is for, likewise.
        all_teams: Whether the token is for all teams.
        expires_in_days: The token's lifetime in days.
        never_expires: Whether the token never expires.
    """

    client_name: str = "client"
    token_name: str | None = None
    scopes: tuple[str, ...] = ()
    team_names: tuple[str, ...] = ()
    all_teams: bool | None = None
    expires_in_days: int | None = None
    never_expires: bool | None = None

    def __post_init__(self) -> None:
        for name in ("scopes", "team_names"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        for name in ("client_name", "token_name", "all_teams", "expires_in_days", "never_expires"):
            if not _can_be_sent(getattr(self, name)):
                raise InvalidArgumentError(f"Invalid value of {name}: {getattr(self, name)!r}.")
        unknown = [scope for scope in self.scopes if scope.upper() not in AVAILABLE_SCOPES]
        if unknown:
            raise InvalidScopesError(
                f"DVC Studio has no such scopes: {', '.join(map(repr, unknown))}.",
                hint=f"Ask for some of {', '.join(AVAILABLE_SCOPES)}.",
            )
        if self.all_teams is False and not self.team_names:
            raise InvalidArgumentError(
                "all_teams=False needs team_names, or the token is for no team."
            )

    def body(self) -> dict[str, Any]:
        """Return the request's body: the client's name, and every argument that was given."""
        body: dict[str, Any] = {"client_name": self.client_name}
        if self.token_name:
            body["token_name"] = self.token_name
        if self.scopes:
            body["scopes"] = list(self.scopes)
        if self.team_names:
            body["team_names"] = list(self.team_names)
        for name in ("all_teams", "expires_in_days", "never_expires"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


@dataclass(frozen=True, slots=True)
class Studio:
    """A DVC Studio server.

    Args:
        url: The server's URL.
        allow_http: Whether to allow plain http to another machine, as on a private network. By
            default as the environment says (`DEVICEFLOW_ALLOW_HTTP=1`).

    Raises:
        InsecureURLError: The URL is not safe to send a login to.
        InvalidScopesError: A scope is unknown.
        InvalidArgumentError: An argument cannot be sent, or `all_teams=False` without teams.
    """

    url: str = DEFAULT_URL
    allow_http: bool = field(default_factory=http_allowed)
    request: StudioRequest = StudioRequest()

    # Without annotations, a dataclass does not take these for fields. pyright refuses a `ClassVar`
    # where the protocol has a property.
    dialect = "studio"
    client_id = None
    uses_pkce = False
    can_refresh = False
    replay_window = 0.0
    ends_old_token = False
    invalid_token_statuses = (401,)
    keep_id_token = False
    # Studio does not check the interval and has no slow_down, so there is no margin.
    first_wait = 0.0
    margin = 0.0

    def __post_init__(self) -> None:
        endpoint(self.url, allow_http=self.allow_http)
        if not isinstance(self.request, StudioRequest):
            object.__setattr__(self, "request", StudioRequest(**self.request))

    @property
    def server(self) -> str:
        """The server's URL."""
        return self.url

    @property
    def client_name(self) -> str:
        """The program's name, which Studio shows to the person."""
        return self.request.client_name

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that the login asks for, as given."""
        return self.request.scopes

    def for_grant(self) -> Self:
        """Return the same server: it has no refresh tokens."""
        return self

    def with_request(self, **request: Unpack[LoginRequest]) -> Self:
        """Return the same server with what one login asks for.

        Args:
            **request: `client_name`, `token_name`, `scopes`, `team_names`, `all_teams`,
                `expires_in_days`, `never_expires`, with the meaning of Studio's API.

        Raises:
            UsageError: Studio has no such argument.
        """
        if unknown := request.keys() - StudioRequest.__slots__:
            raise UsageError(
                f"Unknown argument of a DVC Studio login: {', '.join(sorted(unknown))}.",
                hint=f"Valid arguments are {', '.join(StudioRequest.__slots__)}.",
            )
        if not request:
            return self
        options: dict[str, Any] = dict(request)
        return replace(self, request=replace(self.request, **options))

    def metadata_urls(self) -> tuple[str, ...]:
        """Return nothing: Studio has no metadata."""
        return ()

    well_known_urls = metadata_urls

    def with_metadata(self, metadata: Fields) -> Self:  # noqa: ARG002
        """Return the same provider."""
        return self

    def check_requests(self, metadata: Fields, token: Token) -> tuple[()]:  # noqa: ARG002
        """Return nothing: Studio cannot be asked about a token."""
        return ()

    def read_check(self, request: Request, response: Response) -> bool | None:  # noqa: ARG002
        """Return nothing: Studio is not asked."""
        return None

    def code_request(
        self,
        verifier: Secret | None = None,  # noqa: ARG002
        purpose: str | None = None,
    ) -> Request:
        """Return the request for a device code.

        Studio does not accept a purpose. A server on this machine is the local one, which does.
        """
        base = urlsplit(self.url)
        path = f"{base.path.rstrip('/')}/api/device-login"
        url = urlunsplit((base.scheme, base.netloc, path, "", ""))
        body = self.request.body()
        if purpose and is_loopback(base.hostname or ""):
            body["purpose"] = purpose
        return Request("code", url, _HEADERS, json.dumps(body).encode())

    def read_code(self, response: Response) -> Answer:
        """Return the meaning of Studio's response to `code_request`."""
        fields = response.fields()
        if response.status != 200 or fields is None:
            return DIALECT.classify(response, fields)
        code, user_code = fields.text("device_code"), fields.text("user_code")
        page, token_endpoint = fields.text("verification_uri"), fields.text("token_uri")
        if not (code and user_code and page and token_endpoint):
            return Answer("refused", reason=Reason.PROTOCOL, error="a part of the code is missing")
        if problem := problem_with(
            code, user_code, verification_uri=page, token_uri=token_endpoint
        ):
            return Answer("refused", reason=Reason.PROTOCOL, error=problem)
        known = SecretMatcher(Secret(code))
        if problem := self._problem_with(token_endpoint, known):
            return Answer("refused", reason=Reason.PROTOCOL, error=problem)
        # The login continues without a verification page: the person may know its URL.
        shown = link(page, known)
        name, codes = fields.text("token_name"), SecretMatcher(Secret(code), user_code=user_code)
        return Answer(
            "issued",
            code=DeviceCode(
                device_code=Secret(code),
                user_code=PersonText(user_code, LONGEST_USER_CODE),
                verification_uri=shown,
                verification_uri_complete=shown and link(with_query(page, code=user_code), known),
                token_endpoint=token_endpoint,
                interval=number(fields.get("interval"), DEFAULT_INTERVAL, low=1, high=3600),
                expires_in=number(fields.get("expires_in"), _LIFETIME, low=1, high=_LONGEST),
                extra=(("token_name", CleanText(name, codes) if name else None),),
            ),
        )

    def _problem_with(self, token_endpoint: str, known: SecretMatcher) -> str | None:
        """Return why a token endpoint is refused, in a message that does not quote its URL."""
        try:
            endpoint(token_endpoint, allow_http=self.allow_http, server=self.url)
        except InsecureURLError:
            return (
                "token_uri is not an https URL, or is on this machine; allow_http=True would"
                " allow http"
            )
        return "token_uri contains the device code" if known.found_in(token_endpoint) else None

    def token_request(
        self,
        token_endpoint: str,
        device_code: Secret,
        verifier: Secret | None = None,  # noqa: ARG002
    ) -> Request:
        """Return the request that polls for the token."""
        body = f'{{"code": {json.dumps(device_code.reveal())}}}'.encode()
        return Request("token", token_endpoint, _HEADERS, body)

    def read_token(self, response: Response, now: float = 0.0) -> Answer:  # noqa: ARG002
        """Return the meaning of Studio's response to `token_request`."""
        fields = response.fields()
        token = fields.text("access_token") if fields and response.status == 200 else None
        if token is None:
            return DIALECT.classify(response, fields)
        if problem := ill_formed(access_token=token):
            return Answer("retry", error=problem, unreadable=True, in_doubt=True)
        return Answer("issued", token=Token(Secret(token)))

    def wrong_approver(self, claims: Fields | None) -> None:
        """Return None: Studio sends no id token, and these settings require nobody."""

    def revocation_request(self, token: Secret, hint: str) -> None:
        """Return nothing: Studio's tokens can be revoked in its settings only."""

    def refresh_request(self, token: Token) -> Request:  # noqa: ARG002
        """Raise `UsageError`: Studio has no refresh tokens."""
        raise UsageError("DVC Studio does not refresh tokens.", hint="Log in again.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return {"dialect": self.dialect} | asdict(self)
