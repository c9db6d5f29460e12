"""Whether the server can be reached by TLS, and whose certificate it shows."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from deviceflow.doctor._finding import Finding, Verdict
from deviceflow.doctor._recorder import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.ports import Clock
    from deviceflow.providers.oauth import OAuth


ENDING: Final = 14
"""Days before a certificate's end from which on it is worth a word."""


def origins(provider: OAuth) -> list[str]:
    """Return where the login goes, as far as that is known beforehand, each place once."""
    urls = (provider.issuer, provider.device_authorization_endpoint, provider.token_endpoint)
    parts = [urlsplit(url) for url in urls if url]
    return list(dict.fromkeys(f"{one.scheme}://{one.netloc}" for one in parts))


def transport_security(origin: str, clock: Clock) -> Iterator[Finding]:
    parts = urlsplit(origin)
    host, port = parts.hostname or "", parts.port or 443
    if parts.scheme != "https":
        yield Finding("tls", "note", f"{origin} is plain http: good for a test here only.")
        return
    if select_proxy(origin, get_environ_proxies(origin)):
        yield Finding("tls", "note", f"{host} is reached by a proxy, so TLS was not looked at.")
        return
    try:
        with (
            socket.create_connection((host, port), timeout=PATIENCE) as raw,
            _context().wrap_socket(raw, server_hostname=host) as secured,
        ):
            version, certificate = secured.version(), secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as untrusted:
        yield Finding(
            "tls",
            "bad",
            f"{host}: its certificate is not trusted here: {untrusted.verify_message}. Where it is"
            " from an authority of your own, name that one's file in REQUESTS_CA_BUNDLE.",
        )
        return
    except OSError as trouble:
        yield Finding("tls", "bad", f"{host} port {port} cannot be reached by TLS: {trouble}.")
        return
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - clock.time()) / 86400)
    verdict: Verdict = "note" if days < ENDING else "good"
    yield Finding("tls", verdict, f"{host}: {version}, certificate good for {days} days.")


def _context() -> ssl.SSLContext:
    """Return what trusts whom `requests` trusts."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    trusted = next(filter(None, map(os.environ.get, names)), DEFAULT_CA_BUNDLE_PATH)
    folder = os.path.isdir(trusted)  # noqa: PTH112
    return ssl.create_default_context(
        cafile=None if folder else trusted, capath=trusted if folder else None
    )
