"""What a server sends, made safe to print, to count with, to open and to send secrets to."""

from __future__ import annotations

import itertools
import math
import time
import unicodedata
import webbrowser
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from urllib3.util import parse_url

from deviceflow._environment import http_allowed
from deviceflow.client.browser import open_page
from deviceflow.core.sanitize import (
    crosses_in_clear,
    endpoint,
    hidden_if_random,
    is_loopback,
    number,
    printable,
    web_url,
    with_query,
)
from deviceflow.errors import InsecureURLError

if TYPE_CHECKING:
    from collections.abc import Callable

# Texts.


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        ("plain text, as it is", "plain text, as it is"),
        ("caf\u00e9 \u4f60\u597d \U0001f600", "caf\u00e9 \u4f60\u597d \U0001f600"),
        ("e\u0301", "e\u0301"),
        # CSI: colours, moving the cursor, clearing the screen; as ESC [ and as C1.
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Htop", "top"),
        ("\x9b31mred\x9b0m", "red"),
        ("\x1b[?25l\x1b[38;5;196mhidden", "hidden"),
        ("\x1b[ qcursor", "cursor"),
        # OSC: links and window titles, ended by BEL, by ST, by C1 ST, or not at all.
        ("\x1b]8;;https://evil.example.com\x07studio\x1b]8;;\x07", "studio"),
        ("\x1b]8;;https://evil.example.com\x1b\\studio\x1b]8;;\x1b\\", "studio"),
        ("\x1b]0;title\x9ctext", "text"),
        ("\x9d0;title\x07text", "text"),
        ("text\x1b]0;title with no end", "text"),
        ("text\x1b]52;c;Y2xpcGJvYXJk\nmore", "text"),
        # Other escapes, and ones that would appear once another was taken out.
        ("\x1bcreset", "creset"),
        ("\x1bMup", "up"),
        ("\x1b\x1b[31m[31mtwice", "[31mtwice"),
        ("a\x1b", "a"),
        # Control characters.
        ("a\x00b\x07c\x08d\x7fe\x80f\x85g", "abcdefg"),
        # More than one line is one line.
        ("one\ntwo", "one two"),
        ("one\r\ntwo\tthree", "one  two three"),
        ("one\u2028two\u2029three", "onetwothree"),
        # What turns the direction, and what cannot be seen.
        ("moc.live\u202e//:ptth", "moc.live//:ptth"),
        ("\u2066a\u2069\u200fb\u200ec\u061c", "abc"),
        ("A\u200bB\u200cC\u200dD\u2060E\ufeffF\u00adG", "ABCDEFG"),
        ("A\u3164B\u115fC\u2800D\ufe0fE\u034fF\U000e0100G\uffa0H", "ABCDEFGH"),
        ("A\U000e0041B", "AB"),
        ("a\ud800b", "ab"),
        ("a\ue000b\uffffc", "abc"),
        ("", ""),
    ],
)
def test_text_is_printed_without_what_steers(sent: str, printed: str) -> None:
    assert printable(sent) == printed


@pytest.mark.parametrize("filling", ["x", "\u00e9", "\x1b[31m", "\u200b", "\x1b]0;"])
def test_long_text_is_cut(filling: str) -> None:
    assert len(printable(filling * 100_000)) <= 500
    assert len(printable(filling * 100_000, 7)) <= 7


def test_what_is_removed_does_not_count_against_the_limit() -> None:
    assert printable("\u200b\u200b\u200bcode", 4) == "code"


@pytest.mark.parametrize(
    "filling", ["\x1b[", "\x1b]", "\x9b0", "\x9d", "\x1b[0;", "\x1b" * 3, "[0 ", "\x1b\\"]
)
def test_no_text_takes_long(filling: str) -> None:
    before = time.process_time()

    printable(filling * 200_000, 1_000_000)

    assert time.process_time() - before < 5


def test_no_character_that_steers_gets_through() -> None:
    for start in range(0, 0x110000, 500):
        text = "".join(map(chr, range(start, min(start + 500, 0x110000))))
        left = printable(text)
        assert all(c == " " or unicodedata.category(c)[0] in "LMNPS" for c in left)


def test_three_of_a_kind_leave_nothing_that_steers() -> None:
    parts = ["\x1b", "[", "]", "31", "m", "\x07", "\\", "\x9b", "\x9d", "\x9c", "\n", "\u202e"]

    for three in itertools.product(parts, repeat=3):
        left = printable("".join(three))
        assert left.isprintable(), three


# Numbers.


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (7, 7),
        (7.25, 7.25),
        ("7", 7),
        (" 7.5 ", 7.5),
        ("7e0", 7),
        (0, 2),
        (-0.0, 2),
        (1, 2),
        (1000, 100),
        ("1e300", 100),
        (math.inf, 100),
        ("Infinity", 100),
        # What means nothing counts as missing.
        (None, 5),
        (-1, 5),
        ("-7", 5),
        (-math.inf, 5),
        (math.nan, 5),
        ("nan", 5),
        (True, 5),
        (False, 5),
        ("", 5),
        ("seven", 5),
        ("0x7", 5),
        ([7], 5),
        ({"value": 7}, 5),
        (7j, 5),
        (b"7", 5),
        (10**400, 5),
    ],
)
def test_number_is_read_bounded_or_defaulted(sent: Any, read: float) -> None:
    assert number(sent, 5, low=2, high=100) == read


