"""What an id token says, whether it is believed, and whom a policy takes."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.wire import Fields
from deviceflow.providers.idtoken import LEEWAY, claims_of, problem_with, wrong_approver

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW: Final = 1_800_000_000.0
ISSUER: Final = "https://as.example.com"
TEMPLATE: Final = "https://login.example.com/{tenantid}/v2.0"
CLAIMS: Final[Mapping[str, Any]] = {
    "iss": ISSUER,
    "aud": "robot",
    "sub": "alice",
    "email": "alice@example.com",
    "email_verified": True,
    "exp": NOW + 3600,
    "tid": "9f2b",
}


def token(payload: object, *, pad: bool = False) -> str:
    """Return a token whose signature is nothing: it came over TLS from its issuer."""
    part = base64.urlsafe_b64encode(
        payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    ).decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{part if pad else part.rstrip('=')}.c2ln"


def claims(**changed: Any) -> Fields:
    """Return the claims with some changed, or left out where they are `...`."""
    return Fields({k: v for k, v in ({**CLAIMS} | changed).items() if v is not ...})


def problem(said: Fields, issuer: str | None = ISSUER, client_id: str = "robot") -> str | None:
    return problem_with(said, issuer=issuer, client_id=client_id, now=NOW)


# Reading.


@pytest.mark.parametrize("payload", [{"sub": "a"}, {"sub": "ab"}, {"sub": "abc"}, {"sub": "é?>~"}])
@pytest.mark.parametrize("pad", [False, True])
def test_claims_are_read_with_padding_or_without(payload: dict[str, str], *, pad: bool) -> None:
    read = claims_of(token(payload, pad=pad))

    assert read is not None
    assert read.as_dict() == payload


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",  # encrypted, which nobody asked for
        "..",
        "a.!!!.c",
        "a.\u00e9.c",
        "a.\ud800.c",
        "a.e30=e30.c",
        token(b"\xff\xfe\xfd"),
        token(b"{"),
        token(b"[" * 100_000),
        token([]),
        token("text"),
        token(None),
        token(17),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_token_has_no_claims(garbage: str) -> None:
    assert claims_of(garbage) is None


# Believing.


def test_claims_from_the_issuer_for_the_client_are_believed() -> None:
    assert problem(claims()) is None


@pytest.mark.parametrize(
    "said",
    [
        "https://as.example.com/",
        "https://AS.example.com",
        "http://as.example.com",
        "https://as.example.com.evil.example.com",
        "https://evil.example.com",
        "",
        None,
        7,
        [ISSUER],
        ...,
    ],
)
def test_another_issuer_is_not_believed(said: Any) -> None:
    assert problem(claims(iss=said)) == "the id token is from another issuer"


@pytest.mark.parametrize("said", ["", None, 7, ...])
def test_issuer_must_be_named_even_where_it_is_not_known(said: Any) -> None:
    assert problem(claims(iss=said), issuer=None) == "the id token is from another issuer"


def test_any_issuer_will_do_where_it_is_not_known() -> None:
    assert problem(claims(iss="https://anybody.example.com"), issuer=None) is None


@pytest.mark.parametrize("audience", ["robot", ["robot"], ["robot", "other"], ["other", "robot"]])
def test_audience_is_the_client_or_a_list_with_it(audience: Any) -> None:
    azp = "robot" if len(audience) == 2 else ...

    assert problem(claims(aud=audience, azp=azp)) is None


@pytest.mark.parametrize(
    "audience", ["other", "Robot", "robot other", "", None, 7, [], ["other"], [["robot"]], {}, ...]
)
def test_another_audience_is_not_believed(audience: Any) -> None:
    assert problem(claims(aud=audience)) == "the id token is for another client"


@pytest.mark.parametrize("azp", ["other", "", None, ["robot"], ...])
def test_of_several_audiences_the_one_it_was_given_to_must_be_the_client(azp: Any) -> None:
    said = claims(aud=["robot", "other"], azp=azp)

    assert problem(said) == "the id token was issued to another client"


@pytest.mark.parametrize(
    ("exp", "believed"),
    [
        (NOW + 1, True),
        (int(NOW), True),
        (NOW - LEEWAY, True),
        (NOW - LEEWAY - 1, False),
        (0, False),
        (-1, False),
        (10**400, True),
        (-(10**400), False),
        (math.nan, False),
        (-math.inf, False),
    ],
)
def test_expiry_counts_with_some_leeway(exp: float, *, believed: bool) -> None:
    assert problem(claims(exp=exp)) == (None if believed else "the id token has expired")


@pytest.mark.parametrize("exp", [None, "1900000000", True, [NOW + 1], {}, ...])
def test_expiry_must_be_a_number(exp: Any) -> None:
    assert problem(claims(exp=exp)) == "the id token has no expiry time (exp)"


@pytest.mark.parametrize("tenant", ["9f2b", "contoso.com", "a-b_c"])
def test_template_is_filled_with_the_tenant_of_the_claims(tenant: str) -> None:
    said = claims(iss=f"https://login.example.com/{tenant}/v2.0", tid=tenant)

    assert problem(said, TEMPLATE) is None


@pytest.mark.parametrize(
    ("iss", "tenant"),
    [
        ("https://login.example.com/9f2b/v2.0", "other"),
        ("https://login.example.com/9f2b/v2.0", ...),
        ("https://login.example.com//v2.0", ""),
        ("https://login.example.com/{tenantid}/v2.0", "{tenantid}"),
        ("https://login.example.com/a/b/v2.0", "a/b"),
        ("https://login.example.com/a?x/v2.0", "a?x"),
        ("https://login.example.com/a#/v2.0", "a#"),
        ("https://login.example.com/a\n/v2.0", "a\n"),
        ("https://evil.example.com/9f2b/v2.0", "9f2b"),
        ("https://login.example.com/9f2b/v2.0/", "9f2b"),
        ("https://login.example.com/7/v2.0", 7),
    ],
)
def test_template_leads_nowhere_else(iss: str, tenant: Any) -> None:
    assert problem(claims(iss=iss, tid=tenant), TEMPLATE) == "the id token is from another issuer"


# The policy.


@pytest.mark.parametrize(
    "required",
    [
        {},
        {"sub": "alice"},
        {"email": "alice@example.com"},
        {"email": "Alice@EXAMPLE.com"},
        {"tenant": "9f2b"},
        {"tid": "9f2b"},
        {"sub": "alice", "email": "alice@example.com", "tenant": "9f2b"},
        {"department": "research"},
    ],
)
def test_whoever_is_wanted_is_taken(required: dict[str, str]) -> None:
    assert wrong_approver(required, claims(department="research"), pinned=True) is None


@pytest.mark.parametrize(
    ("required", "named"),
    [
        ({"sub": "mallory"}, "sub"),
        ({"sub": "Alice"}, "sub"),
        ({"sub": "alice "}, "sub"),
        ({"email": "mallory@example.com"}, "email"),
        ({"email": ""}, "email"),
        ({"tenant": "9F2B"}, "tenant"),
        ({"department": "research"}, "department"),
        ({"sub": "alice", "email": "mallory@example.com"}, "email"),
    ],
)
def test_whoever_is_not_wanted_is_not_taken(required: dict[str, str], named: str) -> None:
    assert wrong_approver(required, claims(), pinned=True) == f"approved by another {named}"


@pytest.mark.parametrize("said", [None, True, 7, ["alice"], {"alice": True}, ...])
def test_claim_of_another_type_is_another_one(said: Any) -> None:
    assert wrong_approver({"sub": "alice"}, claims(sub=said), pinned=True) is not None


@pytest.mark.parametrize("required", [{}, {"sub": "alice"}])
def test_without_an_id_token_nobody_is_taken(required: dict[str, str]) -> None:
    said = wrong_approver(required, None, pinned=True)

    assert said == "the server sent no id token that says who approved"


@pytest.mark.parametrize("verified", [True, "true"])
def test_email_that_the_issuer_has_verified_counts(verified: Any) -> None:
    said = claims(email_verified=verified)

    assert wrong_approver({"email": "alice@example.com"}, said, pinned=True) is None


@pytest.mark.parametrize("verified", [False, "false", "True", "yes", 1, 1.0, [True], None, ...])
def test_email_that_the_issuer_has_not_verified_counts_for_nothing(verified: Any) -> None:
    said = wrong_approver(
        {"email": "alice@example.com"}, claims(email_verified=verified), pinned=True
    )

    assert said == "approved with an email that the issuer has not verified"


def test_email_from_an_issuer_that_was_not_known_counts_for_nothing() -> None:
    assert wrong_approver({"email": "alice@example.com"}, claims(), pinned=False) is not None


def test_subject_from_an_issuer_that_was_not_known_counts() -> None:
    assert wrong_approver({"sub": "alice"}, claims(), pinned=False) is None


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("ali\u212ae@example.com", "alike@example.com"),  # the sign for kelvin
        ("\u017fam@example.com", "sam@example.com"),  # the long s
        ("alice@\uff45xample.com", "alice@example.com"),
    ],
)
def test_letters_that_fold_into_others_do_not_make_the_same_email(said: str, wanted: str) -> None:
    assert wrong_approver({"email": wanted}, claims(email=said), pinned=True) is not None
    assert wrong_approver({"email": said}, claims(email=wanted), pinned=True) is not None


def test_email_beyond_ascii_is_the_same_if_it_is_exactly_the_same() -> None:
    said = claims(email="zo\u00eb@example.com")

    assert wrong_approver({"email": "zo\u00eb@example.com"}, said, pinned=True) is None
    assert wrong_approver({"email": "ZO\u00cb@example.com"}, said, pinned=True) is not None


def test_leeway_is_minutes_and_not_hours() -> None:
    assert 30 <= LEEWAY <= 300
