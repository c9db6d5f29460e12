from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Local, Page, Remote

WRONG: Final = "AAAA-AAAA"


@pytest.mark.parametrize(
    ("age", "ago", "left"),
    [
        (0, "just now", "in 10 minutes"),
        (60, "1 minute ago", "in 9 minutes"),
        (500, "8 minutes ago", "in 1 minute"),
        (599, "9 minutes ago", "in less than a minute"),
    ],
)
def test_when(local: Callable[..., Local], age: float, ago: str, left: str) -> None:
    server = local(expires_in=600)
    started = server.start()
    server.clock.advance(age)
    text = server.person.enter(started["user_code"]).text
    assert ago in text
    assert left in text


def test_who_asks_for_what(local: Callable[..., Local]) -> None:
    server = local()
    started = server.start(client_id="backup-tool", scope="read write")
    page = server.person.enter(started["user_code"])
    assert page.title.startswith("Approve this login?")
    for shown in (started["user_code"], "backup-tool", "read", "write"):
        assert shown in page.text
    assert "only if you started this login yourself" in page.text


@pytest.mark.parametrize("change", [str.lower, lambda code: code.replace("-", ""), " - ".join])
def test_code_as_people_type_it(local: Callable[..., Local], change: Callable[[str], str]) -> None:
    server = local()
    started = server.start()
    server.person.approve(change(started["user_code"]))
    assert server.poll(started) == "issued"


@pytest.mark.parametrize("path", ["/device?user_code=", "/auth/device-login?code="])
def test_link_fills_in_but_neither_looks_up_nor_approves(
    local: Callable[..., Local], path: str
) -> None:
    server = local()
    started = server.start(client_id="backup-tool")
    page = server.person.open(path + started["user_code"])
    assert page.fields["user_code"] == started["user_code"]
    assert "backup-tool" not in page.html
    assert list(page.buttons) == ["Continue"]
    assert "only if you started a login yourself" in page.text
    page = server.person.press(page, "Continue")
    assert set(page.buttons) == {"Approve", "Deny"}
    assert server.poll(started, "backup-tool") == "authorization_pending"


def test_home_leads_to_the_form(serve: Callable[..., Remote]) -> None:
    assert serve().person.open("/").fields.keys() == {"csrf_token", "user_code"}


