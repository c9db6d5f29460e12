"""A site with django-allauth's OpenID provider. It runs in a process of its own.

Django is set up once for a process, so the tests do not import this module's site.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PERSON: Final = {"login": "alice", "password": "correct horse battery"}
CLIENT_ID: Final = "robot"


def main() -> None:
    """Serve until standard input ends. The settings are JSON in `ALLAUTH_SETTINGS`."""
    import threading  # noqa: PLC0415

    import waitress  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        application = _set_up(Path(folder), json.loads(os.environ["ALLAUTH_SETTINGS"]))
        server = waitress.create_server(application, host="127.0.0.1", port=0, threads=4)
        threading.Thread(target=server.run, daemon=True).start()
        port = server.effective_port
        print(json.dumps({"issuer": f"http://127.0.0.1:{port}"}), flush=True)  # noqa: T201
        sys.stdin.read()


def _set_up(folder: Path, settings: dict[str, Any]) -> Callable[..., Any]:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from django import setup  # noqa: PLC0415
    from django.conf import settings as django  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    django.configure(
        ACCOUNT_EMAIL_VERIFICATION="none",
        ACCOUNT_RATE_LIMITS=False,
        ALLOWED_HOSTS=["127.0.0.1"],
        AUTHENTICATION_BACKENDS=["allauth.account.auth_backends.AuthenticationBackend"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "allauth.db"}
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        IDP_OIDC_DEVICE_CODE_INTERVAL=0,
        IDP_OIDC_PRIVATE_KEY=key.decode(),
        IDP_OIDC_RATE_LIMITS=False,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "allauth",
            "allauth.account",
            "allauth.idp.oidc",
        ],
        # The tables of today, without their history.
        MIGRATION_MODULES=dict.fromkeys(
            ["account", "allauth_idp_oidc", "auth", "contenttypes", "sessions"]
        ),
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF="tests.integration.rotating.allauth_urls",
        SECRET_KEY="signs the cookies of a server that nobody else can reach",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
        **settings,
    )
    setup()

    from allauth.idp.oidc.models import Client  # noqa: PLC0415
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415

    call_command("migrate", run_syncdb=True, verbosity=0)
    get_user_model().objects.create_user(PERSON["login"], password=PERSON["password"])
    Client.objects.create(
        id=CLIENT_ID,
        name="Robot",
        scopes="openid\nemail",
        type=Client.Type.PUBLIC,
        grant_types=f"{Client.GrantType.DEVICE_CODE}\n{Client.GrantType.REFRESH_TOKEN}",
    )
    application: Callable[..., Any] = get_wsgi_application()
    return application


if __name__ == "__main__":
    main()
