"""Any server with the OAuth device authorization grant (RFC 8628).

A `Dialect` says how a provider differs from the standard.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, Unpack, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

from deviceflow._environment import http_allowed
from deviceflow.core.provider import (
    LONGEST_USER_CODE,
    Answer,
    DeviceCode,
    Pairs,
    Token,
    ill_formed,
    problem_with,
)
from deviceflow.core.sanitize import endpoint, number, printable, with_query
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason
from deviceflow.core.suggest import did_you_mean
from deviceflow.core.text import (
    NOTHING,
    CleanText,
    PersonText,
    SecretMatcher,
    cleaned,
    link,
    trusted,
)
from deviceflow.core.wire import ClientAuth, Fields, Request, is_token_refused
from deviceflow.errors import InsecureURLError, InvalidArgumentError, ProtocolError, UsageError
from deviceflow.providers import idtoken
from deviceflow.providers.dialect import RFC8628, Dialect, read_dialect, taking_purpose

if TYPE_CHECKING:
    from deviceflow.core.provider import LoginRequest
    from deviceflow.core.wire import Response

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]

_O = TypeVar("_O", bound="OAuth")

_LIFETIME: Final = 900.0
_LONGEST: Final = 30 * 86400.0
_REFERENCE: Final = re.compile(r"(env|file|profile):.+", re.DOTALL)
_KNOWN_TOKEN_FIELDS: Final = frozenset(
    {"access_token", "expires_in", "id_token", "refresh_token", "scope", "token_type"}
)
_REQUEST: Final = ("audience", "parameters", "require", "resource", "scopes")


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """An OAuth or OpenID provider with the device authorization grant.

    Give either `issuer`, whose metadata names the endpoints, or both endpoints. With both, the
    endpoints count, on whatever host they are: `issuer` is shown and recorded, and checked in the
    id token. The caller vouches that they belong together.

    Args:
        client_id: The client id, as registered with the server.
        issuer: The issuer's URL. Its metadata is fetched when a login starts (RFC 8414, OpenID
            Connect Discovery).
        device_authorization_endpoint: The URL for device authorization requests (RFC 8628 section
            3.1).
        token_endpoint: The URL for token requests.
        revocation_endpoint: The URL for revocation requests (RFC 7009).
        client_secret: A reference to the client's secret: `env:NAME`, `file:PATH` or
            `profile:NAME`. Never the secret itself, because these settings are stored.
        private_key: A reference to the client's private key, likewise, for `private_key_jwt` (RFC
            7523): PEM or a JSON Web Key. Needs the extra `oauth`.
        client_auth: How the client authenticates. By default as the dialect says if there is a
            secret, by `private_key_jwt` if there is a key, else not at all.
        scopes: The scopes to ask for: a list, or one string with spaces.
        audience: Who the token is for, if the server needs to know.
        resource: Where the token will be used (RFC 8707): one URL or several.
        parameters: Additional parameters of the device authorization request.
        pkce: Whether to use PKCE (RFC 7636, S256): `on`, `off`, or `auto`, which uses PKCE if the
            dialect says that the server accepts it.
        offline: Whether the login of a grant asks for the scope that a refresh token needs: `off`;
            `on`, by default `offline_access`; or `auto`, if the dialect says that one is needed,
            and the login asks for other scopes. Without scopes, the server chooses.
        refresh_ends_token: Whether a refresh ends the access token that it replaces. By default as
            the dialect says; and if it does not say, a grant learns it from the first refusal.
        keep_id_token: Whether a grant keeps the id token of its last login or refresh, sealed, for
            web identity such as AWS's or Kubernetes'. A login needs the scope `openid` for one.
        require: Who must approve: required values of id token claims, such as
            `{"email": "a@example.com"}`, `sub`, or `tenant`.
        allow_http: Whether to allow plain http to another machine. By default as the environment
            says (`DEVICEFLOW_ALLOW_HTTP=1`).
        name: The provider's name in `deviceflow providers list`, or any other name.
        quirks: How the provider differs from RFC 8628.

    Raises:
        UsageError: A setting is missing or invalid, or two contradict each other.
        InsecureURLError: A URL is not safe to send a login to.
    """

    client_id: str
    issuer: str | None = None
    device_authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    client_secret: str | None = field(default=None, repr=False)  # a secret, by mistake
    private_key: str | None = field(default=None, repr=False)  # a secret, by mistake
    client_auth: AuthMethod | None = None
    scopes: Sequence[str] = ()
    audience: str | None = None
    resource: Sequence[str] = ()
    parameters: Pairs = ()
    pkce: Literal["auto", "on", "off"] = "auto"
    offline: Literal["auto", "on", "off"] = "auto"
    refresh_ends_token: bool | None = None
    keep_id_token: bool = False
    require: Pairs = ()
    allow_http: bool = field(default_factory=http_allowed)
    name: str = "rfc8628"
    quirks: Dialect = RFC8628

    # As in `Studio`, these are not fields.
    can_refresh = True
    client_name = None
    first_wait = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "scopes", _texts("scopes", self.scopes))
        set_field(self, "resource", _texts("resource", self.resource))
        set_field(self, "parameters", _pairs(self.parameters))
        set_field(self, "require", _pairs(self.require))
        self._check()

    def _check(self) -> None:
        if not (self.issuer or (self.device_authorization_endpoint and self.token_endpoint)):
            raise UsageError(
                "No server to log in to is given.",
                hint="Give issuer, or both device_authorization_endpoint and token_endpoint.",
            )
        server = self.issuer or self.device_authorization_endpoint
        for key in PLACES:
            if (url := getattr(self, key)) is not None:
                named_by = None if url == server else server
                endpoint(url, allow_http=self.allow_http, server=named_by, setting=key)
        for name in ("pkce", "offline"):
            if (value := getattr(self, name)) not in ("auto", "on", "off"):
                raise UsageError(f"{name} must be 'auto', 'on' or 'off', not {value!r}.")
        self._check_client()

    def _check_client(self) -> None:
        if not self.client_id:
            raise UsageError(
                "No client id is given.",
                hint="Register a client with the server, and give its id as client_id.",
            )
        for what in ("client_secret", "private_key"):
            reference = getattr(self, what)
            if reference is not None and not _REFERENCE.fullmatch(reference):
                raise UsageError(
                    f"{what} must be a reference, because these settings are stored in clear.",
                    hint=f"Say where the {what.replace('_', ' ')} is: {what}='env:NAME' or"
                    " 'file:PATH'.",
                )
        if self.quirks.needs_secret and not (self.client_secret or self.private_key):
            raise UsageError(
                f"{self.quirks.title} needs a client secret as well as the client id.",
                hint="Say where it is: client_secret='env:NAME' or 'file:PATH'.",
            )
        method = self.authentication.method
        if method not in get_args(AuthMethod):
            raise UsageError(f"client_auth must be one of {', '.join(get_args(AuthMethod))}.")
        if method != "none" and not self.authentication.reference:
            needed = "private_key" if method == "private_key_jwt" else "client_secret"
            raise UsageError(
                f"client_auth={method!r} needs a {needed}.",
                hint=f"Say where it is: {needed}='env:NAME' or 'file:PATH'.",
            )

    @classmethod
    def named(cls, name: str, entry: Dialect, **settings: Any) -> Self:
        """Return the provider that an entry describes.

        Args:
            name: The entry's name.
            entry: The entry.
            **settings: This class's arguments, and the entry's own parameters. URLs must be on the
                entry's server.

        Raises:
            UsageError: A required parameter is missing, a setting is unknown, or a URL is of
                another server.
        """
        parameters = {
            key: settings.pop(key, None) or default for key, default in entry.parameters.items()
        }
        names = {one.name for one in fields_of(cls)}
        if unknown := settings.keys() - names:
            raise UsageError(
                f"{entry.title} has no setting {', '.join(sorted(unknown))}.",
                hint=did_you_mean(min(unknown), [*parameters, *names])
                + f"Its own parameters are: {', '.join(parameters) or 'none'}.",
            )
        missing = [key for key, value in parameters.items() if not value]
        if missing:
            raise UsageError(
                f"{entry.title} needs {', '.join(missing)}.",
                hint=f"Pass {', '.join(f'{key}=…' for key in missing)}; or on the command line: "
                + " ".join(f"--set {key}=…" for key in missing),
            )
        where = {
            key: pattern.format(**parameters)
            for key in PLACES
            if (pattern := getattr(entry, key)) is not None
        }
        if (key := elsewhere(where.values(), settings)) is not None:
            raise UsageError(
                f"{entry.title} is at {origin_of(next(iter(where.values())))}, and {key} is on"
                f" another server: {origin_of(settings[key])}.",
                hint=f"Omit {key}, or use OAuth(…) with all URLs of that server.",
            )
        return cls(name=name, quirks=entry, **({"client_id": ""} | where | settings))

    @property
    def dialect(self) -> str:
        """The provider's name."""
        return self.name

    @property
    def server(self) -> str:
        """The issuer, or the origin of the token endpoint."""
        if self.issuer is not None:
            return self.issuer
        parts = urlsplit(self.token_endpoint or "")
        return urlunsplit((parts.scheme, parts.netloc, "", "", ""))

    @property
    def margin(self) -> float:
        """Seconds added to the interval."""
        return self.quirks.margin

    @property
    def uses_pkce(self) -> bool:
        """Whether a login has a PKCE verifier."""
        return self.pkce == "on" or (self.pkce == "auto" and self.quirks.pkce)

    @property
    def replay_window(self) -> float:
        """Seconds for which the server answers the same refresh again; infinite for always."""
        return inf if self.quirks.rotation in ("never", "lenient") else self.quirks.replay_window

    @property
    def ends_old_token(self) -> bool | None:
        """Whether a refresh ends the access token that it replaces; None if nobody says."""
        said = self.refresh_ends_token
        return (self.quirks.refresh_ends_token or None) if said is None else said

    @property
    def invalid_token_statuses(self) -> tuple[int, ...]:
        """The HTTP statuses by which a server says that the access token is not valid."""
        return self.quirks.invalid_token_statuses

    @property
    def authentication(self) -> ClientAuth:
        """How the client authenticates."""
        method: AuthMethod = "none"
        if self.client_auth is not None:
            method = self.client_auth
        elif self.private_key:
            method = "private_key_jwt"
        elif self.client_secret:
            method = self.quirks.client_auth
        references = {"none": None, "private_key_jwt": self.private_key}
        reference = references.get(method, self.client_secret)
        return ClientAuth(method, self.client_id, reference, self.token_endpoint or "")

    def with_request(self, **request: Unpack[LoginRequest]) -> Self:
        """Return the same provider with what one login asks for.

        Args:
            **request: `scopes`, `audience`, `resource`, `parameters`, `require`. They replace the
                provider's own.

        Raises:
            UsageError: An argument is unknown, or one that the provider requires is missing.
        """
        if unknown := request.keys() - {*_REQUEST}:
            raise UsageError(
                f"Unknown argument of an OAuth login: {', '.join(sorted(unknown))}.",
                hint=f"Valid arguments are {', '.join(_REQUEST)}.",
            )
        options: dict[str, Any] = dict(request)
        asked = replace(self, **options) if options else self
        if missing := [name for name in self.quirks.requires if not getattr(asked, name, None)]:
            raise UsageError(
                f"{self.quirks.title} needs {', '.join(missing)}.",
                hint=f"Pass {', '.join(f'{name}=…' for name in missing)}; or on the command line: "
                + " ".join(f"--{name.replace('_', '-')} …" for name in missing),
            )
        return asked

    def for_grant(self) -> Self:
        """Return the same provider, asking for a refresh token as well, as `offline` says."""
        scope = self.quirks.refresh_scope
        if self.offline == "on":
            scope = scope or "offline_access"
        elif self.offline == "off" or not self.scopes:
            return self
        return self if scope is None or scope in self.scopes else _asking_for(self, scope)

    # Discovery.

    def metadata_urls(self) -> tuple[str, ...]:
        """Return the URLs where the metadata may be, in order; none if it is not needed.

        RFC 8414 inserts the well-known part before the issuer's path, OpenID Connect after it.
        """
        needless = self.device_authorization_endpoint and self.token_endpoint
        return () if needless else self.well_known_urls()

    def well_known_urls(self) -> tuple[str, ...]:
        """Return the same URLs, even if the metadata is not needed; none without an issuer."""
        if self.issuer is None:
            return ()
        parts = urlsplit(self.issuer)
        path = parts.path.rstrip("/")
        return tuple(
            urlunsplit(parts._replace(path=where))
            for where in (
                f"{path}/.well-known/openid-configuration",
                f"/.well-known/oauth-authorization-server{path}",
            )
        )

    def with_metadata(self, metadata: Fields) -> Self:
        """Return the same provider with the endpoints that its metadata names.

        Raises:
            ProtocolError: The metadata is for another issuer, or does not offer the device grant.
        """
        issuer = metadata.text("issuer")
        pattern = self.quirks.issuer if self.quirks.issuer_template else None
        if issuer != self.issuer and not (pattern and issuer and _is_issuer_of(pattern, issuer)):
            raise ProtocolError(
                f"The metadata is of another issuer: {CleanText(str(issuer), NOTHING)!r}, not"
                f" {self.issuer!r}.",
                hint="Give the issuer exactly as the server spells it, including a trailing slash.",
            )
        found: dict[str, Any] = {
            key: getattr(self, key) or metadata.text(key) for key in PLACES if key != "issuer"
        }
        if not found["device_authorization_endpoint"] or not found["token_endpoint"]:
            raise ProtocolError(
                f"{self.issuer} does not offer the device grant: its metadata has no"
                " device_authorization_endpoint.",
                hint="Enable the device grant at the server, or give the full URL of the"
                " device_authorization_endpoint.",
            )
        if metadata.get("deviceflow_purpose_supported") is True:
            found["quirks"] = taking_purpose(self.quirks)
        try:
            return replace(self, **found, issuer=issuer)
        except InsecureURLError as unsafe:
            problem = unsafe.message
        raise ProtocolError(f"The metadata of {self.issuer} cannot be used: {problem}")

    # Requests and responses.

    def code_request(self, verifier: Secret | None = None, purpose: str | None = None) -> Request:
        """Return the device authorization request (RFC 8628 section 3.1)."""
        asked: dict[str, Any] = {
            "scope": self._scope(),
            "audience": self.audience,
            "resource": tuple(self.resource),
        }
        if verifier is not None:
            asked |= {
                "code_challenge": _challenge(verifier),
                "code_challenge_method": "S256",
            }
        parameters = self.quirks.asked(asked) | dict(self.quirks.code_parameters)
        if purpose and self.quirks.purpose_parameter:
            parameters[self.quirks.purpose_parameter] = purpose
        url = self.device_authorization_endpoint or ""
        return self._request("code", url, parameters | dict(self.parameters))

    def read_code(self, response: Response) -> Answer:
        """Return the meaning of the response to `code_request` (RFC 8628 section 3.2)."""
        fields, quirks = response.fields(), self.quirks
        if fields is None or quirks.error(fields) or response.status >= 300:
            return quirks.classify(response, fields, polled=False)
        code, user_code = quirks.text("device_code", fields), quirks.text("user_code", fields)
        page = quirks.text("verification_uri", fields) or fields.text("verification_url")
        complete = quirks.text("verification_uri_complete", fields)
        if not (code and user_code and page):
            return Answer("refused", reason=Reason.PROTOCOL, error="a part of the code is missing")
        if problem := problem_with(
            code,
            user_code,
            response.credential,
            verification_uri=page,
            verification_uri_complete=complete,
        ):
            return Answer("refused", reason=Reason.PROTOCOL, error=problem)
        known = SecretMatcher(Secret(code))
        shown = link(page, known)
        if shown is None:
            return Answer("refused", reason=Reason.PROTOCOL, error=_NO_LINK)
        if complete is None and quirks.complete_parameter:
            complete = with_query(page, **{quirks.complete_parameter: user_code})
        interval, life = quirks.answered("interval", fields), quirks.answered("expires_in", fields)
        return Answer(
            "issued",
            code=DeviceCode(
                device_code=Secret(code),
                token_endpoint=self.token_endpoint or "",
                user_code=PersonText(user_code, LONGEST_USER_CODE),
                verification_uri=shown,
                verification_uri_complete=link(complete, known),
                interval=number(interval, quirks.interval, low=1, high=3600),
                expires_in=number(life, _LIFETIME, low=1, high=_LONGEST),
            ),
        )

    def token_request(
        self, token_endpoint: str, device_code: Secret, verifier: Secret | None = None
    ) -> Request:
        """Return the token request (RFC 8628 section 3.4)."""
        asked: dict[str, Any] = {
            "grant_type": GRANT_TYPE if self.quirks.sends_grant_type else None,
            "device_code": device_code.reveal(),
            "scope": self._scope() if self.quirks.token_scope else None,
            "resource": tuple(self.resource),
        }
        if verifier is not None:
            asked["code_verifier"] = verifier.reveal()
        parameters = self.quirks.asked(asked) | dict(self.quirks.token_parameters)
        return self._request("token", token_endpoint, parameters)

    def read_token(self, response: Response, now: float = 0.0) -> Answer:
        """Return the meaning of the response to `token_request` (RFC 8628 section 3.5)."""
        fields, quirks = response.fields(), self.quirks
        token = quirks.text("access_token", fields) if fields and response.status < 300 else None
        if fields and token is not None:
            problem = ill_formed(
                access_token=token, refresh_token=quirks.text("refresh_token", fields)
            )
            if problem:
                return Answer("retry", error=problem, unreadable=True, in_doubt=True)
        if fields is None or token is None:
            answer = quirks.classify(response, fields)
            if answer.outcome == "slow_down" and fields:
                wanted = number(quirks.answered("interval", fields), 0, low=0, high=3600)
                return replace(answer, interval=wanted)
            return answer
        return self._issued(Secret(token), fields, now)

    def _issued(self, access_token: Secret, fields: Fields, now: float) -> Answer:
        quirks = self.quirks
        life = number(quirks.answered("expires_in", fields), -1, low=0, high=_FOREVER)
        refresh, id_token = quirks.text("refresh_token", fields), quirks.text("id_token", fields)
        granted = _granted(quirks.answered("scope", fields))
        known = {quirks.answer_names.get(name, name) for name in _KNOWN_TOKEN_FIELDS}
        token = Token(
            access_token,
            token_type=trusted(quirks.text("token_type", fields) or "Bearer"),
            expires_at=None if life < 0 else now + life,
            refresh_token=Secret(refresh) if refresh else None,
            scopes=None if granted is None else cleaned(granted, NOTHING),
            missing_scopes=cleaned(
                (s for s in self.scopes if granted is not None and s not in granted), NOTHING
            ),
            id_token=Secret(id_token) if id_token else None,
            extra=Fields({name: fields.get(name) for name in fields if name not in known}),
        )
        claims = idtoken.claims_of(id_token) if id_token else None
        problem = None
        if id_token:
            problem = "the id token cannot be read"
        if claims is not None:
            problem = idtoken.problem_with(
                claims, issuer=self.issuer, client_id=self.client_id, now=now
            )
        if problem and problem != idtoken.EXPIRED:
            return Answer("issued", token=token, rejection=(Reason.PROTOCOL, trusted(problem)))
        expired = (Reason.PROTOCOL, trusted(problem)) if problem else None
        return Answer("issued", token=token, claims=claims, rejection=expired)

    def wrong_approver(self, claims: Fields | None) -> str | None:
        """Return why the approver does not fit `require`; None if the approver does."""
        if not self.require:
            return None
        # Whoever owns a tenant can put any email address into its id tokens.
        open_to_all = "{tenantid}" in (self.issuer or "") and "tenant" not in dict(self.require)
        pinned = self.issuer is not None and not open_to_all
        return idtoken.wrong_approver(dict(self.require), claims, pinned=pinned)

    def refresh_request(self, token: Token) -> Request:
        """Return the request for the next token (RFC 6749 section 6).

        The request repeats what the dialect's `refresh_fields` say: by default `resource`, without
        which many servers issue a token for no resource, or refuse (RFC 8707 section 2.2).

        Raises:
            UsageError: The token has no refresh token, or the token endpoint is unknown.
        """
        if token.refresh_token is None or self.token_endpoint is None:
            raise UsageError(
                "This token cannot be refreshed: no refresh token came with it.",
                hint="Log in again. Many providers send a refresh token for the scope"
                " offline_access.",
            )
        repeated: dict[str, Any] = {
            "audience": self.audience,
            "resource": tuple(self.resource),
            "scope": self._scope(),
        }
        asked: dict[str, Any] = {
            "grant_type": "refresh_token",
            "refresh_token": token.refresh_token.reveal(),
        } | {name: repeated[name] for name in self.quirks.refresh_fields}
        return self._request("token", self.token_endpoint, self.quirks.asked(asked))

    def revocation_request(self, token: Secret, hint: str) -> Request | None:
        """Return the request that revokes a token (RFC 7009); None if the server has no endpoint.

        Args:
            token: The token.
            hint: `access_token` or `refresh_token`.
        """
        if self.revocation_endpoint is None:
            return None
        parameters = {"token": token.reveal(), "token_type_hint": hint}
        return self._request("revoke", self.revocation_endpoint, parameters)

    def check_requests(self, metadata: Fields, token: Token) -> tuple[Request, ...]:
        """Return the requests that ask the server whether an access token is valid, best first.

        Introspection (RFC 7662) answers for any token, but not every client may ask. The userinfo
        endpoint (OpenID Connect Core section 5.3) takes only tokens with the scope `openid`; a
        token for a certain audience is not meant for it.

        Args:
            metadata: The server's metadata.
            token: The token.
        """
        granted = self.scopes if token.scopes is None else token.scopes
        asks_userinfo = "openid" in granted and not (self.audience or self.resource)
        introspection = self._endpoint_in(metadata, "introspection_endpoint")
        userinfo = self._endpoint_in(metadata, "userinfo_endpoint") if asks_userinfo else None
        secret, requests = token.access_token.reveal(), list[Request]()
        if introspection is not None:
            parameters = {"token": secret, "token_type_hint": "access_token"}
            requests.append(self._request("introspect", introspection, parameters))
        if userinfo is not None:
            headers = {"Accept": "application/json", "Authorization": f"Bearer {secret}"}
            requests.append(Request("userinfo", userinfo, headers, b""))
        return tuple(requests)

    def _endpoint_in(self, metadata: Fields, name: str) -> str | None:
        url = metadata.text(name)
        with suppress(InsecureURLError):
            return url and endpoint(url, allow_http=self.allow_http, server=self.server)
        return None

    def read_check(self, request: Request, response: Response) -> bool | None:
        """Return whether the token is valid by a response to one of `check_requests`.

        Args:
            request: The request.
            response: The response.

        Returns:
            None if the server does not say.
        """
        if request.purpose == "introspect":
            fields = response.fields() if response.status == 200 else None
            active = fields.get("active") if fields else None
            return active if isinstance(active, bool) else None
        challenge = response.header("WWW-Authenticate")
        if is_token_refused(response.status, challenge, self.invalid_token_statuses):
            return False
        return True if response.status == 200 else None

    def _scope(self) -> str:
        return self.quirks.scope_separator.join(self.scopes)

    def _request(
        self,
        purpose: Literal["code", "token", "revoke", "introspect"],
        url: str,
        parameters: dict[str, Any],
    ) -> Request:
        auth: ClientAuth | None = self.authentication
        if self.quirks.secret_with not in ("both", purpose) and purpose in ("code", "token"):
            auth = None
        # RFC 6749 section 2.3 allows one authentication method per request. For a code, many
        # servers need the client id as a parameter all the same.
        if auth is None or purpose == "code" or auth.method != "client_secret_basic":
            parameters = {"client_id": self.client_id} | parameters
        if self.quirks.request == "json":
            return Request(purpose, url, _JSON, json.dumps(parameters).encode(), auth=auth)
        body = urlencode(parameters, doseq=True).encode()
        return Request(purpose, url, _FORM, body, auth=auth)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types. They contain references, not secrets."""
        record = {
            one.name: getattr(self, one.name)
            for one in fields_of(self)
            if one.name != "quirks" and getattr(self, one.name) not in (None, ())
        }
        for name, default in (("offline", "auto"), ("keep_id_token", False)):
            if record[name] == default:
                del record[name]
        for name in ("scopes", "resource"):
            if name in record:
                record[name] = list(record[name])
        for name in ("parameters", "require"):
            if name in record:
                record[name] = dict(record[name])
        if quirks := self.quirks.to_dict(whole=False):
            record["quirks"] = quirks
        record["dialect"] = record.pop("name")
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the provider whose `to_dict` returned `record`."""
        values = dict(record)
        name = values.pop("dialect")
        entry = values.pop("quirks", None)
        return cls(**values, name=name, quirks=read_dialect(name, entry) if entry else RFC8628)


