"""Fetching a JWK set: bounded in time, size and redirects, from where nobody on the way can change it."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

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
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    context: ssl.SSLContext | None = None
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(host, parts.port, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port)
    # Not left to http.client, which looks the name up without a timeout.
    opened = _connected(_addresses(host, connection.port, end), end)
    try:
        if context is not None:
            opened = context.wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
        connection.sock = opened
        return _asked(connection, opened, parts, end)
    finally:
        connection.close()
        opened.close()


def _asked(
    connection: http.client.HTTPConnection, opened: socket.socket, parts: SplitResult, end: float
) -> tuple[int, str, bytes]:

    def cut() -> None:
        """A server that sends a byte now and then would never run into the timeout of a socket."""
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(max(0.0, end - time.monotonic()), cut)
    clock.daemon = True
    clock.start()
    try:
        if isinstance(opened, ssl.SSLSocket):
            opened.do_handshake()
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


def _addresses(host: str, port: int, end: float) -> list[Any]:
    """What the system's resolver says, as `socket.getaddrinfo` returns it; it knows no timeout, so somebody else waits for it."""
    found: list[Any] = []
    failed: list[OSError | UnicodeError] = []

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    resolving = threading.Thread(target=resolve, name="jwks-resolver", daemon=True)  # nobody's exit waits for it
    resolving.start()
    resolving.join(max(0.0, end - time.monotonic()))
    if resolving.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]
    return found


def _connected(addresses: list[Any], end: float) -> socket.socket:
    """A connection to the first address that takes one."""
    fault: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
        except OSError as error:
            sock.close()
            fault = error
        else:
            return sock
    raise fault
