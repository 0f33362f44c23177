"""Ways to the feature store: passwords, users, TLS, sockets and Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.valkey import Valkey
from services.transformer.redis.errors import Lost, Unanswered
from services.transformer.redis.single import SingleClient
from services.transformer.redis.url import read_url
from tests.certificates import Authority
from tests.unit.gateway.redis_servers import Sentinel, tls_relay
from tests.unit.transformer.redis_chaos import config_of, until

ClientOf = Callable[..., SingleClient]


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes clients, and closes them."""
    made: list[SingleClient] = []

    def make(url: str, failed: Callable[[str], None] = lambda why: None, **settings: Any) -> SingleClient:
        made.append(SingleClient(config_of(url, **settings), failed=failed))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        with Redis(port=server.port) as admin:
            admin.mset({f"k{number}": f"v{number}" for number in range(100)})
        yield server


async def test_users_passwords_and_databases(client_of: ClientOf, tmp_path: Path) -> None:
    """By setting or address, by TCP or socket; a user needs no more than the right to read."""
    path = tmp_path / "redis.sock"
    with Valkey(options=["--requirepass", "s3cret", "--unixsocket", str(path)]) as server:
        with Redis(port=server.port, password="s3cret", db=3) as admin:
            admin.set("infermesh:a", "three")
            admin.execute_command(
                "ACL", "SETUSER", "reader", "on", ">p@ss", "~infermesh:*", "-@all", "+mget", "+select"
            )
        where = f"127.0.0.1:{server.port}/3"
        for client in (
            client_of(f"redis://{where}", password="s3cret"),
            client_of(f"redis://:s3cret@{where}"),
            client_of(f"redis://reader@{where}", password="p@ss"),
            client_of(f"redis://reader:p%40ss@{where}"),
            client_of(f"unix://{path}?db=3", password="s3cret"),
            client_of(f"redis://{where}", password="s3cret", cache={"max_bytes": "1MiB"}),
        ):
            assert await client.mget([b"infermesh:a"], deadline_s=5) == [b"three"]
        for wrong in (client_of(f"redis://{where}", password="gu3ss"), client_of(f"redis://reader:gu3ss@{where}")):
            with pytest.raises(Lost, match="refuses user and password") as refused:
                await wrong.mget([b"infermesh:a"], deadline_s=5)
            assert "gu3ss" not in str(refused.value)
        with pytest.raises(Lost, match="wants a password"):
            await client_of(f"redis://{where}").mget([b"a"], deadline_s=5)


async def test_tls(own: Valkey, client_of: ClientOf, tmp_path: Path) -> None:
    """With the right roots and a certificate of ours it works; without either it does not."""
    root = Authority(tmp_path)
    mine = root.pair("transformer", clients_only=True)
    async with tls_relay(own.port, root.pair(dns=["localhost"]), root.file) as port:
        url = f"rediss://localhost:{port}"
        client = client_of(url, ca=root.file, certificate=mine.cert, key=mine.key)
        assert await client.mget([b"k1"], deadline_s=5) == [b"v1"]
        words = f"?ssl_ca_certs={root.file}&ssl_certfile={mine.cert}&ssl_keyfile={mine.key}"
        assert await client_of(url + words).mget([b"k1"], deadline_s=5) == [b"v1"]
        for settings in ({}, {"ca": root.file}):
            with pytest.raises(Lost):
                await client_of(url, **settings).mget([b"k1"], deadline_s=5)
        other = client_of(f"rediss://127.0.0.1:{port}", ca=root.file, certificate=mine.cert, key=mine.key)
        with pytest.raises(Lost, match="certificate"):
            await other.mget([b"k1"], deadline_s=5)


@pytest.fixture
def watched() -> Iterator[tuple[Valkey, Valkey, Sentinel]]:
    with (
        Valkey() as primary,
        Valkey(options=["--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"]) as second,
        Sentinel(primary, "features") as sentinel,
    ):
        yield primary, second, sentinel


