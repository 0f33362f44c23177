"""The address of the feature store, as it is written."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["Place", "StoreUrl", "read_url"]

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
PORT, SENTINEL_PORT = 6379, 26379
# What may stand behind the "?": redis-py's words for what belongs to an address.
WORDS = ("db", "username", "password")
TLS_WORDS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs")

Place = tuple[str, int]  # host and port


class StoreUrl(NamedTuple):
    """Where servers are, or who knows where they are."""

    places: tuple[Place, ...] = ()
    """The server, nodes of a cluster to begin with, or Sentinels."""
    path: str = ""
    """Of a socket, instead of a place."""
    kind: str = ""
    """`sentinel`, `cluster`, or nothing."""
    primary: str = ""
    """Its name at the Sentinels."""
    has_tls: bool = False
    username: str = ""
    password: str = ""
    db: int = 0
    tls: tuple[tuple[str, str], ...] = ()
    """redis-py's words about certificates that stood in the address."""


def read_url(url: str) -> StoreUrl:
    """Raises ValueError, which quotes nothing of the address: it may hold a password."""
    scheme, _, _ = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"expected an address that begins with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    parts = urlsplit(url)
    has_tls = scheme.startswith("rediss")
    kind = scheme.partition("+")[2]
    words = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = WORDS + (TLS_WORDS if has_tls else ())
    if unknown := sorted(set(words) - set(allowed)):
        raise ValueError(f"expected nothing but {', '.join(allowed)} behind the ?, got {', '.join(unknown)}")
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    primary, path = "", ""
    db = words.get("db", "")
    if scheme == "unix":
        path = unquote(parts.path)
        if not path:
            raise ValueError("expected the path of a socket: unix:///run/redis.sock")
        places: tuple[Place, ...] = ()
    else:
        in_path = parts.path.strip("/")
        if kind == "sentinel":
            primary, _, in_path = in_path.partition("/")
            if not primary:
                raise ValueError("expected the primary's name at the Sentinels: redis+sentinel://one,two:26379/name/1")
        many = hosts.split(",") if kind else [hosts]
        places = tuple(_place(each, SENTINEL_PORT if kind == "sentinel" else PORT) for each in many)
        db = in_path or db
    if db and not db.isdecimal():
        raise ValueError("expected the number of a database behind the host: redis://redis:6379/1")
    if kind == "cluster" and int(db or 0):
        raise ValueError("expected no database in the address of a cluster, which has but one")
    return StoreUrl(
        places,
        path,
        kind,
        primary,
        has_tls,
        unquote(username) or words.get("username", ""),
        unquote(password) or words.get("password", ""),
        int(db or 0),
        tuple((word, words[word]) for word in TLS_WORDS if word in words),
    )


def _place(text: str, port: int) -> Place:
    try:
        place = urlsplit(f"//{text}")
        host, given = place.hostname, place.port
    except ValueError:
        raise ValueError("expected host:port, with a port from 1 to 65535") from None
    if not host or given == 0:
        raise ValueError("expected host:port, with a port from 1 to 65535")
    return host, given or port
