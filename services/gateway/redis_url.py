"""The address of the store of shared limits, as it is written."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

__all__ = ["StoreUrl", "read_url"]

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
SENTINEL = "+sentinel"
SENTINEL_PORT = 26379
# What may stand behind the "?". Others of redis-py's would change how long we wait, or what is answered.
WORDS = ("db", "username", "password")
TLS_WORDS = (
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_min_version",
    "ssl_ciphers",
)


class StoreUrl(NamedTuple):
    """Where a server is, or who knows where it is."""

    server: str
    """As redis-py takes it; with Sentinel its host is nobody's, and the primary's is put there."""
    sentinels: tuple[tuple[str, int], ...] = ()
    primary: str = ""
    """Its name at the Sentinels."""

    @property
    def has_tls(self) -> bool:
        return self.server.startswith("rediss:")


def read_url(url: str) -> StoreUrl:
    """Raises ValueError, which quotes nothing of the address: it may hold a password."""
    scheme, _, _ = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"expected an address that begins with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    parts = urlsplit(url)
    words = parse_qs(parts.query, keep_blank_values=True)
    allowed = WORDS + (TLS_WORDS if scheme.startswith("rediss") else ())
    if unknown := sorted(set(words) - set(allowed)):
        raise ValueError(f"expected nothing but {', '.join(allowed)} behind the ?, got {', '.join(unknown)}")
    if not all(each.isdecimal() for each in words.get("db", ())):
        raise ValueError("expected a number as db")
    if scheme == "unix":
        if not parts.path:
            raise ValueError("expected the path of a socket: unix:///run/redis.sock")
        return StoreUrl(url)
    if not scheme.endswith(SENTINEL):
        _place(parts.netloc.rpartition("@")[2], 0)
        if (db := parts.path.strip("/")) and not db.isdecimal():
            raise ValueError("expected the number of a database behind the host: redis://redis:6379/1")
        return StoreUrl(url)
    login, at, places = parts.netloc.rpartition("@")
    primary, _, db = parts.path.strip("/").partition("/")
    if not primary or (db and not db.isdecimal()):
        raise ValueError("expected the primary's name at the Sentinels: redis+sentinel://one:26379,two:26379/name/1")
    query = f"?{parts.query}" if parts.query else ""
    server = f"{scheme.removesuffix(SENTINEL)}://{login}{at}primary/{db}{query}"
    return StoreUrl(server, tuple(_place(each, SENTINEL_PORT) for each in places.split(",")), primary)


def _place(text: str, port: int) -> tuple[str, int]:
    try:
        place = urlsplit(f"//{text}")
        host, given = place.hostname, place.port
    except ValueError:
        raise ValueError("expected host:port, with a port from 1 to 65535") from None
    if not host or given == 0:
        raise ValueError("expected host:port, with a port from 1 to 65535")
    return host, given or port
