"""The pages as HTML. What comes from a program or a server is cleaned and escaped here.

The link of a need is in none of them: addresses are relative to the page's own.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from deviceflow.core.explain import error_of
from deviceflow.core.need import WHY
from deviceflow.core.sanitize import printable, web_url
from deviceflow.core.states import NeedEnd, Reason, State

if TYPE_CHECKING:
    from deviceflow.client.grant_page import NeedPage
    from deviceflow.core.login import Login

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_REFRESH: Final = (3.0, 10.0)
_STARTED_REFRESH: Final = 3
_YES: Final = "M5 12.5l4.5 4.5L19 7.5"
_NO: Final = "M7 7l10 10M17 7L7 17"
_ENDS: Final = {
    NeedEnd.LOGGED_IN: "Somebody has logged in already.",
    NeedEnd.LATE_ANSWER: "Its tokens arrived after all.",
    NeedEnd.LOGGED_OUT: "The need was ended without a login.",
}


def _e(text: str | None, limit: int = 200) -> str:
    return escape(printable(text or "", limit))


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _page(title: str, main: str, *, head: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
{head}<title>{title} · deviceflow</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page.css">
<link rel="stylesheet" href="need.css">
</head>
<body>
<header>
<img src="icon.svg" alt="" width="32" height="32">
<p>deviceflow <span>logins that jobs wait for</span></p>
</header>
<main>
{main}
</main>
</body>
</html>
"""


def _sign(path: str, kind: str) -> str:
    return (
        f'<div class="result {kind}" aria-hidden="true"><svg viewBox="0 0 24 24" width="32"'
        ' height="32" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"'
        f' stroke-linejoin="round"><path d="{path}"/></svg></div>\n'
    )


def _refresh(seconds: float, query: str) -> str:
    return f'<meta http-equiv="refresh" content="{math.ceil(seconds)}; url={escape(query)}">\n'


def _form(csrf: str, button: str, *, new_tab: bool = True) -> str:
    tab = ' target="_blank" rel="noopener noreferrer"' if new_tab else ""
    return (
        f'<form method="post" action="?"{tab}>\n'
        f'<input type="hidden" name="csrf" value="{escape(csrf)}">\n'
        f'<div class="actions"><button class="primary" type="submit">{button}</button></div>\n'
        "</form>"
    )


def _facts(page: NeedPage) -> str:
    provider, need = page.provider, page.need
    scopes = "".join(f"<li>{_e(scope, 100)}</li>" for scope in provider.scopes)
    rows = [
        ("Job", _e(page.name)),
        ("Purpose", _e(page.purpose) or "Not stated"),
        ("Why now", WHY[page.need.reason]),
        ("Log in at", _e(provider.server)),
        ("Program", _e(provider.client_name or provider.client_id) or "Not stated"),
        ("Access to", f"<ul>{scopes}</ul>" if scopes else "Not specified"),
    ]
    if need.host:
        rows.append(("Machine", _e(need.host)))
    rows.append(("Waiting since", _since(need.since, page.now)))
    lines = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>\n" for name, value in rows)
    return f"<dl>\n{lines}</dl>"


def _since(since: float, now: float) -> str:
    at = datetime.fromtimestamp(since, UTC)
    said = f"{at.day} {at:%B %Y, %H:%M} UTC"  # Windows has no %-d
    age = max(0.0, now - since)
    ago = "just now" if age < _MINUTE else f"{_span(age)} ago"
    return f'<time datetime="{at.isoformat(timespec="seconds")}">{said}</time>, {ago}'


def _span(seconds: float) -> str:
    for unit, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        count = int(seconds / unit)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "less than a minute"


# The pages, in the order in which a person sees them.


def ask(page: NeedPage, csrf: str, *, started: bool = False) -> str:
    """Return the page that says which job asks for what, and offers to log in.

    Args:
        page: How the need stands.
        csrf: What the form sends along.
        started: Whether a code was requested from another tab, and the page waits for it.
    """
    host = _e(_host(page.provider.server), 100)
    name = _e(page.name)
    head = (
        _refresh(_STARTED_REFRESH, "?started=1")
        if started
        else '<script src="need.js" defer></script>\n'
        '<noscript><meta http-equiv="refresh" content="20; url=?"></noscript>\n'
    )
    main = f"""<h1>Log in for {name}</h1>
<p class="lead">A job waits until a person logs in at <strong>{host}</strong>.</p>
{_facts(page)}
<p class="hint">The job states all of this itself.</p>
<p class="note warning"><strong>Log in only if you know this job.</strong> It will act with the
account that you approve with, until it is logged out.</p>
{_form(csrf, f"Log in at {host}")}
<p class="hint after">Opens in a new tab. This page then shows how the login goes.</p>"""
    return _page(f"Log in for {name}", main, head=head)


def limited(page: NeedPage, wait: float) -> str:
    """Return the page that says that too many codes were requested."""
    main = f"""<h1>Too many codes were requested</h1>
<p class="lead">A new code for <strong>{_e(page.name)}</strong> can be requested in
{_span(wait + 30)}. If somebody has a code that is still valid, that one works.</p>
<p><a href="?">Look again</a></p>"""
    return _page("Too many codes", main)


