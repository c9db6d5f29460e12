"""What goes out and what comes in: the texts that hold secrets, and how they are read."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.wire import MAX_BODY, MAX_DEPTH, Failure, Fields, Request, Response, read_json
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW: Final = 784_111_777.0  # RFC 9110's own example of a date


def test_request_does_not_show_its_body() -> None:
    request = Request("token", "https://s.example.com/token", {}, b'{"code": "CANARY"}')

    assert repr(request) == "<Request POST https://s.example.com/token>"


def test_response_does_not_show_its_body_or_headers() -> None:
    assert repr(Response(200, {"Set-Cookie": "CANARY"}, b"CANARY")) == "<Response 200>"


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (Failure("timeout", sent=True), "<Failure timeout, sent>"),
        (Failure("connection", sent=False), "<Failure connection, not sent>"),
    ],
)
def test_failure_says_whether_the_request_may_have_arrived(failure: Failure, shown: str) -> None:
    assert repr(failure) == shown


def test_longest_body_is_far_above_any_token() -> None:
    assert MAX_BODY == 1024 * 1024


@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_header_is_found_in_whatever_case(name: str) -> None:
    assert Response(200, {"Date": "d", "rEtRy-aFtEr": "7"}, b"").header(name) == "7"


def test_header_that_was_not_sent_is_none() -> None:
    assert Response(200, {}, b"").header("Date") is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "   ",
        "<html>",
        '{"access_token": "cut',
        "null",
        "17",
        '"text"',
        "[]",
        '[{"access_token": "CANARY"}]',
        "NaN",
        "{'access_token': 'CANARY'}",
        '{"a":' * 100_000,
        "[" * 100_000,
        b"\xff\xfe\xfd",
        b'{"a": "\xc3\x28"}',
        b"\x00\x00\x00\x00",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_has_no_fields(body: str | bytes) -> None:
    assert answer(200, body).fields() is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_object_is_read_in_each_encoding_of_unicode(encoding: str) -> None:
    fields = answer(200, '{"name": "caf\u00e9"}'.encode(encoding)).fields()

    assert fields is not None
    assert fields.text("name") == "caf\u00e9"


FORM: Final = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("kind", [FORM, f"{FORM}; charset=utf-8", f" {FORM.upper()} ;x"])
def test_form_is_read_where_it_says_that_it_is_one(kind: str) -> None:
    body = "error=slow_down&interval=10&empty=&text=a+b%26%C3%A9\r\n"

    fields = answer(400, body, Content_Type=kind).fields()

    assert fields is not None
    assert fields.as_dict() == {
        "error": "slow_down",
        "interval": "10",
        "empty": "",
        "text": "a b&\u00e9",
    }


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", "a=b"),
        ("", "a=b"),
        (f"text/{FORM}", "a=b"),
        (FORM, ""),
        (FORM, "<html>"),
        (FORM, "a"),
        (FORM, "a=b&c"),
        (FORM, "a=%ff"),
        (FORM, b"a=\xff"),
        (FORM, "a=b&" * 100 + "a=b"),
    ],
)
def test_what_is_no_form_or_does_not_say_so_has_no_fields(kind: str, body: str | bytes) -> None:
    assert answer(400, body, Content_Type=kind).fields() is None


def test_json_is_read_whatever_it_is_called() -> None:
    fields = answer(200, {"a": "b"}, Content_Type=FORM).fields()

    assert fields is not None
    assert fields.as_dict() == {"a": "b"}


def test_fields_are_counted_and_not_shown() -> None:
    assert repr(Fields({"b": "CANARY", "CANARY": 1})) == "<Fields 2>"


def test_fields_can_be_asked_for_and_listed() -> None:
    fields = Fields({"interval": 7, "scope": None})

    assert "interval" in fields
    assert "scope" in fields
    assert "missing" not in fields
    assert list(fields) == ["interval", "scope"]


def test_field_is_got_as_it_was_sent() -> None:
    fields = Fields({"interval": "7", "list": [1]})

    assert fields.get("interval") == "7"
    assert fields.get("list") == [1]
    assert fields.get("missing") is None


@pytest.mark.parametrize(
    "value", [None, "", 17, 1.5, True, ["text"], {"text": "text"}, "\ud800", "a\udfffb"]
)
def test_what_is_no_text_with_something_in_it_is_none(value: Any) -> None:
    assert Fields({"name": value}).text("name") is None


@pytest.mark.parametrize("value", ["a", " ", "caf\u00e9", "\U0001f600", "\x00"])
def test_text_is_returned_as_it_was_sent(value: str) -> None:
    assert Fields({"name": value}).text("name") == value


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("1.5", 1.5),
        ("-1", 0),
        ("", 0),
        ("soon", 0),
        ("nan", 0),
        ("inf", 3600),
        ("3601", 3600),
        ("1" * 400, 3600),
        ("120, 240", 0),
        # The three forms that RFC 9110 section 5.6.7 asks to accept.
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0),
        ("Sun, 06 Nov 1995 08:48:37 GMT", 3600),
        ("Sun, 99 Nov 1994 08:50:37 GMT", 0),
        ("Sun, 06 Nov 9999 23:59:60 GMT", 0),
        (formatdate(NOW + 600), 600),
    ],
)
@pytest.mark.usefixtures("far_zone")
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert answer(503, "", Retry_After=value).retry_after(NOW) == seconds


def test_retry_after_that_was_not_sent_is_none_at_all() -> None:
    assert answer(503, "").retry_after(NOW) == 0


@pytest.mark.parametrize(
    ("date", "seconds"),
    [("Sun, 06 Nov 1994 08:50:07 GMT", 30), ("whenever", 60), ("", 60)],
)
def test_date_is_counted_from_the_servers_own_where_it_sent_one(date: str, seconds: float) -> None:
    response = answer(503, "", Retry_After="Sun, 06 Nov 1994 08:50:37 GMT", Date=date)

    assert response.retry_after(NOW) == seconds


@pytest.fixture
def far_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine into a time zone that is not UTC."""
    monkeypatch.setenv("TZ", "America/New_York")
    if hasattr(time, "tzset"):
        time.tzset()
    yield
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


@pytest.mark.parametrize("text", ["[" * 30_000, '{"a":' * 30_000, "[" + "[]," * 30_000 + "[]]"])
def test_json_of_many_brackets_is_not_parsed(text: str) -> None:
    assert Response(200, {}, text.encode()).fields() is None
    with pytest.raises(ValueError, match="too many brackets"):
        read_json(text.encode())


def test_a_member_of_json_that_is_nested_too_deeply_is_null() -> None:
    def nested(levels: int) -> str:
        return "[" * levels + "]" * levels

    deep, fits = nested(MAX_DEPTH), nested(MAX_DEPTH - 1)
    text = f'{{"a": {deep}, "b": "]{{\\"[", "c": {fits}, "d": {deep}, "e": 1}}'

    read = read_json(text.encode())

    assert list(read) == ["a", "b", "c", "d", "e"]
    assert (read["a"], read["b"], read["d"], read["e"]) == (None, ']{"[', None, 1)
    assert str(read["c"]) == fits


def test_brackets_that_do_not_match_are_not_json() -> None:
    with pytest.raises(ValueError, match="do not match"):
        read_json(b"[" * 20_000)
