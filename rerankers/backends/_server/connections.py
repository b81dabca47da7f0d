"""Connections to a server, each with what it has brought before.

They are aiohttp's, whose parser is compiled: a request takes a third of the time that httpx's own connections need. To
the `openai` client, which speaks httpx, they look like those.
"""

from __future__ import annotations

import ssl
import urllib.request
from collections import deque
from urllib.parse import urlsplit

import aiohttp
import httpx2
import yarl

from ...errors import InputError

CONNECT_SECONDS = 10.0

IDLE_SECONDS = 4.0
"""A connection that has waited so long is closed: servers close theirs after five, some in the middle of a request."""

REMEMBERED = 16
"""So many of a connection's replies are remembered."""

MOST_BYTES = 1 << 28
"""No reply is longer, unpacked: 64 prompts of 8,000 tokens with log-probabilities take a tenth of it."""

OWN_HEADERS = frozenset({"host", "accept-encoding", "connection"})
"""What the connection says itself."""

DECODED = frozenset({"content-encoding", "transfer-encoding", "content-length"})
"""What a reply's headers say of its body as it came, and not as it is handed over."""


class Connection:
    """One connection at a time, opened when needed and kept open between requests."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None, timeout: float) -> None:
        connector = aiohttp.TCPConnector(limit=1, ssl=context, keepalive_timeout=IDLE_SECONDS)
        # How long an attempt may take as a whole is its caller's business.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=min(timeout, CONNECT_SECONDS))
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=patience, proxy=proxy, cookie_jar=aiohttp.DummyCookieJar()
        )
        self.brought: deque[object] = deque(maxlen=REMEMBERED)
        """Its last replies: ids and contents' hashes."""

    async def send(self, url: yarl.URL, request: httpx2.Request) -> httpx2.Response:
        """The reply to a request, sent to that URL. Raises an error of httpx's."""
        headers = {name: value for name, value in request.headers.items() if name not in OWN_HEADERS}
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=request.content or None, allow_redirects=False
            ) as reply:
                content = bytearray()
                async for chunk in reply.content.iter_any():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        raise aiohttp.ClientPayloadError(f"a reply of more than {MOST_BYTES >> 20} MiB")
        except (aiohttp.ClientError, OSError) as error:
            raise _of_httpx(error) from None
        kept = [(name, value) for name, value in reply.headers.items() if name.lower() not in DECODED]
        return httpx2.Response(reply.status, headers=kept, content=bytes(content), request=request)

    async def close(self) -> None:
        """Close it."""
        await self._session.close()


def _of_httpx(error: aiohttp.ClientError | OSError) -> httpx2.TransportError:
    """The error that httpx would have raised; whether anything was sent is what matters."""
    told = str(error) or type(error).__name__
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return httpx2.ConnectError(told)
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return httpx2.ReadError(told)
    return httpx2.RemoteProtocolError(told)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; none for this machine.

    Raises `InputError` where it is of a kind that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"the proxy for {parts.scheme} in the environment is no HTTP proxy; set {parts.scheme}_proxy to one, or "
            f"no_proxy to {host}"
        )
    return proxy


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")