def go_on(page: NeedPage, login: Login) -> str:
    """Return the page that sends the browser to the provider."""
    url = web_url(login.verification_uri_complete)
    if url is None:
        return waiting(page, login)
    host = _e(_host(url), 100)
    main = f"""<h1>Continue at {host}</h1>
<p class="lead">Check that the page there shows this code:</p>
<p class="code">{_e(login.user_code, 100)}</p>
<p class="actions"><a class="button primary" rel="noreferrer" href="{escape(url)}">Continue at
{host}</a></p>"""
    return _page("Continue", main, head=_refresh(0, url))


def waiting(page: NeedPage, login: Login) -> str:
    """Return the page that shows the code, and that nobody has approved yet."""
    name = _e(page.name)
    complete = web_url(login.verification_uri_complete)
    url = complete or web_url(login.verification_uri)
    does = "check that the page shows this code" if complete else "enter this code"
    if url is None:
        lead = "The server named no page. If you know its page for device logins, enter this code"
        link = ""
    else:
        host = _e(_host(url), 100)
        lead = f"Open <strong>{host}</strong> and {does}"
        link = (
            '<p class="actions"><a class="button primary" target="_blank" rel="noopener noreferrer"'
            f' href="{escape(url)}">Open {host}</a></p>\n'
        )
    left = ""
    if login.expires_at is not None:
        left = f" The code is valid for {_span(max(0.0, login.expires_at - page.now))}."
    shortest, longest = _REFRESH
    seconds = min(max(shortest, login.interval), longest)
    main = f"""<h1>Approve the login for {name}</h1>
<p class="lead">{lead}:</p>
<p class="code">{_e(login.user_code, 100)}</p>
{link}<p class="hint after" role="status"><span class="dot" aria-hidden="true"></span>Waiting for
the approval.{left} This page refreshes by itself.</p>
<details><summary>What the job asks for</summary>
{_facts(page)}
</details>"""
    return _page(
        f"Approve the login for {name}", main, head=_refresh(seconds, f"?login={quote(login.id)}")
    )


def done(page: NeedPage) -> str:
    """Return the page that says that the job has its token."""
    main = f"""{_sign(_YES, "yes")}<h1>Logged in</h1>
<p class="lead"><strong>{_e(page.name)}</strong> has its token, and goes on by itself.</p>
<p>You can close this window.</p>"""
    return _page("Logged in", main)


def almost_done(page: NeedPage, login: Login) -> str:
    """Return the page for a token that arrived, and that the job takes next."""
    main = f"""{_sign(_YES, "yes")}<h1>Approved</h1>
<p class="lead"><strong>{_e(page.name)}</strong> takes its token when it asks for it next.</p>
<p>You can close this window.</p>"""
    return _page("Approved", main, head=_refresh(_REFRESH[1], f"?login={quote(login.id)}"))


def failed(page: NeedPage, login: Login, csrf: str) -> str:
    """Return the page that says why the login gave no token, and what to do next."""
    if login.reason is Reason.DENIED:
        title = "The login was denied"
        lead = (
            f"<strong>{_e(page.name)}</strong> got no token. If you did not know the job, denying"
            " it was right: tell whoever sent you the link. Otherwise, try again."
        )
    elif login.state is State.FAILED:
        title = "The login failed"
        lead = f"{_e(error_of(login).message, 500)} You can try again."
    else:
        title = "The code has expired"
        lead = "Nobody approved in time. You can request another code."
    main = f"""{_sign(_NO, "no")}<h1>{title}</h1>
<p class="lead">{lead}</p>
{_form(csrf, "Request a new code", new_tab=False)}"""
    return _page(title, main)


def no_code(page: NeedPage, why: str, csrf: str) -> str:
    """Return the page that says why there is no code."""
    host = _e(_host(page.provider.server), 100)
    main = f"""{_sign(_NO, "no")}<h1>There is no code</h1>
<p class="lead">No code could be requested at <strong>{host}</strong>.
{_e(why, 500)}</p>
{_form(csrf, "Try again", new_tab=False)}"""
    return _page("There is no code", main)


def not_needed(page: NeedPage) -> str:
    """Return the page of a need that has ended."""
    why = _ENDS[page.need.end] if page.need.end is not None else ""
    main = f"""<h1>No longer needed</h1>
<p class="lead">Nobody needs to log in for <strong>{_e(page.name)}</strong> any more. {why}</p>
<p>You can close this window.</p>"""
    return _page("No longer needed", main)


def stale() -> str:
    """Return the page for a form that is out of date, or that another site sent."""
    main = """<h1>This page was out of date</h1>
<p class="lead">Nothing was done. Open the page again, and press the button there. Your browser must
keep the page's cookie.</p>
<p class="actions"><a class="button primary" href="?">Open the page again</a></p>"""
    return _page("Out of date", main)


def unknown() -> str:
    """Return the page for a link that nobody knows."""
    main = """<h1>There is no such page</h1>
<p class="lead">The link is incomplete, or out of date. Ask whoever sent it for the current
one.</p>"""
    return _page("No such page", main)


def busy() -> str:
    """Return the page for when there are too many requests."""
    main = """<h1>Too many requests</h1>
<p class="lead">Wait a moment, then open the page again.</p>
<p><a href="?">Open the page again</a></p>"""
    return _page("Too many requests", main)
