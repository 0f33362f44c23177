"""A service as a process: how it starts, serves, drains and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

TINY = Path(__file__).with_name("tiny_service.py")
ROOT = Path(__file__).parents[3]
SETTINGS = {"SERVER__HOST": "127.0.0.1", "SERVER__GRPC_PORT": "0", "SERVER__HTTP_PORT": "0", "SERVER__DRAIN": "0s"}


def environment(settings: dict[str, str]) -> dict[str, str]:
    chosen = {f"INFERMESH_TINY__{name}": value for name, value in {**SETTINGS, **settings}.items()}
    return {**os.environ, "PYTHONPATH": str(ROOT), **chosen}


def run_to_its_end(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A process that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, str(TINY), *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@dataclass
class Process:
    child: asyncio.subprocess.Process
    grpc_port: int
    http_port: int
    channel: grpc.aio.Channel
    stub: Any
    log: list[dict[str, Any]]

    async def ended(self, within: float = 10) -> int:
        async with asyncio.timeout(within):
            return await self.child.wait()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.child.send_signal(number)

    async def health(self, service: str = "") -> int:
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(HealthCheckRequest(service=service), timeout=2)
        return int(answer.status)

    async def until_ready(self) -> None:
        async with asyncio.timeout(10):
            while await self.health() != HealthCheckResponse.SERVING:
                await asyncio.sleep(0.01)

    async def http(self, path: str) -> int:
        def ask() -> int:
            try:
                with urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as answer:
                    return int(answer.status)
            except HTTPError as error:
                return error.code

        return await asyncio.to_thread(ask)


@asynccontextmanager
async def started(**settings: str) -> AsyncIterator[Process]:
    """A process that listens; ended by its id if the test has not done it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(TINY), env=environment(settings), stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr is not None
    log: list[dict[str, Any]] = []

    async def follow() -> None:
        assert child.stderr is not None
        while line := await child.stderr.readline():
            log.append(json.loads(line) if line.startswith(b"{") else {"message": line.decode()})

    following = asyncio.ensure_future(follow())
    try:
        async with asyncio.timeout(20):
            while not (listening := [entry for entry in log if entry["message"] == "listening"]):
                assert child.returncode is None, log
                await asyncio.sleep(0.01)
        ports = listening[0]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc_port']}") as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            yield Process(child, ports["grpc_port"], ports["http_port"], channel, stub, log)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        await following


async def load(stub: Any, end: Callable[[], bool]) -> list[tuple[float, str, grpc.StatusCode]]:
    """Sixteen callers without a pause until `end`: when each call was begun, its id and its status."""
    results: list[tuple[float, str, grpc.StatusCode]] = []

    async def caller(number: int) -> None:
        count = 0
        while not end():
            count += 1
            name, begun = f"{number}-{count}", time.monotonic()
            try:
                answer = await stub.ModelInfer(pb.ModelInferRequest(id=name), timeout=5)
                assert answer.id == name
                results.append((begun, name, grpc.StatusCode.OK))
            except grpc.aio.AioRpcError as error:
                results.append((begun, name, error.code()))
                await asyncio.sleep(0.01)

    await asyncio.gather(*(caller(n) for n in range(16)))
    return results


async def test_under_load_every_accepted_call_is_answered(tmp_path: Path) -> None:
    """After SIGTERM calls are answered while it drains, later ones end before their deadline, and what it opened is closed.

    A call that reaches grpc core in the very moment of its shutdown is CANCELLED by core (grpc/grpc#41785), the others are
    UNAVAILABLE; a hop of the mesh reads both as UNAVAILABLE (transport/status.py).
    """
    closed = tmp_path / "closed"
    async with started(ANSWER="20ms", SERVER__DRAIN="1500ms", SERVER__GRACE="5s", CLOSED=str(closed)) as process:
        await process.until_ready()
        loading = asyncio.ensure_future(load(process.stub, lambda: process.child.returncode is not None))
        await asyncio.sleep(0.2)

        told = time.monotonic()
        process.signal()
        status = await process.ended()
        results = await loading

    assert status == 0
    refused = [code for _, _, code in results if code is not grpc.StatusCode.OK]
    assert set(refused) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert refused.count(grpc.StatusCode.CANCELLED) <= 16  # each caller meets that moment once at most
    drained = [code for begun, _, code in results if begun < told + 0.25]
    assert len(drained) > 5
    assert set(drained) == {grpc.StatusCode.OK}
    assert closed.read_text() == "closed"
    assert [e["message"] for e in process.log if e["message"] in ("draining", "stopped")] == ["draining", "stopped"]


async def test_while_it_drains_it_says_that_it_is_not_ready() -> None:
    """Health and /ready turn at once on the signal, /live stays, and calls are still answered."""
    async with started(SERVER__DRAIN="2s") as process:
        await process.until_ready()
        assert (await process.http("/ready"), await process.http("/live")) == (200, 200)

        process.signal()
        async with asyncio.timeout(1.5):
            while await process.health() == HealthCheckResponse.SERVING:
                await asyncio.sleep(0.01)

        assert (await process.http("/ready"), await process.http("/live")) == (503, 200)
        assert (await process.stub.ModelInfer(pb.ModelInferRequest(id="1"))).id == "1"
        assert not (await process.stub.ServerReady(pb.ServerReadyRequest())).ready
        assert await process.ended() == 0