@pytest.mark.parametrize("how", ["killed", pytest.param("asked", marks=pytest.mark.long)])
async def test_sentinels_name_the_primary_and_the_next(
    watched: tuple[Valkey, Valkey, Sentinel], client_of: ClientOf, how: str, unused_tcp_port: int
) -> None:
    """A Sentinel that is not there is passed over; after a failover the new primary is read."""
    primary, second, sentinel = watched
    with Redis(port=primary.port) as admin:
        admin.set("who", "first")
    with Redis(port=sentinel.port) as admin:
        await until(
            lambda: any("ok" in each.get("master-link-status", "") for each in admin.sentinel_slaves("features"))
        )
    url = f"redis+sentinel://127.0.0.1:{unused_tcp_port},127.0.0.1:{sentinel.port}/features/0"
    client = client_of(url, failures=10**6)
    assert await client.mget([b"who"], deadline_s=5) == [b"first"]
    with Redis(port=second.port) as copy:
        await until(lambda: copy.get("who") == b"first")

        if how == "killed":
            primary.stop()
        else:
            with Redis(port=sentinel.port) as admin:
                admin.execute_command("SENTINEL", "FAILOVER", "features")
        await until(lambda: copy.info("replication")["role"] == "master")
        copy.set("who", "second")

    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Unanswered):
                if await client.mget([b"who"], deadline_s=5) == [b"second"]:
                    break
            await asyncio.sleep(0.02)


async def test_a_primary_that_no_sentinel_knows_is_named(
    watched: tuple[Valkey, Valkey, Sentinel], client_of: ClientOf
) -> None:
    """A misspelt name is told as it stands."""
    client = client_of(f"redis+sentinel://127.0.0.1:{watched[2].port}/feature")

    with pytest.raises(Lost, match="knows no primary feature"):
        await client.mget([b"a"], deadline_s=5)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x", "redis://, rediss://, unix://"),
        ("redis://", "host:port"),
        ("redis://redis:70000/1", "a port from 1 to 65535"),
        ("redis://redis:pw@x:y", "a port from 1 to 65535"),
        ("redis://redis/one", "the number of a database"),
        ("redis://redis?socket_timeout=1", "nothing but db, username, password behind the .*, got socket_timeout"),
        ("redis://redis?ssl_certfile=x", "got ssl_certfile"),
        ("unix://", "the path of a socket"),
        ("redis+sentinel://one:26379", "the primary's name"),
        ("redis+sentinel://one,,two/name", "host:port"),
        ("redis+cluster://one/1", "no database"),
    ],
)
def test_an_address_that_can_not_be_meant_is_refused(url: str, words: str) -> None:
    """With what would be right, and without a password that may stand in it."""
    with pytest.raises(ValueError, match=words) as refused:
        read_url(url)

    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "redis://x", "ca": "/x"}, "ca: expected a url with TLS"),
        ({"url": "rediss://x", "key": "/x"}, "both or none"),
        ({"url": "redis://x", "sentinel_password": "x"}, "a url of Sentinels"),
        ({"url": "redis://x", "read_from": "replica"}, "a url of a cluster"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, str], words: str) -> None:
    """At start, and not when the first lookup comes."""
    with pytest.raises(ValueError, match=words):
        config_of(**settings)


def test_an_address_of_several_is_read() -> None:
    """With and without ports, users and databases."""
    url = read_url("rediss+sentinel://ann:p%40w@one,[::1]:7,two:26380/limits/3")

    assert url.places == (("one", 26379), ("::1", 7), ("two", 26380))
    assert (url.primary, url.has_tls, url.username, url.password, url.db) == ("limits", True, "ann", "p@w", 3)
    assert read_url("redis+cluster://a,b:7").places == (("a", 6379), ("b", 7))
    assert read_url("unix:///run/r.sock?db=2").path == "/run/r.sock"
