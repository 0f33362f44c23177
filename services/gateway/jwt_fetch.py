"""Fetching a JWK set: bounded in time, size and redirects, from where nobody on the way can change it."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from services.gateway.jwks import MAX_JWKS_BYTES
from services.gateway.jwt_config import may_fetch

__all__ = ["FetchFailed", "fetch"]

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK_BYTES = 16 * 1024


class FetchFailed(Exception):
    """Why the keys could not be fetched, in a line; nothing of what was answered is in it."""


def fetch(url: str, *, timeout_s: float, ca: Path | None = None) -> bytes:
    """The body that is answered with status 200. Blocks, at most for the time. Raises FetchFailed."""
    end = time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        if not may_fetch(url):
            raise FetchFailed("redirected to where keys may not come from: expected https, or http on this machine")
        try:
            status, location, body = _get(url, end, ca)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = ", or out of time" if time.monotonic() >= end else ""
            raise FetchFailed(f"can't be fetched: {type(error).__name__}{late}") from None
        if status in REDIRECTS and location:
            url = urljoin(url, location)
            continue
        if status != 200:
            raise FetchFailed(f"can't be fetched: HTTP status {status}")
        if len(body) > MAX_JWKS_BYTES:
            raise FetchFailed(f"expected at most {MAX_JWKS_BYTES} bytes")
        return body
    raise FetchFailed(f"redirected more than {MAX_REDIRECTS} times")


def _get(url: str, end: float, ca: Path | None) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=left, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=left)

    opened: socket.socket | None = None  # ours too: http.client lets go of it before the body is read

    def cut() -> None:
        """A server that sends a byte now and then would never run into the timeout of a socket."""
        if (sock := opened or connection.sock) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(left, cut)
    clock.daemon = True
    clock.start()
    try:
        connection.connect()
        opened = connection.sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/jwk-set+json, application/json"})
        response = connection.getresponse()
        body = b""
        if response.status == 200:
            while len(body) <= MAX_JWKS_BYTES and (chunk := response.read1(CHUNK_BYTES)):
                body += chunk
                if time.monotonic() >= end:
                    raise TimeoutError
            if time.monotonic() >= end:  # cut off: the end of what came is not the end of what was sent
                raise TimeoutError
        return response.status, response.getheader("Location", ""), body
    finally:
        clock.cancel()
        connection.close()
