"""Tests of shared limits in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.crc import key_slot

from infermesh.cli.ports import free_port
from infermesh.cli.valkey import Valkey
from tests.unit.gateway.limits import call_of, prefix, replica, until

CLUSTER = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port"]


@pytest.fixture
def nodes() -> Iterator[tuple[Valkey, Valkey]]:
    """Two nodes that know each other; no slots are given out yet."""
    with Valkey(options=[*CLUSTER, str(free_port())]) as one, Valkey(options=[*CLUSTER, str(free_port())]) as two:
        bus = int(two._options[-1])
        with Redis(port=one.port) as admin:
            admin.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        yield one, two


async def test_the_node_that_has_the_slot_is_found(nodes: tuple[Valkey, Valkey]) -> None:
    """Any node will do as the address: limits of all levels are in one slot, and the node that has it is asked, also after it
    has moved."""
    one, two = nodes
    name = prefix()
    slot = key_slot(f"{{{name}}}:x".encode())
    rules = [{"rate": 0.01, "burst": 3, "per": ["tenant"]}, {"rate": 0.01, "burst": 9, "per": ["caller"]}]
    with Redis(port=one.port) as first, Redis(port=two.port) as second:
        second.execute_command("CLUSTER", "ADDSLOTS", slot)
        await until(lambda: str(two.port) in str(first.execute_command("CLUSTER", "SLOTS")))
        async with replica(one.url, *rules, key_prefix=name) as gateway:
            await until(lambda: not gateway.lane.is_away)

            assert await gateway.admitted(5) == 3
            assert second.dbsize() == 3  # two limits and the probe's
            gateway.limiter.refusals._known.clear()

            second.flushall()
            first.execute_command("CLUSTER", "SETSLOT", slot, "NODE", first.execute_command("CLUSTER", "MYID"))
            second.execute_command("CLUSTER", "SETSLOT", slot, "NODE", first.execute_command("CLUSTER", "MYID"))
            async with asyncio.timeout(20):
                while not first.exists(gateway.plans.of("iris", call_of()).shared[0].key):
                    await gateway.ask()
                    await asyncio.sleep(0.001)

            assert not gateway.lane.is_away
