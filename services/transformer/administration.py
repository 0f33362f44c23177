"""redis-py's own client, for writing and looking: what may take its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from services.transformer.config import RedisConfig
from services.transformer.redis.url import StoreUrl, read_url

__all__ = ["Administration", "administration", "wait_for_redis"]

TIMEOUT_S = 10.0
PAUSE_S = 0.2

Administration = Redis | RedisCluster


def administration(config: RedisConfig) -> Administration:
    """A client for the store, of its primary where Sentinels name one. It makes no connection before it is used; close it by
    `aclose`. It never tries again by itself: whoever writes knows how long it pays to."""
    url = read_url(config.url)
    options = _options(config, url)
    if url.kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*place) for place in url.places], **options)
    options |= {"retry": Retry(NoBackoff(), 0), "db": url.db}
    if url.kind == "sentinel":
        ours = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
        password = config.sentinel_password.get_secret_value()
        sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(url.places), sentinel_kwargs={**ours, **({"password": password} if password else {})}
        )
        primary: Redis = sentinels.master_for(url.primary, **options)
        return primary
    if url.path:
        return Redis(unix_socket_path=url.path, **options)
    host, port = url.places[0]
    return Redis(host=host, port=port, **options)


async def wait_for_redis(client: Administration, wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Return as soon as Redis answers; raises redis-py's last error after `wait_s`."""
    end = clock() + wait_s
    while True:
        try:
            await client.ping()
            return
        except (RedisError, RedisClusterException, OSError):
            if clock() + PAUSE_S > end:
                raise
        await asyncio.sleep(PAUSE_S)


def _options(config: RedisConfig, url: StoreUrl) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "protocol": 2,
        "client_name": "infermesh-administration",
    }
    if url.username:
        options["username"] = url.username
    if password := config.password.get_secret_value() or url.password:
        options["password"] = password
    if url.has_tls:
        options["ssl"] = True
        for name, value in url.tls:
            options[name] = value.lower() in ("true", "1", "yes") if name == "ssl_check_hostname" else value
        files = {"ssl_ca_certs": config.ca, "ssl_certfile": config.certificate, "ssl_keyfile": config.key}
        options |= {name: str(file) for name, file in files.items() if file is not None}
    return options
