"""Ways to the store of shared limits: passwords, users, TLS and Sentinels."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.ports import HOST, free_port
from infermesh.cli.valkey import Valkey
from services.gateway.redis_url import read_url
from tests.certificates import Authority
from tests.unit.gateway.limits import Replica, call_of, prefix, replica, until
from tests.unit.gateway.redis_servers import Sentinel, tls_relay

RULE = {"rate": 0.01, "burst": 4, "local_share": 0.5}  # a replica alone lets in two
NAME = "limits"


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    """A server with a password, and a user who may do what the limits need, on their keys."""
    with Valkey(options=["--requirepass", "s3cret"]) as server:
        with Redis(port=server.port, password="s3cret") as admin:
            rights = ["~{test-limits-*", "-@all", "+eval", "+evalsha", "+mget", "+set", "+time", "+select"]
            admin.execute_command("ACL", "SETUSER", "gateway", "on", ">p@ss/word", *rights, "+client|setname")
        yield server


async def _up(gateway: Replica) -> None:
    await until(lambda: not gateway.lane.is_away)


@pytest.mark.parametrize(
    ("login", "password"),
    [("", "s3cret"), (":s3cret@", ""), ("gateway@", "p@ss/word"), ("gateway:p%40ss%2Fword@", "")],
)
async def test_a_password_and_a_user_let_the_gateway_in(locked: Valkey, login: str, password: str) -> None:
    """By the setting or in the address; the user needs no more rights than the documentation names."""
    async with replica(f"redis://{login}{HOST}:{locked.port}/0", RULE, password=password) as gateway:
        await _up(gateway)

        assert await gateway.admitted(6) == 4
        assert gateway.failures == []


@pytest.mark.parametrize(("login", "password"), [("", ""), ("", "wr0ng"), ("gateway@", "wr0ng")])
async def test_a_wrong_password_is_a_store_that_is_away(
    locked: Valkey, login: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rules do as configured; the log says once what is wrong, without the password."""
    async with replica(f"redis://{login}{HOST}:{locked.port}", RULE, password=password) as gateway:
        await until(lambda: len(gateway.failures) > 2)

        assert await gateway.admitted(6) == 2
        assert set(gateway.failures) == {"connect"}
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("the store of shared limits is away: connect: ")
    assert "wr0ng" not in caplog.text


async def test_limits_by_tls(redis_url: str, tmp_path: Path) -> None:
    """The server's certificate is verified by the roots that are given, and by its name."""
    ours, shown = Authority(tmp_path), Authority(tmp_path, "other").pair(dns=["localhost"])
    good = ours.pair(dns=["localhost"])
    port = int(redis_url.rpartition(":")[2])
    async with tls_relay(port, good) as right, tls_relay(port, shown) as wrong:
        async with replica(f"rediss://localhost:{right}", RULE, ca=ours.file) as gateway:
            await _up(gateway)
            assert await gateway.admitted(6) == 4
        for url in (f"rediss://localhost:{wrong}", f"rediss://127.0.0.1:{right}", f"redis://localhost:{right}"):
            ca = {"ca": ours.file} if url.startswith("rediss") else {}
            async with replica(url, RULE, **ca, connect_timeout="300ms") as gateway:
                assert await gateway.admitted(6) == 2
                assert set(gateway.failures) == {"connect"}


async def test_only_the_given_roots_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """With `ca` a certificate that the system would trust is none; without it the system's roots count."""
    system, own = Authority(tmp_path, "system"), Authority(tmp_path, "own")
    monkeypatch.setenv("SSL_CERT_FILE", str(system.file))
    async with tls_relay(int(redis_url.rpartition(":")[2]), system.pair(dns=["localhost"])) as port:
        async with replica(f"rediss://localhost:{port}", RULE) as gateway:
            await _up(gateway)
            assert await gateway.admitted(6) == 4
        async with replica(f"rediss://localhost:{port}", RULE, ca=own.file) as gateway:
            assert await gateway.admitted(6) == 2
            assert set(gateway.failures) == {"connect"}


