"""A cluster of three real nodes: keys by slot, slots that move, a node that dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from services.transformer.redis.cluster import ClusterClient, _place_in
from services.transformer.redis.errors import RedisReplyError, Unanswered
from services.transformer.redis.slots import slot_of
from tests.unit.transformer.redis_chaos import Cluster, cluster, config_of, hung, until

KEYS = {b"infermesh:card:%d" % number: b"row %d" % number for number in range(300)}


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """A cluster that the tests leave as it was."""
    with cluster() as made:
        made.begin()
        made.put(KEYS, slot_of)
        yield made


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A cluster for one test alone, which may end its servers."""
    with cluster() as made:
        made.begin()
        made.put(KEYS, slot_of)
        yield made


@pytest.fixture
async def client(three: Cluster) -> AsyncIterator[ClusterClient]:
    made = ClusterClient(config_of(three.url))
    yield made
    await made.close()


@pytest.mark.parametrize(
    "key", [b"a", b"infermesh:card:{7}", b"{a}{b}", b"{}x", b"a{", b"}{a}", b"\xff{\x00}", b"{{a}}"]
)
def test_a_slot_is_redis_own(key: bytes) -> None:
    """Hash tags and all, as redis-py has it."""
    assert slot_of(key) == key_slot(key)


async def test_values_come_from_all_nodes_in_the_order_of_the_keys(three: Cluster, client: ClusterClient) -> None:
    """Some keys hold nothing, one is of another type; each node is asked by one connection's one write."""
    missing = [b"infermesh:card:none:%d" % number for number in range(5)]
    three.admins[three.owner(slot_of(b"list"))].lpush("list", "x")
    keys = [*KEYS, *missing, b"list"]

    values = await client.mget(keys, deadline_s=5)

    assert values == [*KEYS.values(), *[None] * 6]
    assert len(client._nodes) == 3


async def test_commands_keep_their_order_and_errors_their_place(three: Cluster, client: ClusterClient) -> None:
    """Each reply stands where its command does, also twice the same."""
    keys = [b"infermesh:card:1", b"infermesh:card:2", b"infermesh:card:1"]

    replies = await client.ask(*((b"HGET", key, b"f") for key in keys), (b"GET", keys[1]), deadline_s=5)

    assert [str(reply).split()[0] for reply in replies[:3]] == ["WRONGTYPE"] * 3
    assert replies[3] == KEYS[keys[1]]


async def test_a_slot_that_has_moved_is_followed(three: Cluster, client: ClusterClient) -> None:
    """A key that is at another node now is found there in the same lookup, and the map is right afterwards."""
    key = b"infermesh:card:7"
    slot = slot_of(key)
    was, to = three.owner(slot), (three.owner(slot) + 1) % 3
    assert await client.mget([key], deadline_s=5) == [b"row 7"]

    three.admins[was].delete(*[k for k in KEYS if slot_of(k) == slot])
    three.move(slot, was, to)
    three.admins[to].set(key, b"moved")

    assert await client.mget(list(KEYS)[:20], deadline_s=5) == [
        b"moved" if each == key else None if slot_of(each) == slot else KEYS[each] for each in list(KEYS)[:20]
    ]
    await until(lambda: client._owners[slot].primary[1] == three.nodes[to].port)  # type: ignore[union-attr]
    three.admins[to].delete(key)
    three.move(slot, to, was)
    three.put({key: value for key, value in KEYS.items() if slot_of(key) == slot}, slot_of)


