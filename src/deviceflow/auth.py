"""Three functions to log in to DVC Studio, with the interface of Studio's own client.

    token_name, token = get_access_token(hostname="https://studio.example.com")

or step by step, so that the program can do other work in between::

    login = start_device_login(client_name="nightly", base_url="https://studio.example.com")
    ...  # show login["verification_uri"] and login["user_code"]
    token = check_token_authentication(uri=login["token_uri"], device_code=login["device_code"])

The functions log each transition as `deviceflow.transition`. They raise `StudioAuthError`,
`ValueError` and `requests.RequestException`, and no other exception of deviceflow.

Importing this module is cheap: it imports the rest of deviceflow at the first call.
"""

from __future__ import annotations

from deviceflow.errors import AuthorizationExpiredError, InvalidScopesError, StudioAuthError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from deviceflow.providers.studio import AVAILABLE_SCOPES, DeviceLoginResponse
else:  # unseen by type checkers, which would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in ("AVAILABLE_SCOPES", "DeviceLoginResponse"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from deviceflow.providers import studio

        return getattr(studio, name)


__all__ = [
    "AVAILABLE_SCOPES",
    "AuthorizationExpiredError",
    "DeviceLoginResponse",
    "InvalidScopesError",
    "StudioAuthError",
    "check_token_authentication",
    "get_access_token",
    "start_device_login",
]


def start_device_login(
    *,
    client_name: str,
    base_url: str | None = None,
    token_name: str | None = None,
    scopes: list[str] | None = None,
    team_names: list[str] | None = None,
    all_teams: bool | None = None,
    expires_in_days: int | None = None,
    never_expires: bool | None = None,
) -> DeviceLoginResponse:
    """Ask Studio for a device code. One request, no waiting.

    Args:
        client_name: The program's name, which Studio shows to the person.
        base_url: Studio's URL; by default https://studio.datachain.ai.
        token_name: The token's name; by default Studio chooses one.
        scopes: Some of `AVAILABLE_SCOPES`, in upper or lower case; sent as given.
        team_names: The teams that the token is for.
        all_teams: Whether the token is for all teams.
        expires_in_days: The token's lifetime in days.
        never_expires: Whether the token lives for ever.

    Returns:
        Studio's answer, unchanged. `expires_in` (seconds) may be missing in it. A field that is
        nested more than 32 levels deep, and an integer of more than 640 digits, is None.

    Raises:
        InvalidScopesError: A scope is unknown; nothing was sent.
        ValueError: `all_teams=False` without teams, or an invalid URL; nothing was sent.
        requests.HTTPError: Studio answered with another status than 200; a redirect is one.
        requests.RequestException: The request failed, or the response contains no device code.
    """
    from deviceflow.integrations import studio  # loads requests and transitions

    return studio.start(
        base_url,
        client_name=client_name,
        token_name=token_name,
        scopes=scopes,
        team_names=team_names,
        all_teams=all_teams,
        expires_in_days=expires_in_days,
        never_expires=never_expires,
    ).answer


def check_token_authentication(*, uri: str, device_code: str) -> str | None:
    """Poll until the server says whether the login was approved.

    If `start_device_login` began the login in this process, this call continues it. The call adopts
    any other device code. The polls are 5 seconds apart.

    Args:
        uri: The `token_uri` of the login.
        device_code: The `device_code` of the login.

    Returns:
        The token, or None once the authorization has expired.

    Raises:
        requests.HTTPError: Studio answered with a status that means neither, with a redirect, or
            with a 200 without a token.
        requests.RequestException: The connection failed or timed out a few times in a row. The
            login has not changed: call again to continue.
        ValueError: `uri` is not an http or https URL.
    """
    from deviceflow.core.secret import Secret
    from deviceflow.integrations import studio

    code = Secret(device_code)
    del device_code  # a traceback with locals would show it
    token = studio.check(uri, code)
    return None if token is None else token.reveal()


def get_access_token(
    *,
    hostname: str,
    token_name: str | None = None,
    scopes: str | None = "",
    client_name: str = "client",
    open_browser: bool = True,
    post_login_message: str | None = None,
    use_device_code: bool = False,
    team_names: list[str] | None = None,
    all_teams: bool | None = None,
    expires_in_days: int | None = None,
    never_expires: bool | None = None,
) -> tuple[str, str]:
    """Log in to Studio: start, tell the person where to go, wait for the token.

    The prompt goes to stdout. If no browser could be opened, a note about that goes to stderr.
    After a timeout, a lost connection or a busy server, the function waits and tries again while
    the code lives.

    Args:
        hostname: Studio's URL, with `https://`.
        token_name: The token's name; by default Studio chooses one.
        scopes: Some of `AVAILABLE_SCOPES`, separated by commas.
        client_name: The program's name, which Studio shows to the person.
        open_browser: Whether to open the page in a browser.
        post_login_message: A message that replaces the default sentence about coming back.
        use_device_code: The older way to say `open_browser=False`.
        team_names: The teams that the token is for.
        all_teams: Whether the token is for all teams.
        expires_in_days: The token's lifetime in days.
        never_expires: Whether the token lives for ever.

    Returns:
        The token's name, and the token.

    Raises:
        InvalidScopesError: A scope is unknown; nothing was sent.
        AuthorizationExpiredError: Nobody approved the login in time.
        StudioAuthError: The login ended without a token for another reason, for example a denial.
        ValueError: `all_teams=False` without teams, or an invalid URL; nothing was sent.
        requests.RequestException: The first request failed, or Studio refused the login.
    """
    from deviceflow.integrations import studio

    login = studio.start(
        hostname,
        client_name=client_name,
        token_name=token_name,
        scopes=scopes,
        team_names=team_names,
        all_teams=all_teams,
        expires_in_days=expires_in_days,
        never_expires=never_expires,
    )
    login.show(
        open_browser=open_browser and not use_device_code,
        message=post_login_message,
    )
    return login.token_name, login.wait().reveal()
