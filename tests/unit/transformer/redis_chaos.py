"""What the tests of the Redis client share: servers, clusters, and clients that are closed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from infermesh.cli.ports import HOST, free_port
from infermesh.cli.valkey import Valkey
from services.transformer.config import RedisConfig

__all__ = ["Cluster", "cluster", "config_of", "hung", "until"]

OPTIONS = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000"]


def config_of(url: str, **settings: Any) -> RedisConfig:
    """A client that does not take a busy machine for a slow Redis."""
    return RedisConfig.model_validate({"url": url, "timeout": "5s", **settings})


async def until(true: Callable[[], bool]) -> None:
    """Wait for what there is no event for."""
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def _poll(true: Callable[[], bool]) -> None:
    """As `until`, where there is no loop."""
    pause, end = threading.Event(), time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "the cluster did not come about"
        pause.wait(0.01)


@contextmanager
def hung(server: Valkey) -> Iterator[None]:
    """The server's process is stopped: it takes connections and bytes, and answers nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


class Cluster:
    """Nodes that share the slots in equal parts, in order."""

    def __init__(self, nodes: list[Valkey]) -> None:
        self.nodes = nodes
        self.admins = [Redis(port=node.port) for node in nodes]
        self.ids = [str(admin.execute_command("CLUSTER", "MYID").decode()) for admin in self.admins]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def owner(self, slot: int) -> int:
        """The number of the node that has a slot to begin with."""
        return min(slot * len(self.nodes) // 16384, len(self.nodes) - 1)

    def put(self, values: dict[bytes, bytes], slot_of: Callable[[bytes], int]) -> None:
        for key, value in values.items():
            self.admins[self.owner(slot_of(key))].set(key, value)

    def begin(self) -> None:
        """Introduce the nodes and give out the slots."""
        first, count = self.admins[0], len(self.nodes)
        bounds = [-(-16384 * at // count) for at in range(count + 1)]
        for at, admin in enumerate(self.admins):
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[at], bounds[at + 1] - 1)
        for node in self.nodes[1:]:
            bus = int(node._options[-1])
            first.execute_command("CLUSTER", "MEET", HOST, node.port, bus)
        for admin in self.admins:
            _poll(lambda admin=admin: len(admin.execute_command("CLUSTER", "SLOTS")) == count)  # type: ignore[misc]
            _poll(lambda admin=admin: b"state:ok" in admin.execute_command("CLUSTER", "INFO"))  # type: ignore[misc]

    def move(self, slot: int, was: int, to: int) -> None:
        """Make another node the owner of an empty slot, at all nodes; as one that imports it gets a new epoch, which the others
        believe."""
        self.admins[to].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[was])
        for admin in sorted(self.admins, key=lambda admin: admin is not self.admins[to]):
            admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])
        _poll(self._agree)  # else the next move may take the same epoch, and one of the two is undone

    def _agree(self) -> bool:
        """Whether all nodes know the same epochs, each another one, and owners."""
        told = []
        for admin in self.admins:
            lines = [line.split() for line in admin.execute_command("CLUSTER", "NODES").decode().splitlines()]
            told.append({words[0]: (words[6], tuple(words[8:])) for words in lines})
        epochs = {epoch for epoch, _ in told[0].values()}
        return told.count(told[0]) == len(told) and len(epochs) == len(self.nodes)


@contextmanager
def cluster(nodes: int = 3) -> Iterator[Cluster]:
    """Nodes of a cluster, each empty; `begin` makes it one."""
    servers: list[Valkey] = []
    try:
        for _ in range(nodes):
            servers.append(Valkey(options=[*OPTIONS, "--cluster-port", str(free_port())]).start())  # noqa: PERF401
        made = Cluster(servers)
        yield made
        for admin in made.admins:
            admin.close()
    finally:
        for server in servers:
            server.stop()
