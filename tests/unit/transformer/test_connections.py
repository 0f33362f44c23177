"""Connections that are cut, slow to make, or too few; on uvloop, as the service runs."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE
from services.transformer.config import RedisConfig
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.client import make_client
from services.transformer.redis.errors import Unanswered
from services.transformer.redis.request import KEYS_PER_COMMAND
from services.transformer.store import FeatureStore, StoreUnavailable

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST


class Relay:
    """Passes bytes on to a server; `connect_s` is what each connection costs, once, and `answer_s` each answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[asyncio.StreamWriter] = []
        self.connect_s = 0.0
        self.answer_s = 0.0
        self.connections = 0
        self.is_deaf = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        self.connections += 1
        if self.is_deaf:
            writer.close()
            return
        await asyncio.sleep(self.connect_s)
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, to_upstream, slow=False), self._pump(upstream, writer, slow=True))

    def reset(self) -> None:
        """Send RST to every client."""
        for client in self._clients:
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.transport.abort()
        self._clients.clear()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(65536):
                if slow:
                    await asyncio.sleep(self.answer_s)
                writer.write(data)
        writer.close()


@asynccontextmanager
async def relayed(valkey: Valkey) -> AsyncIterator[Relay]:
    relay = Relay(valkey.port)
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(relay.serve(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    relay.url = "redis://{}:{}".format(*server.sockets[0].getsockname())
    yield relay
    server.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def on_uvloop(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def config_of(relay: Relay, **settings: Any) -> RedisConfig:
    return RedisConfig.model_validate({"url": relay.url, "timeout": "2s", **settings})


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


Counted = Callable[..., float]


def test_a_reset_of_an_idle_connection_is_not_noticed(
    valkey: Valkey, feature_metrics: FeatureMetrics, counted: Counted
) -> None:
    """After RST on all kept connections the next lookup makes a new one and is answered."""

    async def lookups() -> None:
        async with relayed(valkey) as relay:
            store = FeatureStore(config_of(relay), feature_metrics)
            await asyncio.gather(*(store.lookup([b"a"], NO_DEADLINE) for _ in range(3)))
            relay.reset()
            await asyncio.sleep(0.05)

            assert await store.lookup([b"a"], NO_DEADLINE) == [None]
            await store.close()

    on_uvloop(lookups())
    assert counted("infermesh_transformer_lookups_total", result="ok") == 4


def test_the_watch_survives_a_reset(
    valkey: Valkey, feature_metrics: FeatureMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset between two probes, and an error that nobody expected, leave the watch going; it closes the breaker again."""

    async def watched() -> None:
        async with relayed(valkey) as relay:
            config = config_of(relay, probe_every="10ms", failures=1, connections=1)
            store = FeatureStore(config, feature_metrics)
            client = store._client
            told: list[bool] = []
            monkeypatch.setattr(feature_metrics, "redis_up", told.append)
            watching = asyncio.ensure_future(store.watch())
            await until(lambda: told == [True])
            for made in (2, 3):
                relay.reset()
                await until(lambda made=made: relay.connections >= made)  # type: ignore[misc]
                assert await client.ask((b"ECHO", b"a"), deadline_s=5) == [b"a"]
            assert told == [True]

            broken_off = 0

            async def broken() -> bool:
                nonlocal broken_off
                broken_off += 1
                raise RuntimeError("nobody expected it")

            with monkeypatch.context() as patch:
                patch.setattr(client, "probe", broken)
                await until(lambda: broken_off > 1)
            relay.is_deaf = True
            relay.reset()
            await until(lambda: told == [True, False])
            relay.is_deaf = False
            await until(lambda: told == [True, False, True])

            assert not watching.done()
            assert await store.lookup([b"a"], NO_DEADLINE) == [None]
            watching.cancel()
            await asyncio.wait({watching})
            await store.close()

    on_uvloop(watched())


def test_a_connection_that_takes_longer_than_a_lookup_is_made_all_the_same(
    valkey: Valkey, feature_metrics: FeatureMetrics
) -> None:
    """A lookup gives up after its timeout, the connection is made meanwhile and serves those that follow."""

    async def lookups() -> None:
        async with relayed(valkey) as relay:
            relay.connect_s = 0.3
            store = FeatureStore(config_of(relay, timeout="150ms"), feature_metrics)
            with pytest.raises(StoreUnavailable, match="no answer within 150 ms"):
                await store.lookup([b"a"], NO_DEADLINE)
            await asyncio.sleep(0.3)

            for _ in range(5):
                assert await store.lookup([b"a"], NO_DEADLINE) == [None]
            assert relay.connections == 1
            await store.close()

    on_uvloop(lookups())


def test_a_store_that_cannot_be_connected_to_is_away(valkey: Valkey, feature_metrics: FeatureMetrics) -> None:
    """Lookups that wait for connections alone open the breaker, and a connection that never comes is given up."""

    async def lookups() -> None:
        async with relayed(valkey) as relay:
            relay.connect_s = 60
            store = FeatureStore(config_of(relay, timeout="20ms", connect_timeout="200ms"), feature_metrics)
            await until_away(store)
            relay.connect_s = 0.0
            async with asyncio.timeout(10):
                while not await store.probe():
                    pass
            await store.close()

    on_uvloop(lookups())


async def until_away(store: FeatureStore) -> None:
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(StoreUnavailable) as refused:
                await store.lookup([b"a"], NO_DEADLINE)
            if str(refused.value) == "Redis is away":
                return


def test_a_failed_connection_is_told_to_all_that_wait(feature_metrics: FeatureMetrics) -> None:
    """Where nobody listens, all lookups fail at once, also those for which there was no place."""

    async def lookups() -> None:
        config = RedisConfig.model_validate({"url": "redis://127.0.0.1:1", "timeout": "30s", "connections": 2})
        store = FeatureStore(config, feature_metrics)
        async with asyncio.timeout(10):
            failed = await asyncio.gather(
                *(store.lookup([b"a"], NO_DEADLINE) for _ in range(9)), return_exceptions=True
            )
        assert all(isinstance(each, StoreUnavailable) for each in failed)

    on_uvloop(lookups())


def test_a_stall_of_the_loop_is_not_the_stores_failure(
    valkey: Valkey, feature_metrics: FeatureMetrics, counted: Counted
) -> None:
    """When the loop was busy for longer than the timeout, the answers that came meanwhile are taken."""

    async def lookups() -> None:
        async with relayed(valkey):
            config = RedisConfig.model_validate({"url": valkey.url, "timeout": "50ms"})
            store = FeatureStore(config, feature_metrics)
            await asyncio.gather(*(store.lookup([b"a"], NO_DEADLINE) for _ in range(6)))
            started = [asyncio.ensure_future(store.lookup([b"a"], NO_DEADLINE)) for _ in range(6)]
            for _ in range(3):  # they begin, and are written
                await asyncio.sleep(0)
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass
            assert await asyncio.gather(*started) == [[None]] * 6
            await store.close()

    on_uvloop(lookups())
    assert counted("infermesh_transformer_lookups_total", result="ok") == 12


def test_who_asks_for_much_opens_no_breaker_for_others(valkey: Valkey, feature_metrics: FeatureMetrics) -> None:
    """A lookup of many keys that takes too long is that caller's affair; one of a few keys counts."""

    async def lookups() -> None:
        async with relayed(valkey) as relay:
            store = FeatureStore(config_of(relay, timeout="100ms", failures=1), feature_metrics)
            many = [b"%d" % number for number in range(KEYS_PER_COMMAND + 1)]
            await store.lookup(many, NO_DEADLINE)
            lanes = store._client._node.lanes  # type: ignore[attr-defined]
            await until(lambda: all(lane.connection is not None for lane in lanes))
            relay.answer_s = 0.5
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await store.lookup(many, NO_DEADLINE)
            relay.answer_s = 0.0
            await asyncio.sleep(0.05)
            assert await store.lookup([b"a"], NO_DEADLINE) == [None]

            relay.answer_s = 0.5
            await until_away(store)
            await store.close()

    on_uvloop(lookups())


def test_waiting_behind_much_is_not_the_stores_failure(valkey: Valkey, feature_metrics: FeatureMetrics) -> None:
    """A lookup whose time went into somebody's large one, on the one connection that there is, says nothing about Redis."""

    async def lookups() -> None:
        async with relayed(valkey) as relay:
            config = config_of(relay, connections=1, timeout="100ms", failures=1)
            store = FeatureStore(config, feature_metrics)
            await store.lookup([b"a"], NO_DEADLINE)
            relay.answer_s = 0.4
            large = [b"%d" % number for number in range(KEYS_PER_COMMAND + 1)]
            busy = asyncio.ensure_future(store._client.mget(large, deadline_s=5))
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await store.lookup([b"a"], NO_DEADLINE)
            relay.answer_s = 0.0
            assert len(await busy) == len(large)

            assert await store.lookup([b"a"], NO_DEADLINE) == [None]
            await store.close()

    on_uvloop(lookups())


def test_closing_ends_what_is_being_made(valkey: Valkey) -> None:
    """A connection that is under way when the service ends is given up."""

    async def closing() -> None:
        async with relayed(valkey) as relay:
            relay.connect_s = 60
            client = make_client(config_of(relay))
            asking = asyncio.ensure_future(client.mget([b"a"], deadline_s=60))
            await until(lambda: relay.connections == 1)
            await client.close()
            with pytest.raises(Unanswered, match="closed"):
                await asking
            assert asyncio.all_tasks() - {asyncio.current_task()} == {
                task for task in asyncio.all_tasks() if "Relay.serve" in repr(task)
            }

    on_uvloop(closing())
