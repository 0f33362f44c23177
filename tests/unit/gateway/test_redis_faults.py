"""What a Redis can do wrong while it answers: each is a store that is away, never an error of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.ports import HOST
from infermesh.cli.valkey import Valkey
from infermesh.errors import ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.rate_limit import RateLimitByCost
from services.gateway.redis_lane import Lane
from tests.unit.gateway.limits import Replica, call_of, prefix, replica, until

RULE = {"rate": 0.01, "burst": 4, "local_share": 0.5}  # a replica alone lets in two


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A Valkey that a test may harm."""
    with Valkey() as server:
        yield server


async def _up(gateway: Replica) -> None:
    await until(lambda: not gateway.lane.is_away)


async def test_a_server_without_memory_is_away(own: Valkey) -> None:
    """At `maxmemory` nothing can be counted: the policy answers, and the shared limit does when there is room again."""
    async with replica(own.url, RULE) as gateway:
        with Redis(port=own.port) as admin:
            assert await gateway.admitted(1) == 1
            admin.config_set("maxmemory", "1")

            assert await gateway.admitted(6) == 2
            assert gateway.lane.is_away
            await until(lambda: "connect" in gateway.failures)
            assert gateway.failures[0] == "error"

            admin.config_set("maxmemory", "0")
            await _up(gateway)
            assert await gateway.admitted(6) == 3


async def test_a_server_that_becomes_a_replica_is_away(own: Valkey, valkey: Valkey) -> None:
    """A primary that is demoted refuses to write, and is not taken for the store until it is a primary again."""
    async with replica(own.url, RULE) as gateway:
        with Redis(port=own.port) as admin:
            admin.replicaof(HOST, valkey.port)

            assert await gateway.admitted(6) == 2
            await until(lambda: "connect" in gateway.failures)
            assert gateway.lane.is_away

            admin.replicaof("NO", "ONE")
            await _up(gateway)


async def test_scripts_that_are_flushed_while_calls_wait_cost_no_decision(own: Valkey) -> None:
    """Many decisions under way at once, and the script forgotten all the time: each call is decided once, none by the policy."""
    async with replica(own.url, {"rate": 0.01, "burst": 100, "per": ["tenant"]}) as gateway:
        with Redis(port=own.port) as admin:
            answers: list[Any] = []
            for _ in range(10):
                asked = [asyncio.ensure_future(gateway.ask()) for _ in range(20)]
                await asyncio.sleep(0)
                admin.script_flush()
                answers += await asyncio.gather(*asked)

    assert answers.count(None) == 100
    assert gateway.failures == []


async def test_a_connection_that_the_server_closes_is_made_anew(own: Valkey) -> None:
    """CLIENT KILL, as a timeout for idle clients does: noticed while nobody asks, and nothing that was counted is lost."""
    async with replica(own.url, RULE) as gateway:
        assert await gateway.admitted(1) == 1
        with Redis(port=own.port) as admin:
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        await until(lambda: gateway.failures == ["lost"])
        await _up(gateway)
        assert await gateway.admitted(6) == 3


async def test_a_server_that_is_restarted_empty_counts_anew(own: Valkey) -> None:
    """Neither script nor counts outlive it; what this replica knows of refusals does, until their time."""
    async with replica(own.url, {**RULE, "per": ["caller"]}) as gateway:
        assert await gateway.admitted(6) == 4
        own.stop()
        await until(lambda: gateway.lane.is_away)
        own.start()
        await _up(gateway)

        assert await gateway.admitted(3) == 0
        assert await gateway.admitted(6, call=call_of("other")) == 4


class Answers:
    """A connection to something that answers each decision with these words."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.asked = reply, asyncio.Semaphore(0)

    def pack_commands(self, commands: list[Any]) -> list[Any]:
        return commands

    async def send_packed_command(self, commands: list[Any], check_health: bool) -> None:
        for _ in commands:
            self.asked.release()

    async def read_response(self) -> Any:
        await self.asked.acquire()
        return self.reply

    async def disconnect(self, nowait: bool) -> None:
        return


GARBAGE = [
    b"OK",
    7,
    None,
    [],
    [1],
    [0, 2],
    [1, b"x", 0, 0],
    [3, 1, 0, 0],
    [1, -5, 0, 0],
    [0, 3, 0, 0],
    [0, 0, 0, 0, 9],
    [1] * 5,
]


@pytest.mark.parametrize("reply", GARBAGE, ids=repr)
async def test_an_answer_that_is_none_is_a_failure_of_the_store(reply: Any) -> None:
    """Something else at the address, or a proxy before it: the policy answers the call, and no call fails with a defect."""

    async def connect(probe: Any) -> Answers:
        return Answers(reply)

    def lane(config: Any, **rest: Any) -> Lane:
        return Lane(config, connect=connect, **rest)

    async with replica("redis://x", RULE, {**RULE, "per": ["caller"]}, lane=lane) as gateway:
        await _up(gateway)

        assert await gateway.ask() is None
        await until(lambda: gateway.failures)
        assert gateway.failures[0] == "error"
        assert gateway.outcome("admitted") == 1


async def test_a_server_that_runs_no_scripts_is_never_up() -> None:
    """The probe looks at what is answered: a server that says OK to everything counts nothing."""

    async def agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (words := await reader.readline()).startswith(b"*"):
            for _ in range(int(words[1:])):
                length = await reader.readline()
                await reader.readexactly(int(length[1:]) + 2)
            writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(agree, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with replica(f"redis://{HOST}:{port}", RULE, connect_timeout="200ms") as gateway:
        await until(lambda: gateway.failures)

        assert await gateway.admitted(6) == 2
        assert set(gateway.failures) == {"connect"}
    server.close()


async def test_what_nobody_foresaw_does_not_end_the_tries() -> None:
    """A defect below is one try that failed: the store is asked again, and comes back."""
    tries: list[int] = []

    async def connect(probe: Any) -> Answers:
        tries.append(1)
        if len(tries) < 3:
            raise TypeError("unexpected keyword")
        return Answers(0)

    def lane(config: Any, **rest: Any) -> Lane:
        return Lane(config, connect=connect, **rest)

    async with replica("redis://x", RULE, lane=lane) as gateway:
        await _up(gateway)

        assert gateway.failures == ["connect", "connect"]


async def test_what_is_too_much_for_a_replica_alone_is_told_to_come_back() -> None:
    """While Redis is away a call may cost more than the share of the burst that is left: that passes, and is not for ever."""
    rule = {"name": "rows", "cost": "rows", "rate": 0.01, "burst": 100, "local_share": 0.25}
    async with replica(f"redis://{HOST}:1", rule, key_prefix=prefix()) as gateway:
        limit = RateLimitByCost(plans=gateway.plans, limiter=gateway.limiter, observe=lambda *each: None)

        async def ask(rows: int) -> None:
            request = pb.ModelInferRequest(
                model_name="m", inputs=[pb.ModelInferRequest.InferInputTensor(shape=[rows, 4])]
            )
            await limit(request, call_of(), _answer)

        with pytest.raises(ResourceExhausted, match="while the store of the limits is away") as meanwhile:
            await ask(60)
        with pytest.raises(ResourceExhausted, match="may ever have at once") as never:
            await ask(101)
        await ask(25)

    assert (meanwhile.value.reason, never.value.reason) == ("RATE_LIMITED", "COST_OVER_BURST")
    assert meanwhile.value.retry_after_s is not None
    assert never.value.retry_after_s is None


async def _answer(request: pb.ModelInferRequest, call: Any) -> pb.ModelInferResponse:
    return pb.ModelInferResponse()
