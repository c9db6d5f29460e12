"""Libraries of `tests.bench.race` that keep tokens in files of their own, and refresh them unasked.

Both count on tokens that live for long. So that tokens of seconds are refreshed at all, the margins
of `huggingface_hub` (a day, five minutes) are shortened, and MSAL is told that a token lives for
the five minutes longer that MSAL leaves unused.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

_UNUSED: Final = 300
_CLIENT: Final = "robot"
_NONE: Final = "none"
_AUTHORITY: Final = "https://race.example/oauth"  # MSAL takes https only, and a path


class Files:
    """The files of one library, in the folder of a store's file.

    Args:
        way: Which library.
        url: The URL of the file that another way would use.
        server: The server's URL.
    """

    def __init__(self, way: str, url: str, server: str) -> None:
        folder = Path(f"{url.removeprefix('sqlite:///')}-files")
        folder.mkdir(exist_ok=True)
        make = _hub if way == "huggingface_hub" else _msal
        self._put, self._get = make(folder, server)

    def put(self, access: str, refresh: str) -> None:
        """Keep the first tokens."""
        self._put(access, refresh)

    def get(self) -> str:
        """Return an access token; what the server refuses if the library has none."""
        return self._get() or _NONE


Functions = tuple["Callable[[str, str], None]", "Callable[[], str | None]"]


def _hub(folder: Path, server: str) -> Functions:
    from huggingface_hub import constants
    from huggingface_hub.utils import _auth

    constants.ENDPOINT = server
    constants.DEVICE_CODE_OAUTH_CLIENT_ID = _CLIENT
    constants.HF_TOKEN_PATH = str(folder / "token")
    constants.HF_STORED_TOKENS_PATH = str(folder / "stored_tokens")
    hub: Any = _auth
    hub._OAUTH_REFRESH_MARGIN, hub._OAUTH_RECHECK_INTERVAL = 1, 0

    def put(access: str, refresh: str) -> None:
        hub._save_token(access, "race", refresh_token=refresh, expires_at=int(time.time()) + 1)
        hub._write_secret(Path(constants.HF_TOKEN_PATH), access)

    return put, hub.get_token


def _msal(folder: Path, server: str) -> Functions:
    import msal
    from msal_extensions import FilePersistence, PersistedTokenCache

    app = msal.PublicClientApplication(
        _CLIENT,
        oidc_authority=_AUTHORITY,
        http_client=_Session(server),
        token_cache=PersistedTokenCache(FilePersistence(str(folder / "cache.json"))),
    )

    def put(access: str, refresh: str) -> None:
        response = {"access_token": access, "refresh_token": refresh, "expires_in": _UNUSED + 1}
        app.token_cache.add(
            {
                "client_id": _CLIENT,
                "scope": ["read"],
                "token_endpoint": f"{_AUTHORITY}/token",
                "environment": app.authority.instance,
                "response": response | {"client_info": _ACCOUNT, "token_type": "Bearer"},
            }
        )

    def get() -> str | None:
        accounts = app.get_accounts()
        found = accounts and app.acquire_token_silent(["read"], accounts[0])
        return str(found["access_token"]) if found else None

    return put, get


_ACCOUNT: Final = base64.urlsafe_b64encode(json.dumps({"uid": "u", "utid": "t"}).encode()).decode()


class _Session(requests.Session):
    """Makes the local server one that MSAL knows the accounts of."""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server = server

    def get(self, url: str | bytes, **more: Any) -> Any:
        if "openid-configuration" not in str(url):
            return super().get(url, **more)
        metadata = {
            "issuer": _AUTHORITY,
            "authorization_endpoint": f"{_AUTHORITY}/authorize",
            "token_endpoint": f"{_AUTHORITY}/token",
        }
        return _answer(200, metadata, {})

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **more: Any) -> Any:
        url = str(url).replace(_AUTHORITY, f"{self._server}/oauth")
        answer = super().post(url, data, json, **more)
        fields = answer.json()
        if "expires_in" in fields:
            fields |= {"expires_in": fields["expires_in"] + _UNUSED, "client_info": _ACCOUNT}
        return _answer(answer.status_code, fields, dict(answer.headers))


def _answer(status: int, fields: dict[str, Any], headers: dict[str, str]) -> Any:
    return SimpleNamespace(
        status_code=status,
        text=json.dumps(fields),
        headers=headers,
        raise_for_status=lambda: None,
    )
