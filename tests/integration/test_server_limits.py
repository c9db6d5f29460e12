"""What the local server refuses: from foreign web pages, too much, and what is no sense."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from tests.integration.conftest import Local, Remote

LOGINS: Final = (
    ("/oauth/device_authorization", {"data": {"client_id": "robot"}}),
    ("/api/device-login", {"json": {"client_name": "robot"}}),
)
ATTACKER: Final = "https://attacker.example.com"


def logins(remote: Remote) -> list[dict[str, Any]]:
    return list(remote.get("/control/log").json()["logins"])


# Nested too deep.


@pytest.mark.parametrize("depth", [33, 20_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    "path", ["/api/device-login", "/api/device-login/token", "/control/approve"]
)
def test_nested_json_is_a_bad_request(
    serve: Callable[..., Remote], path: str, opening: str, depth: int
) -> None:
    remote = serve(control=True)
    closing = "]" if opening == "[" else "}"
    depth = min(depth, 60_000 // len(opening + closing))
    deep = f"{opening * depth}1{closing * depth}"
    body = f'{{"client_name": "robot", "code": "x", "user_code": "x", "more": {deep}}}'

    answer = remote.post(path, data=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert logins(remote) == []


def test_json_that_is_not_nested_deep_is_read(serve: Callable[..., Remote]) -> None:
    body = {"client_name": "[[[[" * 50, "more": [[[[{"a": [1]}]]]]}

    assert serve().post("/api/device-login", json=body).status_code == 200


# Cross-site.


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ATTACKER},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("path", "body"), LOGINS)
def test_a_login_that_a_foreign_page_asks_for_is_refused(
    serve: Callable[..., Remote], path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    remote = serve(control=True)

    answer = remote.post(path, headers=headers, **body)

    assert answer.status_code == 403
    assert "Cross-origin requests are refused" in answer.json()["detail"]
    assert logins(remote) == []


def test_nobody_but_its_own_pages_uses_control_from_a_browser(
    serve: Callable[..., Remote],
) -> None:
    remote = serve(control=True)

    assert remote.get("/control/log", headers={"Origin": ATTACKER}).status_code == 403
    assert remote.get("/control/log", headers={"Origin": remote.url}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize(
    "path", ["/api/device-login", "/api/device-login/token", "/control/approve"]
)
def test_json_is_read_only_where_it_is_said_to_be_json(
    serve: Callable[..., Remote], path: str, kind: str
) -> None:
    remote = serve(control=True)
    body = json.dumps({"client_name": "robot", "code": "x", "user_code": "x"})

    answer = remote.post(path, data=body, headers={"Content-Type": kind})

    assert answer.status_code in (400, 415)
    assert logins(remote) == []


def test_a_real_browser_on_a_foreign_page_begins_no_login(
    serve: Callable[..., Remote], chromium: Browser
) -> None:
    remote, foreign = serve(control=True), serve()
    window = chromium.new_context(bypass_csp=True).new_page()
    window.goto(f"{foreign.url}/device")
    window.evaluate(
        """async (url) => {
            const form = new URLSearchParams({client_id: "robot"});
            for (let i = 0; i < 20; i++)
                await fetch(url, {method: "POST", mode: "no-cors", body: form});
        }""",
        f"{remote.url}/oauth/device_authorization",
    )
    with window.expect_navigation():
        window.evaluate(
            """(url) => {
                const form = document.createElement("form");
                form.method = "post"; form.action = url;
                const field = document.createElement("input");
                field.name = "client_id"; field.value = "robot";
                form.append(field); document.body.append(form); form.submit();
            }""",
            f"{remote.url}/oauth/device_authorization",
        )
    assert "Cross-origin requests are refused" in window.content()
    window.context.close()

    assert logins(remote) == []


# Too many.


@pytest.mark.parametrize(("path", "body"), LOGINS)
def test_only_so_many_logins_are_open_at_once(
    serve: Callable[..., Remote], path: str, body: dict[str, Any]
) -> None:
    remote = serve(control=True, open_logins=3)
    begun = [remote.post(path, **body) for _ in range(5)]

    assert [answer.status_code for answer in begun] == [200, 200, 200, 503, 503]
    assert begun[-1].json()["error"] == "temporarily_unavailable"
    assert "Too many open logins: 3, which is the limit" in begun[-1].json()["detail"]
    assert int(begun[-1].headers["Retry-After"]) > 0

    code = {"user_code": begun[0].json()["user_code"]}
    assert remote.post("/control/deny", json=code).status_code == 200
    assert remote.post(path, **body).status_code == 200


def test_a_flood_over_real_sockets_stays_within_the_bound(serve: Callable[..., Remote]) -> None:
    remote = serve(control=True)
    host = urlsplit(remote.url).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    statuses = []
    for _ in range(1_200):
        connection.request(
            "POST",
            "/oauth/device_authorization",
            "client_id=robot",
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()

    assert (statuses.count(200), statuses.count(503)) == (1_000, 200)
    assert len(logins(remote)) == 1_000


def test_codes_that_expired_make_room(local: Callable[..., Local]) -> None:
    server = local(open_logins=2, expires_in=60, control=True)
    for _ in range(50):
        server.start()
        server.start()
        server.clock.advance(60)

    # Those that ended are remembered for a while, for who comes late; but not all of them.
    log = server.http.get("/control/log").get_json()["logins"]
    assert len(log) <= 4
    server.clock.advance(3601)
    server.start()
    assert len(server.http.get("/control/log").get_json()["logins"]) == 1


def test_a_login_that_ended_is_known_for_a_while(local: Callable[..., Local]) -> None:
    server = local(expires_in=60)
    started = server.start()
    server.clock.advance(600)
    server.start()

    assert server.poll(started) == "expired_token"
    assert "expired" in server.person.enter(started["user_code"]).text