# Addresses.

SAFE: Final = [
    "https://studio.example.com",
    "https://studio.example.com/",
    "https://studio.example.com/api/token?x=1&y=%20#part",
    "https://studio.example.com:8443/token",
    "HTTPS://STUDIO.EXAMPLE.COM/token",
    "https://192.0.2.7/token",
    "https://[2001:db8::7]:8443/token",
    "https://b\u00fccher.example/token",
    "https://xn--bcher-kva.example/token",
    "https://intranet/token",
    "http://localhost:5000/token",
    "http://127.0.0.1/token",
    "http://127.9.8.7/token",
    "http://[::1]:5000/token",
    "http://LOCALHOST/token",
]

IN_CLEAR: Final = [
    "http://studio.example.com",
    "HTTP://studio.example.com/token",
    "http://192.168.0.7/token",
    "http://[2001:db8::7]/token",
    "http://0.0.0.0/token",
    "http://localhost.example.com/token",
    "http://127.0.0.1.example.com/token",
    "http://notlocalhost/token",
    "http://1.0.0.127/token",
    "http://localhost./token",
    "http://login.localhost/token",
]

NOT_WEB: Final = [
    "",
    "https",
    "https:",
    "https:/studio.example.com",
    "https://",
    "https:///token",
    "https://:443/token",
    "https://?x=1",
    "//studio.example.com/token",
    "/token",
    "studio.example.com",
    "studio.example.com:443",
    "javascript:alert(1)",
    "JavaScript:alert(1)//https://studio.example.com",
    "javascript://studio.example.com/%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "file:///etc/passwd",
    "file://studio.example.com/etc/passwd",
    "ftp://studio.example.com/",
    "vbscript:msgbox",
    "ms-msdt:/id",
    "ssh://studio.example.com",
    "about:blank",
    "wss://studio.example.com",
    "https ://studio.example.com",
    " https://studio.example.com",
    "https://studio.example.com ",
    "https://studio example.com",
    "https://studio.example.com/a b",
    "https://studio.example.com\n",
    "https://studio.example.com/\r\nHost: evil.example.com",
    "\x00https://studio.example.com",
    "java\nscript:alert(1)",
    "https://studio.example.com/\x1b[31m",
    "https://studio.example.com/\x7f",
    "https://studio.example.com/\u202egnp.exe",
    "https://studio\u200b.example.com/",
    "https://studio.example.com/\u00a0",
    "https://studio.example.com/\u3164",
    "https://studio.example.com/\ud800",
    "https://studio.example.com:port/",
    "https://studio.example.com:99999/",
    "https://studio.example.com:-1/",
    "https://studio.example.com:443:443/",
    "https://[::1",
    "https://::1]/",
    "https://[studio.example.com]/",
    "https://[::1]evil.example.com:/",
    "https://studio\u2100.example.com/",
    # Browsers and urllib3 go to evil.example.com with these.
    "https://evil.example.com\\.studio.example.com/",
    "https://evil.example.com\\@studio.example.com/",
    "http://evil.example.com\\.localhost/",
    "https:\\\\studio.example.com",
    "https://[::1]evil.example.com/",
    "https://studio.example.com@evil.example.com@studio.example.com/",
    "https://user@/",
]

WITH_USER: Final = [
    "https://user:password@studio.example.com/",
    "https://user@studio.example.com/",
    "https://:password@studio.example.com/",
    "https://studio.example.com@evil.example.com/",
    "http://localhost@evil.example.com/",
]

NO_TEXT: Final[list[Any]] = [
    None,
    17,
    True,
    b"https://studio.example.com",
    ["https://studio.example.com"],
    {},
]


@pytest.mark.parametrize("url", SAFE)
def test_safe_address_is_returned_as_it_is(url: str) -> None:
    assert web_url(url) == url
    assert endpoint(url) == url
    assert not crosses_in_clear(url)


@pytest.mark.parametrize("url", [*NOT_WEB, *NO_TEXT])
def test_what_is_no_web_address_is_neither_opened_nor_sent_to(url: Any) -> None:
    assert web_url(url) is None
    with pytest.raises(InsecureURLError, match=r"Not a valid http\(s\) URL"):
        endpoint(url, allow_http=True)