async def test_nodes_that_do_not_tell_their_host_are_found(own: Cluster) -> None:
    """A redirection without a host leads to the host that answered, at the port that it names."""
    for admin in own.admins:
        admin.execute_command("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
    key = b"infermesh:card:7"
    slot = slot_of(key)
    was, to = own.owner(slot), (own.owner(slot) + 1) % 3
    client = ClusterClient(config_of(own.url))
    assert await client.mget([key], deadline_s=5) == [b"row 7"]
    own.admins[was].delete(*[k for k in KEYS if slot_of(k) == slot])
    own.move(slot, was, to)
    own.admins[to].set(key, b"moved")

    assert await client.mget([key], deadline_s=5) == [b"moved"]

    assert {host for host, _ in client._nodes} == {"127.0.0.1"}
    await client.close()


@pytest.mark.parametrize("host", ["", "?"])
def test_a_host_that_is_left_out_is_the_one_that_was_asked(host: str) -> None:
    """As in the map of slots: it is no name of this machine."""
    moved, ask = RedisReplyError(f"MOVED 3999 {host}:6381"), RedisReplyError("ASK 3999 10.0.0.2:6381")

    assert _place_in(moved, ("10.0.0.1", 6379)) == ("10.0.0.1", 6381)
    assert _place_in(ask, ("10.0.0.1", 6379)) == ("10.0.0.2", 6381)


async def test_a_slot_that_is_moving_is_read_on_both_sides(three: Cluster, client: ClusterClient) -> None:
    """While a slot migrates, keys that are gone already are asked of the node that takes it (ASK), the others of the old."""
    tag = b"{infermesh:card:7}"
    slot = slot_of(tag)
    was, to = three.owner(slot), (three.owner(slot) + 1) % 3
    three.admins[was].set(tag + b"stays", b"old")
    assert await client.mget([tag + b"stays", tag + b"goes"], deadline_s=5) == [b"old", None]

    three.admins[to].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", three.ids[was])
    three.admins[was].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", three.ids[to])
    pipe = three.admins[to].pipeline(transaction=False)
    pipe.execute_command("ASKING")
    pipe.set(tag + b"goes", b"new")
    pipe.execute()

    assert await client.mget([tag + b"stays", tag + b"goes"], deadline_s=5) == [b"old", b"new"]
    pipe.execute_command("ASKING")
    pipe.delete(tag + b"goes")
    pipe.execute()
    for each in (was, to):
        three.admins[each].execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    three.admins[was].delete(tag + b"stays")


async def test_lookups_stay_right_while_slots_move(three: Cluster, client: ClusterClient) -> None:
    """Slots move to and fro under load: no lookup fails and none gets another key's row."""
    stop = asyncio.Event()
    keys = [b"{%d}k" % number for number in range(12)]
    slots = [slot_of(key) for key in keys]
    lookups = 0

    async def look() -> None:
        nonlocal lookups
        while not stop.is_set():
            for key, value in zip(keys, await client.mget(keys, deadline_s=5), strict=True):
                assert value in (None, key)
            lookups += 1

    looking = [asyncio.ensure_future(look()) for _ in range(3)]
    for turn in range(1, 4):  # in the end each is where it was
        for key, slot in zip(keys, slots, strict=True):
            was, to = (three.owner(slot) + turn - 1) % 3, (three.owner(slot) + turn) % 3
            if turn > 1:
                await asyncio.to_thread(three.admins[was].delete, key)
            await asyncio.to_thread(three.move, slot, was, to)
            await asyncio.to_thread(three.admins[to].set, key, key)
    at = lookups
    await until(lambda: lookups > at + 3)
    stop.set()
    await asyncio.gather(*looking)

    assert await client.mget(keys, deadline_s=5) == keys


async def test_a_node_that_dies_takes_its_own_keys_alone(own: Cluster) -> None:
    """Keys of the others are looked up as before; its own fail, in the end without a wait."""
    by_node: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    for key in KEYS:
        by_node[own.owner(slot_of(key))].append(key)
    client = ClusterClient(config_of(own.url, failures=2))
    assert len(await client.mget(list(KEYS), deadline_s=5)) == 300
    assert client.is_up

    own.nodes[1].stop()
    for _ in range(3):
        with pytest.raises(Unanswered):
            await client.mget(by_node[1], deadline_s=5)

    with pytest.raises(Unanswered, match="away"):
        await client.mget(by_node[1][:1], deadline_s=5)
    assert not client.is_up
    assert not await client.probe()
    for each in (0, 2):
        assert await client.mget(by_node[each], deadline_s=5) == [KEYS[key] for key in by_node[each]]
    await client.close()


async def test_a_node_that_hangs_costs_its_own_keys_the_timeout(three: Cluster) -> None:
    """Past `failures` timeouts its keys fail at once, and the others' are served all the while."""
    client = ClusterClient(config_of(three.url, timeout="100ms", failures=2))
    keys = [key for key in KEYS if three.owner(slot_of(key)) == 2]
    others = [key for key in KEYS if three.owner(slot_of(key)) == 0]
    await client.mget(list(KEYS), deadline_s=5)

    with hung(three.nodes[2]):
        refused = []
        while "Redis is away" not in refused:
            with pytest.raises(Unanswered) as error:
                await client.mget(keys, deadline_s=0.1)
            refused.append(str(error.value))
        assert refused[:2] == ["no answer in time"] * 2  # more only where this machine itself was too busy to tell
        assert await client.mget(others, deadline_s=5) == [KEYS[key] for key in others]

    async with asyncio.timeout(20):
        while not await client.probe():
            await asyncio.sleep(0.02)
    assert await client.mget(keys, deadline_s=5) == [KEYS[key] for key in keys]
    await client.close()


async def test_no_node_to_begin_with_is_a_store_that_is_away(unused_tcp_port: int) -> None:
    """Nobody listens: each lookup fails, and after some nobody is asked."""
    client = ClusterClient(config_of(f"redis+cluster://127.0.0.1:{unused_tcp_port}", failures=2))
    assert client.is_up

    for _ in range(2):
        with pytest.raises(Unanswered, match=str(unused_tcp_port)):
            await client.mget([b"a"], deadline_s=5)

    assert not client.is_up
    with pytest.raises(Unanswered, match="away"):
        await client.mget([b"a"], deadline_s=5)
    await client.close()


@pytest.mark.long
async def test_replicas_are_read_where_that_is_wanted() -> None:
    """With `read_from: replica` the replica answers, and the primary when it is gone."""
    with cluster(2) as pair:
        first, second = pair.admins
        first.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", pair.nodes[1].port, pair.nodes[1]._options[-1])
        await until(lambda: pair.ids[0] in second.execute_command("CLUSTER", "NODES").__repr__())
        second.execute_command("CLUSTER", "REPLICATE", pair.ids[0])
        await until(lambda: second.info("replication").get("master_link_status") == "up")
        first.set("a", "1")
        assert first.execute_command("WAIT", 1, 5000) == 1
        await until(lambda: len(first.execute_command("CLUSTER", "SLOTS")[0]) > 3)
        client = ClusterClient(config_of(pair.url, read_from="replica", failures=1))

        before = first.info("commandstats").get("cmdstat_get", {}).get("calls", 0)
        assert await client.mget([b"a"], deadline_s=5) == [b"1"]
        assert second.info("commandstats")["cmdstat_get"]["calls"] == 1
        assert first.info("commandstats").get("cmdstat_get", {}).get("calls", 0) == before

        pair.nodes[1]._process.send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await client.mget([b"a"], deadline_s=5) == [b"1"]
                    break
                except Unanswered:
                    await asyncio.sleep(0.02)
        await client.close()
