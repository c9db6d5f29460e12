"""Checks of the TLS connection and the server's certificate."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from deviceflow.doctor._check import Check, Verdict
from deviceflow.doctor._recorder import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.ports import Clock
    from deviceflow.providers.oauth import OAuth


ENDING: Final = 14
"""Days before the expiry of a certificate from which on the doctor reports it."""


def origins(provider: OAuth) -> list[str]:
    """Return the origins of the URLs of a login that are known before it begins."""
    urls = (provider.issuer, provider.device_authorization_endpoint, provider.token_endpoint)
    parts = [urlsplit(url) for url in urls if url]
    return list(dict.fromkeys(f"{one.scheme}://{one.netloc}" for one in parts))


def transport_security(origin: str, clock: Clock) -> Iterator[Check]:
    parts = urlsplit(origin)
    host, port = parts.hostname or "", parts.port or 443
    if parts.scheme != "https":
        yield Check(
            "tls", "note", f"{origin} uses plain http, which is only suitable for local tests."
        )
        return
    if select_proxy(origin, get_environ_proxies(origin)):
        yield Check("tls", "note", f"{host} is reached through a proxy, so TLS was not checked.")
        return
    try:
        with (
            socket.create_connection((host, port), timeout=PATIENCE) as raw,
            _context().wrap_socket(raw, server_hostname=host) as secured,
        ):
            version, certificate = secured.version(), secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as untrusted:
        yield Check(
            "tls",
            "bad",
            f"{host}: this machine does not trust the certificate: {untrusted.verify_message}. For"
            " a private certificate authority, set REQUESTS_CA_BUNDLE to its certificate file.",
        )
        return
    except OSError as trouble:
        why = trouble.strerror or str(trouble)
        yield Check("tls", "bad", f"No TLS connection to {host} port {port}: {why}.")
        return
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - clock.time()) / 86400)
    verdict: Verdict = "note" if days < ENDING else "good"
    yield Check("tls", verdict, f"{host}: {version}, certificate valid for {days} days.")


def _context() -> ssl.SSLContext:
    """Return a TLS context that trusts the same certificates as `requests`."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    trusted = next(filter(None, map(os.environ.get, names)), DEFAULT_CA_BUNDLE_PATH)
    folder = os.path.isdir(trusted)  # noqa: PTH112
    context = ssl.create_default_context(
        cafile=None if folder else trusted, capath=trusted if folder else None
    )
    context.hostname_checks_common_name = False  # RFC 9525 section 2, as in the transports
    return context