@pytest.mark.parametrize("url", [url for url in NOT_WEB if "\n" in url or "\x1b" in url])
def test_what_is_refused_is_not_quoted_raw(url: str) -> None:
    with pytest.raises(InsecureURLError) as caught:
        endpoint(url)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such code", "no such code"),
        ("token dckv_0123456789abcdef is unknown", "token <hidden> is unknown"),
        ("1234567890123456789", "1234567890123456789"),
        ("12345678901234567890", "<hidden>"),
        ("incomprehensibilities-are-words", "incomprehensibilities-are-words"),
        ("aaaaaaaaaaaaaaaaaaa9 and bbbbbbbbbbbbbbbbbbb8", "<hidden> and <hidden>"),
    ],
)
def test_what_looks_random_is_hidden(text: str, shown: str) -> None:
    assert hidden_if_random(text) == shown


@pytest.mark.parametrize("url", WITH_USER)
@pytest.mark.parametrize("allow_http", [False, True])
def test_address_with_a_user_is_not_sent_to_and_not_quoted(url: str, allow_http: bool) -> None:
    with pytest.raises(InsecureURLError, match="contains a user name or password") as caught:
        endpoint(url, allow_http=allow_http)

    assert "password@" not in str(caught.value)
    assert "user:" not in str(caught.value)


@pytest.mark.parametrize("url", IN_CLEAR)
def test_plain_http_to_another_machine_is_refused(url: str) -> None:
    assert crosses_in_clear(url)
    with pytest.raises(InsecureURLError, match="plain http") as caught:
        endpoint(url)

    assert "DEVICEFLOW_ALLOW_HTTP=1" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("url", IN_CLEAR)
def test_plain_http_is_allowed_by_the_caller(url: str) -> None:
    assert endpoint(url, allow_http=True) == url


@pytest.mark.parametrize(
    ("value", "allowed"), [("1", True), ("", False), ("0", False), ("no", False), ("true", False)]
)
def test_environment_allows_by_1_only(
    monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool
) -> None:
    assert not http_allowed()

    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", value)

    assert http_allowed() is allowed


def test_environment_is_not_asked_about_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The providers ask it, when they are made; nobody decides it anew later."""
    monkeypatch.setenv("DEVICEFLOW_ALLOW_HTTP", "1")

    with pytest.raises(InsecureURLError):
        endpoint(IN_CLEAR[0])


def test_allowing_plain_http_allows_no_other_scheme() -> None:
    with pytest.raises(InsecureURLError):
        endpoint("ftp://studio.example.com/", allow_http=True)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVICEFLOW_ALLOW_HTTP", raising=False)


@pytest.mark.parametrize("url", [*SAFE, *IN_CLEAR])
def test_requests_goes_to_the_host_that_was_checked(url: str) -> None:
    """A URL that two parsers read differently would slip past the check."""
    host = (parse_url(url).host or "").strip("[]").lower()

    assert host == (urlsplit(url).hostname or "").encode("idna").decode()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("login.localhost", False),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("", False),
        ("localhost.example.com", False),
        ("mylocalhost", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("https://s.example.com/login", "https://s.example.com/login?code=A-B"),
        ("https://s.example.com", "https://s.example.com?code=A-B"),
        ("https://s.example.com/login?", "https://s.example.com/login?code=A-B"),
        (
            "https://s.example.com/login?next=%2Fme",
            "https://s.example.com/login?next=%2Fme&code=A-B",
        ),
        ("https://s.example.com/login?a=&b", "https://s.example.com/login?a=&b&code=A-B"),
        ("https://s.example.com/login#top", "https://s.example.com/login?code=A-B#top"),
        ("https://s.example.com/l?a=1&a=2#top", "https://s.example.com/l?a=1&a=2&code=A-B#top"),
    ],
)
def test_parameter_joins_the_query_that_is_there(url: str, full: str) -> None:
    assert with_query(url, code="A-B") == full


@pytest.mark.parametrize("value", ["a b", "a&b=c", "a#b", "a+b", "%41", "caf\u00e9", "?", "/", ""])
def test_parameter_is_encoded(value: str) -> None:
    url = urlsplit(with_query("https://s.example.com/login?a=1#top", code=value))

    assert parse_qs(url.query, keep_blank_values=True) == {"a": ["1"], "code": [value]}
    assert url.fragment == "top"


# The browser.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []

    def take(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", take)
    return opened


@pytest.mark.parametrize(
    "url", ["https://studio.example.com/login?code=A", "http://10.0.0.7/login"]
)
def test_web_page_is_opened(opened: list[str], url: str) -> None:
    assert open_page(url) is True
    assert opened == [url]


@pytest.mark.parametrize("url", [*NOT_WEB, None])
def test_anything_else_is_not_opened(opened: list[str], url: str | None) -> None:
    assert open_page(url) is False
    assert opened == []


def refuse(error: Exception) -> Callable[[str], bool]:
    def fail(url: str) -> bool:
        raise error

    return fail


@pytest.mark.parametrize("trouble", [webbrowser.Error("none here"), OSError("cannot start")])
def test_browser_that_cannot_be_started_is_no_error(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    monkeypatch.setattr(webbrowser, "open", refuse(trouble))

    assert open_page("https://studio.example.com") is False


def test_browser_that_says_no_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: False)

    assert open_page("https://studio.example.com") is False