async def test_a_second_signal_exits_at_once() -> None:
    """Who signals twice does not want to wait for drain or grace."""
    async with started(SERVER__DRAIN="30s", SERVER__GRACE="30s") as process:
        await process.until_ready()
        process.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while not any(entry["message"] == "draining" for entry in process.log):
                await asyncio.sleep(0.01)

        process.signal(signal.SIGTERM)

        assert await process.ended(2) == 128 + signal.SIGTERM


async def test_an_interrupt_drains_too() -> None:
    """Ctrl-C in a terminal is SIGINT, and no traceback."""
    async with started() as process:
        await process.until_ready()
        process.signal(signal.SIGINT)

        assert await process.ended() == 0

    assert not [entry for entry in process.log if "Traceback" in str(entry)]


@pytest.mark.parametrize("in_thread", ["false", "true"])
async def test_it_can_be_told_to_stop_while_it_is_still_starting(tmp_path: Path, in_thread: str) -> None:
    """Whatever it loads, also something that can't be interrupted, it closes what it opened and exits 0 at once."""
    closed = tmp_path / "closed"
    async with started(BUILD="60s", BUILD_IN_THREAD=in_thread, CLOSED=str(closed)) as process:
        assert await process.health() == HealthCheckResponse.NOT_SERVING
        process.signal()

        assert await process.ended(5) == 0

    assert closed.read_text() == "closed"


async def test_while_it_starts_the_process_is_live_and_calls_are_unavailable() -> None:
    """`live` serves from the first moment, readiness comes when the service is built."""
    async with started(BUILD="600ms") as process:
        assert await process.health("live") == HealthCheckResponse.SERVING
        assert await process.health() == HealthCheckResponse.NOT_SERVING
        assert (await process.http("/live"), await process.http("/ready")) == (200, 503)
        with pytest.raises(grpc.aio.AioRpcError, match="tiny: starting") as error:
            await process.stub.ModelInfer(pb.ModelInferRequest())
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE

        await process.until_ready()

        assert (await process.stub.ModelInfer(pb.ModelInferRequest(id="1"))).id == "1"


async def test_a_run_that_outlasts_the_grace_does_not_hold_the_process() -> None:
    """The grace is the end: a thread that can't be interrupted is left behind, and its caller is told."""
    async with started(ANSWER="60s", ANSWER_IN_THREAD="true", SERVER__GRACE="200ms") as process:
        await process.until_ready()
        call = asyncio.ensure_future(process.stub.ModelInfer(pb.ModelInferRequest()))
        await asyncio.sleep(0.1)

        process.signal()

        assert await process.ended(5) == 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("port", ["GRPC_PORT", "HTTP_PORT"])
def test_a_port_that_is_taken_is_one_line_and_status_3(port: str) -> None:
    """The line names the port; there is no traceback and no log round it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]

        ended = run_to_its_end(**{f"SERVER__{port}": str(number)})

    lines = [line for line in ended.stderr.splitlines() if not line.startswith(("E0", "E1", "I0", "I1", "===", "src/"))]
    assert ended.returncode == 3
    assert len([line for line in lines if line]) == 1, ended.stderr
    assert f"127.0.0.1:{number} can't be listened on" in lines[0]


def test_a_bad_configuration_is_status_2_with_every_fault() -> None:
    """Each fault on a line, and nothing is started."""
    ended = run_to_its_end(SERVER__DRAIN="5", SERVER__GRPC_PROT="1", ANSWR="1s")

    assert ended.returncode == 2
    assert "3 faults" in ended.stderr
    for words in ("server.drain: expected a duration", "server.grpc_prot: no such setting", "ANSWR: no such setting"):
        assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_that_is_not_there_is_status_2() -> None:
    """Said by name, not by traceback."""
    ended = run_to_its_end("--config", "/nowhere.yaml")

    assert ended.returncode == 2
    assert "/nowhere.yaml" in ended.stderr and "Traceback" not in ended.stderr


def test_a_service_that_can_not_be_built_is_status_1() -> None:
    """The log says why."""
    ended = run_to_its_end(FAILS="true")

    fatal = [json.loads(line) for line in ended.stderr.splitlines() if '"critical"' in line]
    assert ended.returncode == 1
    assert fatal[0]["message"] == "tiny could not be started: the store is not there"
    assert "RuntimeError" in fatal[0]["error"]


async def test_a_service_starts_again_on_the_ports_that_it_had() -> None:
    """Connections of the last scrape and the last call don't keep a port taken."""
    async with started() as first:
        await first.until_ready()
        await first.http("/metrics")
        first.signal()
        assert await first.ended() == 0

    async with started(SERVER__GRPC_PORT=str(first.grpc_port), SERVER__HTTP_PORT=str(first.http_port)) as second:
        await second.until_ready()
        assert await second.http("/metrics") == 200


async def test_a_process_of_its_own_has_its_start_up_taken_from_the_collector() -> None:
    """What start-up made is frozen when the service is built."""
    async with started() as process:
        await process.until_ready()

        answer = await process.stub.ModelInfer(pb.ModelInferRequest())

    assert answer.parameters["frozen"].int64_param > 10_000
    assert answer.parameters["threshold"].int64_param == 10_000
