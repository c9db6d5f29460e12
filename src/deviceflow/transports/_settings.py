"""Where a request goes and by which way: its address, its head, a proxy, and certificates.

The rules are those of `requests`, which the sync transport uses too.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_auth_from_url, select_proxy
from urllib3.util import make_headers, parse_url

from deviceflow._version import __version__
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEMBERED: Final = 128
"""How many addresses, each with its headers, are remembered."""

_PORTS: Final = {"http": 80, "https": 443}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE: Final = re.compile(r"[\r\n\0]")
_NAMES: Final = "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"


class Origin(NamedTuple):
    """What connections can be shared for (RFC 6454 section 4)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The host and the port as in a URL. A port that the scheme implies is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Target(NamedTuple):
    """Where a request goes.

    Attributes:
        url: The normalised URL, without a fragment.
        origin: Its origin.
        path: Its path with the query.
        headers: The headers of the request.
    """

    url: str
    origin: Origin
    path: str
    headers: Mapping[str, str]


class Proxy(NamedTuple):
    """A proxy. It has no repr of its own values, since they contain a password.

    Attributes:
        origin: The proxy's address.
        headers: The headers for the proxy, such as its password.
    """

    origin: Origin
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<Proxy {self.origin.authority}>"


class Way(NamedTuple):
    """How an origin is reached.

    Attributes:
        proxy: The proxy, or None.
        tls: The context of TLS with the origin and with a proxy; None if neither uses TLS.
    """

    proxy: Proxy | None
    tls: ssl.SSLContext | None


class Settings:
    """The settings of a `requests.Session` and of the environment.

    Args:
        session: The session to take `verify`, `cert`, `proxies`, `headers` and `trust_env` from.
            By default, the settings are those of the environment, and the only header is
            `User-Agent`.
        library: The name and version of the HTTP library, for the default `User-Agent`.
    """

    def __init__(self, session: requests.Session | None, library: str) -> None:
        if session is None:
            session = requests.Session()
            agent = f"deviceflow/{__version__} {library}"
            session.headers = CaseInsensitiveDict({"User-Agent": agent})
        self._session = session
        self._context = functools.lru_cache(REMEMBERED)(_context)

    @property
    def unverified(self) -> bool:
        """Whether certificates are not verified: the session's `verify` is false."""
        return self._session.verify is False

    def target(self, url: str, headers: Mapping[str, str], length: int) -> Target:
        """Return where a request goes, and its headers.

        Args:
            url: The URL.
            headers: The request's own headers.
            length: The length of its body.

        Raises:
            ValueError: The URL or a header is invalid.
        """
        model = requests.PreparedRequest()
        model.prepare_url(url, None)
        parts = urlsplit(str(model.url))
        scheme, host = parts.scheme, parts.hostname
        if scheme not in _PORTS or not host:
            raise ValueError("The URL is not an http or https URL.")
        origin = Origin(scheme, host, parts.port or _PORTS[scheme])
        ours: Any = self._session.headers.items()  # as in requests, None removes a header
        merged = CaseInsensitiveDict({"Host": origin.authority})
        merged.update((k, v) for k, v in ours if v is not None)
        merged.update(headers)
        merged.update({"Accept-Encoding": "identity", "Content-Length": str(length)})
        for name, value in merged.items():
            if not _NAME.fullmatch(name) or _NOT_IN_A_VALUE.search(value):
                raise ValueError("A header is invalid.")
        path = parts._replace(scheme="", netloc="", fragment="").geturl()
        return Target(parts._replace(fragment="").geturl(), origin, path, merged)

    def way(self, origin: Origin) -> Way:
        """Return how an origin is reached. This reads the environment and files.

        Raises:
            UsageError: The settings for proxies or certificates are invalid.
            OSError: A file with certificates cannot be used.
        """
        url = f"{origin.scheme}://{origin.authority}/"
        session = self._session
        merged = session.merge_environment_settings(
            url, dict(session.proxies), None, session.verify, session.cert
        )
        proxy = _proxy(select_proxy(url, merged["proxies"]))
        tls = None
        if "https" in (origin.scheme, proxy and proxy.origin.scheme):
            tls = self._context(merged["verify"], merged["cert"])
        return Way(proxy, tls)


def wrong(why: str) -> UsageError:
    """Return the error for wrong settings of this machine, as opposed to its network."""
    return UsageError(why, hint=f"Check {_NAMES}, or the session's settings.")


def _proxy(url: str | None) -> Proxy | None:
    if not url:
        return None
    try:
        url = url if "://" in url else f"http://{url}"
        scheme, _, host, port, *_ = parse_url(url)
        standard = _PORTS[str(scheme)]
        known = Origin(str(scheme), str(host).strip("[]"), port or standard)
    except (ValueError, LookupError):
        known = None
    if known is None or not host:  # the error may quote the proxy's password
        raise wrong("The proxy's URL is invalid, or not one of http or https.") from None
    user, password = get_auth_from_url(url)
    headers = {}
    if user:
        made = make_headers(proxy_basic_auth=f"{user}:{password}")
        headers["Proxy-Authorization"] = made["proxy-authorization"]
    return Proxy(known, headers)


def _context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        bundle = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        _must_exist("TLS CA certificate bundle", bundle)
        folder = os.path.isdir(bundle)  # noqa: PTH112
        context = ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
        # Python's default accepts the name in the subject's CN, which RFC 9525 section 2 forbids.
        context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if cert:
        chain, key = (cert, None) if isinstance(cert, str) else cert
        _must_exist("TLS certificate file", chain)
        _must_exist("TLS key file", key or chain)
        context.load_cert_chain(chain, key)
    return context


def _must_exist(what: str, path: str) -> None:
    if not os.path.exists(path):  # noqa: PTH110
        raise wrong(f"Could not find a suitable {what}, invalid path: {path}.")