async def test_a_server_may_ask_for_our_certificate(redis_url: str, tmp_path: Path) -> None:
    """It is named in the address, as redis-py's clients do."""
    root = Authority(tmp_path)
    shown, ours = root.pair(dns=["localhost"]), root.pair("gateway", clients_only=True)
    async with tls_relay(int(redis_url.rpartition(":")[2]), shown, clients=root.file) as port:
        url = f"rediss://localhost:{port}?ssl_certfile={ours.cert}&ssl_keyfile={ours.key}"
        async with replica(url, RULE, ca=root.file) as gateway:
            await _up(gateway)
            assert await gateway.admitted(6) == 4
        async with replica(f"rediss://localhost:{port}", RULE, ca=root.file) as gateway:
            assert await gateway.admitted(6) == 2


@pytest.mark.parametrize("given", [True, False])
async def test_roots_are_read_beside_the_loop(
    given: bool, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's take 20 ms, with every try to connect: calls would wait for that."""
    root, made, at = Authority(tmp_path), ssl.create_default_context, []

    def noted(*args: Any, **rest: Any) -> ssl.SSLContext:
        at.append(threading.get_ident())
        return made(*args, **rest)

    async with tls_relay(int(redis_url.rpartition(":")[2]), root.pair(dns=["localhost"])) as port:
        monkeypatch.setattr(ssl, "create_default_context", noted)
        async with replica(f"rediss://localhost:{port}", RULE, **({"ca": root.file} if given else {})) as gateway:
            await until(lambda: gateway.failures or not gateway.lane.is_away)

    assert at
    assert threading.get_ident() not in at


@pytest.fixture
def watched() -> Iterator[tuple[Valkey, Valkey, Sentinel]]:
    """A primary, its replica, and a Sentinel that watches them."""
    with (
        Valkey() as primary,
        Valkey(options=["--replicaof", HOST, str(primary.port), "--repl-diskless-sync-delay", "0"]) as second,
        Sentinel(primary, NAME) as sentinel,
    ):
        yield primary, second, sentinel


async def _known(sentinel: Sentinel) -> None:
    """Until the Sentinel could make the replica the primary."""
    with Redis(port=sentinel.port) as admin:
        await until(lambda: any("ok" in each.get("master-link-status", "") for each in admin.sentinel_slaves(NAME)))


@pytest.mark.parametrize("how", ["killed", pytest.param("asked", marks=pytest.mark.long)])
async def test_the_limits_follow_a_failover(watched: tuple[Valkey, Valkey, Sentinel], how: str) -> None:
    """The primary dies, or Sentinel is told to change it: a replica alone meanwhile, then the new primary, with what it has of
    the old one's counts."""
    primary, second, sentinel = watched
    await _known(sentinel)
    gone = free_port()  # a Sentinel that is not there is passed over
    url, keys = f"redis+sentinel://{HOST}:{gone},{HOST}:{sentinel.port}/{NAME}/0", prefix()
    async with replica(url, {**RULE, "burst": 100}, key_prefix=keys, probe_every="50ms") as gateway:
        await _up(gateway)
        assert await gateway.admitted(3) == 3
        with Redis(port=second.port) as copy:
            await until(lambda: len(copy.keys(f"*{keys}*rule0*")) == 1)
        level = gateway.plans.of("iris", call_of()).shared[0]

        if how == "killed":
            os.kill(primary.pid, signal.SIGKILL)
            await until(lambda: gateway.lane.is_away)
            assert await gateway.ask() is None  # by the limit of this replica
        else:
            with Redis(port=sentinel.port) as admin:
                admin.execute_command("SENTINEL", "FAILOVER", NAME)
        with Redis(port=second.port) as new:
            await until(lambda: new.info("replication")["role"] == "master")
            before = new.get(level.key)
            await until(lambda: bool(gateway.failures))
            await _up(gateway)
            await gateway.admitted(1)
            after = new.get(level.key)

        assert before is not None
        assert after is not None
        assert int(after.split()[0]) > int(before.split()[0])


async def test_sentinels_with_passwords_and_tls(tmp_path: Path) -> None:
    """Sentinel and server are asked by TLS with the same roots, each with a password of its own."""
    root = Authority(tmp_path)
    shown = root.pair(dns=["localhost"])
    with (
        Valkey(options=["--requirepass", "server"]) as server,
        Sentinel(server, NAME, "sentinel") as sentinel,
    ):
        async with tls_relay(sentinel.port, shown) as to_sentinel, tls_relay(server.port, shown) as to_server:
            with Redis(port=sentinel.port, password="sentinel") as admin:
                admin.execute_command("SENTINEL", "REMOVE", NAME)
                admin.execute_command("SENTINEL", "CONFIG", "SET", "resolve-hostnames", "yes")
                admin.execute_command("SENTINEL", "CONFIG", "SET", "announce-hostnames", "yes")
                admin.execute_command("SENTINEL", "MONITOR", NAME, "localhost", to_server, 1)
            url = f"rediss+sentinel://localhost:{to_sentinel}/{NAME}"
            words = {"ca": root.file, "password": "server"}
            async with replica(url, RULE, **words, sentinel_password="sentinel") as gateway:
                await _up(gateway)
                assert await gateway.admitted(6) == 4
            async with replica(url, RULE, **words, sentinel_password="wr0ng") as gateway:
                assert await gateway.admitted(6) == 2


async def test_a_sentinel_that_knows_no_such_primary_is_told_in_the_log(
    watched: tuple[Valkey, Valkey, Sentinel], caplog: pytest.LogCaptureFixture
) -> None:
    """A name that is misspelt is a store that is away; the one line about it has the name."""
    url = f"redis+sentinel://{HOST}:{watched[2].port}/limit"
    async with replica(url, RULE) as gateway:
        assert await gateway.admitted(6) == 2

    assert f"{HOST}:{watched[2].port} knows no primary limit" in caplog.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x", "redis://, rediss://, unix://, redis.sentinel://, rediss.sentinel://"),
        ("redis://", "host:port"),
        ("redis://redis:70000/1", "a port from 1 to 65535"),
        ("redis://redis:pw@x:y", "a port from 1 to 65535"),
        ("redis://redis/one", "the number of a database"),
        ("redis://redis?db=one", "a number as db"),
        ("redis://redis?socket_timeout=1", "nothing but db, username, password behind the .*, got socket_timeout"),
        ("redis://redis?ssl_certfile=x", "got ssl_certfile"),
        ("unix://", "the path of a socket"),
        ("redis+sentinel://one:26379", "the primary's name"),
        ("redis+sentinel://one/name/two", "the primary's name"),
        ("redis+sentinel://one,,two/name", "host:port"),
    ],
)
def test_an_address_that_can_not_be_meant_is_refused(url: str, words: str) -> None:
    """With what would be right, and without a password that may stand in it."""
    with pytest.raises(ValueError, match=words) as refused:
        read_url(url)

    assert "pw" not in str(refused.value)


def test_an_address_of_sentinels_is_read() -> None:
    """Several of them, with and without ports, the primary's name, and what belongs to its server."""
    url = read_url("rediss+sentinel://ann:p%40w@one,[::1]:7,two:26380/limits/3?ssl_ciphers=x")

    assert url.sentinels == (("one", 26379), ("::1", 7), ("two", 26380))
    assert (url.primary, url.has_tls) == ("limits", True)
    assert url.server == "rediss://ann:p%40w@primary/3?ssl_ciphers=x"
    assert read_url("redis://x/1") == ("redis://x/1", (), "")
