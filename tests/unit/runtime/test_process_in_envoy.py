"""A service as a process on the engine `envoy`: the same statuses and words as on the other one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

from tests.unit.runtime.test_process import Process, run_to_its_end, started

ENGINE = {"SERVER__ENGINE": "envoy"}


def heard(process: Process) -> list[str]:
    return [str(entry["message"]) for entry in process.log]


async def said(process: Process, words: str) -> None:
    async with asyncio.timeout(20):
        while not any(words in message for message in heard(process)):
            await asyncio.sleep(0.01)


async def until_ready(process: Process) -> None:
    """The supervisor's ports are there before Envoy listens."""
    async with asyncio.timeout(20):
        while await process.http("/ready") != 200:
            await asyncio.sleep(0.01)


async def test_it_drains_and_exits_0(tmp_path: Path) -> None:
    """All that is said comes in one stream, a JSON object a line, from the supervisor and from the service."""
    closed = tmp_path / "closed"
    async with started(CLOSED=str(closed), **ENGINE) as process:
        await until_ready(process)
        process.signal()

        assert await process.ended(20) == 0

    assert closed.read_text() == "closed"
    assert all({"time", "level", "service", "logger"} <= entry.keys() for entry in process.log), process.log
    assert {entry["logger"].split(".")[1] for entry in process.log} == {"engine", "runtime"}
    assert heard(process)[-1] == "stopped"


async def test_a_second_signal_exits_at_once() -> None:
    """Who signals twice does not want to wait for drain or grace."""
    async with started(SERVER__DRAIN="30s", SERVER__GRACE="30s", **ENGINE) as process:
        await until_ready(process)
        process.signal(signal.SIGTERM)
        await said(process, "draining")

        process.signal(signal.SIGTERM)

        assert await process.ended(10) == 128 + signal.SIGTERM


def test_a_port_that_is_taken_is_one_line_and_status_3() -> None:
    """The line names the port; there is no traceback and no log round it. The HTTP port is the supervisor's."""
    for port in ("GRPC_PORT", "HTTP_PORT"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            number = taken.getsockname()[1]

            ended = run_to_its_end(**{f"SERVER__{port}": str(number)}, **ENGINE)

        assert ended.returncode == 3
        (line,) = ended.stderr.splitlines()
        assert line.startswith("tiny: ") and f"127.0.0.1:{number} can't be listened on" in line


def test_a_bad_configuration_is_status_2_with_every_fault() -> None:
    """Each fault on a line, and nothing is started."""
    ended = run_to_its_end(SERVER__DRAIN="5", SERVER__PROCESSES="65", ANSWR="1s", **ENGINE)

    assert ended.returncode == 2
    for words in ("3 faults", "server.drain: expected a duration", "server.processes: ", "ANSWR: no such setting"):
        assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_service_that_can_not_be_built_is_status_1() -> None:
    """The log says why, once with its traceback, and last what the service ends of."""
    ended = run_to_its_end(FAILS="true", **ENGINE)

    fatal: list[dict[str, Any]] = [json.loads(line) for line in ended.stderr.splitlines() if '"critical"' in line]
    assert ended.returncode == 1
    assert "RuntimeError" in fatal[0]["error"] and not any("error" in each for each in fatal[1:])
    assert {each["message"] for each in fatal} == {"tiny could not be started: the store is not there"}