_NO_LINK: Final = "verification_uri is not a valid http(s) URL"
_FOREVER: Final = 100 * 365 * 86400.0
PLACES: Final = (
    "issuer",
    "device_authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
)
"""The settings that say where requests go."""


def origin_of(url: object) -> str:
    """Return a URL's scheme, host and port, without a user name or password."""
    parts = urlsplit(str(url))
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower(), 200)


def elsewhere(urls: Iterable[str], settings: Mapping[str, Any]) -> str | None:
    """Return the first of `PLACES` that is on another server than the URLs; None without one.

    Without URLs, no server is named that another could differ from.
    """
    servers = {*map(origin_of, urls)}
    if not servers:
        return None
    given = (key for key in PLACES if settings.get(key) is not None)
    return next((key for key in given if origin_of(settings[key]) not in servers), None)


_JSON: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_FORM: Final = {
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}


@lru_cache(256)
def _asking_for(provider: _O, scope: str) -> _O:
    return replace(provider, scopes=(*provider.scopes, scope))


def _challenge(verifier: Secret) -> str:
    """Return the S256 code challenge (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    texts = values.split() if isinstance(values, str) else values
    try:
        texts = tuple(texts)
        "".join(texts)
    except TypeError:
        raise InvalidArgumentError(
            f"{name} must be a list of strings, or one string with spaces, not {values!r}."
        ) from None
    return texts


def _pairs(values: Pairs) -> tuple[tuple[str, str], ...]:
    pairs = values.items() if isinstance(values, Mapping) else values
    return tuple((str(name), str(value)) for name, value in pairs)


def _granted(scope: Any) -> tuple[str, ...] | None:
    """Return the granted scopes. GitHub separates them with commas, Twitch sends a list."""
    if isinstance(scope, list):
        return tuple(text for text in scope if isinstance(text, str) and text)
    return (tuple(re.findall(r"[^\s,]+", scope)) or None) if isinstance(scope, str) else None


def _is_issuer_of(pattern: str, issuer: str) -> bool:
    """Return whether `issuer` is the pattern with any tenant, or any template, in its place."""
    literal = re.split(r"\{\w+\}", pattern)
    return bool(re.fullmatch(r"(?:\{\w+\}|[\w.-]+)".join(map(re.escape, literal)), issuer))
