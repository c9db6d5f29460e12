"""A table of each datum of a login or a grant: who may see it, and where. Tests check it.

A *secret* appears in memory, in requests to its server, in sealed form, and where the caller asks
for it. Data *for the person* is shown to the person who logs in, and is not logged. *Public* data
may be logged and stored; text from a server is cleaned first.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Sensitivity(StrEnum):
    """Who may see a datum."""

    SECRET = "secret"  # noqa: S105  # a word
    PERSON = "for the person"
    PUBLIC = "public"


class Place(StrEnum):
    """Where a datum may appear.

    `ROW` is the part of a stored row, or of an exported login, that is not sealed. `ARGUMENT` is
    the command line of this or another process. `BROKER` is a message queue. `PROMPT` is output
    for the person, or output that a command was asked for.
    """

    LOG = "log"
    TRAIL = "trail"
    EXCEPTION = "exception"
    ROW = "row"
    ARGUMENT = "arguments"
    BROKER = "broker"
    PROMPT = "prompt"


class Datum(NamedTuple):
    """One datum.

    Attributes:
        name: The datum's name in the documentation.
        sensitivity: Who may see it.
        places: Where it may appear.
        fields: Where it is in the code: attributes of `Flow`, `Login`, `Grant`, `GrantView`,
            `AccessToken`, `DeviceCode` and `Token`, fields of events, options and environment
            variables.
        note: An explanation.
    """

    name: str
    sensitivity: Sensitivity
    places: frozenset[Place]
    fields: tuple[str, ...]
    note: str = ""


SECRET, PERSON, PUBLIC = Sensitivity
LOG, TRAIL, EXCEPTION, ROW, ARGUMENT, BROKER, PROMPT = Place

_NOWHERE: Final = frozenset[Place]()
_RECORDED: Final = frozenset({LOG, TRAIL, EXCEPTION, ROW, BROKER, PROMPT})
_EVERYWHERE: Final = frozenset(Place)


def _fields(prefix: str, names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names.split())


DATA: Final = (
    # Secrets.
    Datum(
        "device code",
        SECRET,
        _NOWHERE,
        ("flow.device_code", "code.device_code"),
        "as good as the token until it is used",
    ),
    Datum("PKCE verifier", SECRET, _NOWHERE, ("flow.verifier",)),
    Datum(
        "access token",
        SECRET,
        _NOWHERE,
        (
            *_fields("flow", "token to_revoke"),
            *_fields("grant", "token to_revoke aside replaced"),
            *("token.access_token", "access_token.access_token"),
        ),
        "printed where `--show-token`, `token` or `export-env` asks for it",
    ),
    Datum("refresh token", SECRET, _NOWHERE, ("token.refresh_token",)),
    Datum("id token", SECRET, _NOWHERE, ("token.id_token", "access_token.id_token")),
    Datum(
        "other fields of the token response",
        SECRET,
        _NOWHERE,
        ("token.extra",),
        "not cleaned: it is for the program",
    ),
    Datum(
        "sealed part of a row",
        SECRET,
        _NOWHERE,
        ("flow.as_stored", "grant.as_stored"),
        "as stored; in clear in a plaintext store",
    ),
    Datum(
        "client secret",
        SECRET,
        _NOWHERE,
        ("variable.DEVICEFLOW_CLIENT_SECRET",),
        "settings and rows have a reference: `env:NAME`, `file:PATH`",
    ),
    Datum("private key", SECRET, _NOWHERE, ("variable.DEVICEFLOW_PRIVATE_KEY",), "likewise"),
    Datum("sealing keys", SECRET, _NOWHERE, ("variable.DEVICEFLOW_KEYS",)),
    Datum("audit key", SECRET, _NOWHERE, ("variable.DEVICEFLOW_AUDIT_KEY",)),
    Datum("signing key", SECRET, _NOWHERE, ("variable.DEVICEFLOW_AUDIT_SIGNING_KEY",)),
    Datum(
        "database password",
        SECRET,
        _NOWHERE,
        ("variable.DEVICEFLOW_STORE", "variable.PGPASSWORD"),
        "refused in a command-line argument",
    ),
    Datum(
        "link of a need",
        SECRET,
        _NOWHERE,
        ("grant.need", "grant.outage", "grant.untold"),
        "told to `notify`; whoever has the link can request a code; the row has a hash of it, and"
        " the link sealed",
    ),
    Datum(
        "URL to notify",
        SECRET,
        _NOWHERE,
        ("variable.DEVICEFLOW_NOTIFY",),
        "a webhook's URL is a secret: logs and errors have its host only",
    ),
    # For the person.
    Datum(
        "user code",
        PERSON,
        frozenset({ROW, PROMPT}),
        ("flow.user_code", "login.user_code", "code.user_code"),
        "the trail has a keyed fingerprint of it",
    ),
    Datum(
        "verification link",
        PERSON,
        frozenset({ROW, PROMPT, ARGUMENT}),
        ("flow.verification_uri", "login.verification_uri", "code.verification_uri"),
        "an argument of the browser",
    ),
    Datum(
        "complete verification link",
        PERSON,
        frozenset({ROW, PROMPT, ARGUMENT}),
        (
            "flow.verification_uri_complete",
            "login.verification_uri_complete",
            "code.verification_uri_complete",
        ),
        "likewise; it contains the user code",
    ),
    # Public.
    Datum(
        "id of the login, of the grant, of the need",
        PUBLIC,
        _EVERYWHERE,
        (
            *("flow.id", "login.id", "grant.id", "grant.flow_id"),
            *_fields("view", "id login_id need_id"),
            *_fields("event", "event_id flow_id"),
        ),
    ),
    Datum(
        "name of the login, of the grant",
        PUBLIC,
        _EVERYWHERE,
        ("flow.name", "login.name", "grant.name", "view.name", "event.name"),
        "the name that the caller gives it",
    ),
    Datum(
        "state, reason and counts",
        PUBLIC,
        _RECORDED,
        (
            *_fields(
                "flow",
                "state reason seq attempt failures unreadable slow_downs in_doubt last_poll_owed"
                " driver reserved skipped"
                " handover orphaned_tokens revocations settings needs_approver",
            ),
            *_fields(
                "login",
                "state reason attempt failures in_doubt handover orphaned_tokens revocations"
                " needs_approver",
            ),
            *_fields(
                "event",
                "schema seq action from to outcome reason attempt http_status in_doubt generation",
            ),
            *_fields(
                "grant",
                "state reason seq generation attempt replays failures refusals invalid ends_old"
                " revocations needs_approver",
            ),
            *_fields(
                "view",
                "state reason invalid generation refreshable revocations need_notified unanswered",
            ),
            "access_token.generation",
            "token.possibly_revoked",
        ),
    ),
    Datum(
        "times",
        PUBLIC,
        _RECORDED,
        (
            *_fields("flow", "created_at ended_at expires_at due_at moved_at interval"),
            *_fields("login", "created_at ended_at expires_at wait_seconds interval"),
            *_fields("code", "interval expires_in"),
            *_fields("event", "time interval wait duration clock_ahead expires_at"),
            *_fields(
                "grant",
                "created_at ended_at moved_at issued_at sent_at window_at due_at refused_at",
            ),
            *_fields("grant", "issued_clock issued_uptime sent_clock sent_uptime token_ahead"),
            "flow.clock_ahead",
            *_fields("view", "created_at expires_at used_at need_since unanswered_since"),
            "access_token.expires_at",
            "token.expires_at",
        ),
    ),
    Datum(
        "the server's message",
        PUBLIC,
        _RECORDED,
        ("flow.detail", "login.detail", "grant.detail", "view.detail", "event.detail"),
        "cleaned, at most 200 characters, without secrets in any spelling",
    ),
    Datum(
        "server, client, provider's settings",
        PUBLIC,
        _EVERYWHERE,
        (
            "flow.provider",
            "login.provider",
            *("grant.asked", "grant.provider", "view.provider"),
            "access_token.invalid_token_statuses",
            *_fields("event", "dialect issuer client_id client_name scopes"),
        ),
    ),
    Datum(
        "purpose of the login",
        PUBLIC,
        _EVERYWHERE,
        ("flow.purpose", "login.purpose", "grant.purpose", "view.purpose", "event.purpose"),
        "the program's own words",
    ),
    Datum(
        "token endpoint",
        PUBLIC,
        frozenset({EXCEPTION, ROW, ARGUMENT}),
        ("flow.token_endpoint", "login.token_endpoint", "code.token_endpoint"),
        "with plain http, host and port are logged",
    ),
    Datum(
        "granted scopes, token type",
        PUBLIC,
        _RECORDED,
        (
            *_fields("token", "scopes missing_scopes token_type"),
            *_fields("access_token", "scopes token_type"),
            *("view.scopes", "event.granted_scopes"),
        ),
        "cleaned likewise; at most 100 scopes",
    ),
    Datum(
        "subject of the grant",
        PUBLIC,
        frozenset({LOG, TRAIL, ROW, PROMPT}),
        ("grant.subject", "view.subject", "token.subject", "event.subject"),
        "whose tokens they are, as the id token says; cleaned, or its SHA-256. A setting keeps it"
        " out of events",
    ),
    Datum(
        "token name",
        PUBLIC,
        frozenset({ROW, PROMPT}),
        ("flow.extra", "login.extra", "code.extra"),
        "cleaned likewise",
    ),
    Datum(
        "origin",
        PUBLIC,
        frozenset({LOG, TRAIL, ROW, PROMPT}),
        _fields("event", "worker host pid engine task task_id actor"),
    ),
    Datum(
        "address of a need's page's visitor",
        PUBLIC,
        frozenset({LOG, TRAIL, ROW, PROMPT}),
        ("event.address",),
        "where a code was requested; a setting keeps it out of events",
    ),
    Datum(
        "evidence",
        PUBLIC,
        frozenset({LOG, TRAIL, ROW, PROMPT}),
        (
            *_fields("flow", "head omitted"),
            "grant.head",
            *_fields(
                "event",
                "row_digest token_fingerprint previous_fingerprint code_fingerprint key_id"
                " omitted prev_hash hash mac",
            ),
        ),
        "fingerprints are keyed",
    ),
)
"""All data of a login."""