class TestForgery:
    def test_no_token(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        confirm = server.person.enter(started["user_code"])
        del confirm.fields["csrf_token"]
        assert server.person.press(confirm, "Approve").status == 403
        assert server.poll(started) == "authorization_pending"

    def test_somebody_elses_token(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        confirm = server.somebody().enter(started["user_code"])
        server.person.open("/device")
        assert server.person.press(confirm, "Approve").status == 403
        assert server.poll(started) == "authorization_pending"

    def test_no_cookie_and_an_empty_token(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        form = {"csrf_token": "", "user_code": started["user_code"], "decision": "approve"}
        assert server.http.post("/device/decision", data=form).status_code == 403
        assert server.poll(started) == "authorization_pending"

    def test_no_get(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        query = {"user_code": started["user_code"], "decision": "approve"}
        assert server.http.get("/device/decision", query_string=query).status_code == 405
        assert server.poll(started) == "authorization_pending"

    def test_refused_page_works_at_once(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        stale = server.somebody().open("/device")
        refused = server.person.press(stale, "Continue", user_code=started["user_code"])
        assert refused.status == 403
        confirm = server.person.press(refused, "Continue")
        assert server.person.press(confirm, "Approve").title.startswith("Approved")

    def test_not_counted_as_a_guess(self, local: Callable[..., Local]) -> None:
        server = local(guess_limit=1)
        for _ in range(3):
            assert server.http.post("/device", data={"user_code": WRONG}).status_code == 403
        assert server.person.enter(server.start()["user_code"]).status == 200

    def test_cookie(self, local: Callable[..., Local]) -> None:
        cookie = local().http.get("/device").headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie


class TestGuesses:
    def test_limit(self, local: Callable[..., Local]) -> None:
        server = local(guess_limit=3, guess_window=60)
        started = server.start()
        for _ in range(3):
            assert server.person.enter(WRONG).status == 400
            server.clock.advance(10)
        refused = server.somebody().enter(started["user_code"])
        assert refused.status == 429
        assert refused.headers["Retry-After"] == "30"
        assert "Wait 30 seconds" in refused.text
        server.clock.advance(29.5)
        assert server.person.enter(started["user_code"]).headers["Retry-After"] == "1"
        server.clock.advance(0.5)
        assert server.person.enter(started["user_code"]).status == 200

    def test_wrong_codes_spread_out(self, local: Callable[..., Local]) -> None:
        server = local(guess_limit=2, guess_window=60)
        for _ in range(5):
            assert server.person.enter(WRONG).status == 400
            server.clock.advance(31)

    def test_right_codes_do_not_count(self, local: Callable[..., Local]) -> None:
        server = local(guess_limit=1)
        started = server.start()
        for _ in range(3):
            assert server.person.enter(started["user_code"]).status == 200

    def test_decisions_are_guesses_too(self, local: Callable[..., Local]) -> None:
        server = local(guess_limit=1)
        confirm = server.person.enter(server.start()["user_code"])
        statuses = [
            server.person.press(confirm, "Approve", user_code=WRONG).status for _ in range(2)
        ]
        assert statuses == [400, 429]

    def test_over_http(self, serve: Callable[..., Remote]) -> None:
        person = serve(guess_limit=2).person
        assert [person.enter(WRONG).status for _ in range(3)] == [400, 400, 429]


class TestErrors:
    def test_wrong_code_can_be_mended(self, local: Callable[..., Local]) -> None:
        server = local()
        page = server.person.enter("bcdf-ghjk")
        assert page.title.startswith("Error: ")
        assert page.fields["user_code"] == "bcdf-ghjk"
        assert 'aria-invalid="true"' in page.html
        assert 'role="alert"' in page.html

    @pytest.mark.parametrize("typed", ["", " - "])
    def test_no_code_is_no_guess(self, local: Callable[..., Local], typed: str) -> None:
        server = local(guess_limit=1)
        for _ in range(2):
            page = server.person.enter(typed)
            assert (page.status, "Type the code" in page.text) == (400, True)

    def test_expired_code(self, local: Callable[..., Local]) -> None:
        server = local(expires_in=60)
        started = server.start()
        confirm = server.person.enter(started["user_code"])
        server.clock.advance(60)
        for page in (
            server.person.enter(started["user_code"]),
            server.person.press(confirm, "Approve"),
        ):
            assert (page.status, "has expired" in page.text) == (400, True)
        assert server.poll(started) == "expired_token"

    @pytest.mark.parametrize(
        ("first", "second", "told"),
        [("Approve", "Deny", "approved already"), ("Deny", "Approve", "denied already")],
    )
    def test_decided_already(
        self, local: Callable[..., Local], first: str, second: str, told: str
    ) -> None:
        server = local()
        started = server.start()
        confirm = server.person.enter(started["user_code"])
        server.person.press(confirm, first)
        for page in (
            server.person.press(confirm, second),
            server.person.enter(started["user_code"]),
        ):
            assert (page.status, told in page.text) == (400, True)
        assert server.poll(started) == ("issued" if first == "Approve" else "access_denied")

    def test_used_already(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        server.person.approve(started["user_code"])
        server.poll(started)
        page = server.person.enter(started["user_code"])
        assert (page.status, "works only once" in page.text) == (400, True)

    @pytest.mark.parametrize("button", ["Approve", "Deny"])
    @pytest.mark.parametrize("polled", [False, True])
    def test_double_click(self, local: Callable[..., Local], button: str, polled: bool) -> None:
        server = local()
        started = server.start()
        confirm = server.person.enter(started["user_code"])
        first = server.person.press(confirm, button)
        if polled:
            server.poll(started)
        assert server.person.press(confirm, button).text == first.text

    def test_no_decision(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start()
        confirm = server.person.enter(started["user_code"])
        confirm.buttons["Perhaps"] = ("decision", "perhaps")
        assert server.person.press(confirm, "Perhaps").status == 400
        assert server.poll(started) == "authorization_pending"

    def test_result_of_nothing(self, local: Callable[..., Local]) -> None:
        answer = local().http.get("/device/done")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/device")

    def test_unknown_page(self, local: Callable[..., Local]) -> None:
        page = local().person.open("/nowhere")
        assert (page.status, page.title.startswith("Not Found")) == (404, True)

    def test_unknown_page_of_the_api(self, local: Callable[..., Local]) -> None:
        answer = local().http.get("/api/nowhere")
        assert (answer.status_code, answer.get_json()["detail"]) == (404, "Not Found")


HOSTILE: Final = "<script>alert(1)</script>\x1b[31m\u202e\"'&{{7*7}}"


class TestHostileTexts:
    def inert(self, page: Page) -> None:
        assert "<script" not in page.html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.html
        assert not set(page.html) & {"\x1b", "\u202e"}
        assert "49" not in page.text.replace(page.fields.get("csrf_token", "-"), "")

    def test_in_studios_dialect(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start_studio(client_name=HOSTILE, token_name=HOSTILE, team_names=[HOSTILE])
        assert "\x1b" not in started["token_name"]
        confirm = server.person.enter(started["user_code"])
        self.inert(confirm)
        self.inert(server.person.press(confirm, "Approve"))

    def test_in_oauth(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start(client_id=HOSTILE, scope=HOSTILE)
        confirm = server.person.enter(started["user_code"])
        self.inert(confirm)
        self.inert(server.person.press(confirm, "Deny"))

    @pytest.mark.parametrize("path", ["/device", "/auth/device-login"])
    def test_in_the_link(self, local: Callable[..., Local], path: str) -> None:
        answer = local().http.get(path, query_string={"code": f'">{HOSTILE}'})
        assert "<script" not in answer.text
        assert "\x1b" not in answer.text

    def test_in_the_field(self, local: Callable[..., Local]) -> None:
        assert "<script" not in local().person.enter(f'">{HOSTILE}').html

    def test_endless(self, local: Callable[..., Local]) -> None:
        server = local()
        started = server.start_studio(client_name="x" * 20_000)
        assert "x" * 201 not in server.person.enter(started["user_code"]).html


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path", ["/device", "/auth/device-login?code=BCDF-GHJK", "/static/page.css", "/nowhere", "/"]
)
def test_headers(local: Callable[..., Local], method: str, path: str) -> None:
    with getattr(local().http, method)(path) as answer:
        headers = answer.headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(
        rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_pages_are_for_everybody(local: Callable[..., Local]) -> None:
    server = local()
    confirm = server.person.enter(server.start()["user_code"])
    for page in (
        server.person.open("/device"),
        server.person.enter(WRONG),
        confirm,
        server.person.press(confirm, "Approve"),
        server.person.open("/nowhere"),
    ):
        assert '<html lang="en">' in page.html
        assert page.html.count("<h1>") == 1
        assert 'name="viewport"' in page.html
        assert "<script" not in page.html
        assert "style=" not in page.html
    assert '<label for="user_code">' in server.person.open("/device").html
