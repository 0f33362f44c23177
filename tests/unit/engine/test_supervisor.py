"""The supervisor, with real Envoy processes: start, signals, drain, restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from .conftest import call, channel, folder_of, is_alive


async def test_a_call_reaches_the_program(supervised: Callable[..., Any]) -> None:
    """One process, one call; its log and Envoy's are one stream of lines."""
    async with supervised(access_log=True) as it, channel(it.target) as opened:
        await it.until_ready()

        pid = int(await call(opened, "Pid"))

        assert pid in it.pids()
        await it.says("/test.Engine/Pid")  # the access log


async def test_the_access_log_is_text_where_logs_are(supervised: Callable[..., Any]) -> None:
    async with supervised(access_log=True, log_json=False) as it, channel(it.target) as opened:
        await it.until_ready()

        await call(opened, "Pid")

        (line, *_) = await it.says("/test.Engine/Pid grpc_status=0 http_status=200")
        assert str(line["message"]).startswith("INFO    engine: ")


async def test_sigterm_lets_calls_finish(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """A call that was accepted is answered, one stream that only watches ends, and the exit status is 0."""
    async with supervised(grace_s=20) as it, channel(it.target) as opened:
        await it.until_ready()
        waiting = asyncio.ensure_future(call(opened, "Wait", bytes(tmp_path / "go")))
        watching = opened.unary_stream("/test.Engine/Watch", request_serializer=bytes, response_deserializer=bytes)(b"")
        assert await watching.read() == b"watching"

        it.signal(signal.SIGTERM)
        await it.says("program drains")
        assert (await it.http("/ready"))[0] == 503
        (tmp_path / "go").touch()

        assert (await waiting).isdigit()
        assert (await watching.read()).isdigit()
        assert await it.ended() == 0
        await it.says("program closed")


async def test_the_calls_under_way_are_counted_when_it_drains(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """As they are then, over all processes, and not as they were when the processes were last looked at."""
    async with supervised(processes=2, grace_s=20, pace={"look_every_s": 1}) as it, channel(it.target) as opened:
        await it.until_ready()
        waiting = asyncio.ensure_future(call(opened, "Wait", bytes(tmp_path / "go")))

        async def is_open() -> bool:
            return "infermesh_model_in_flight 1.0" in (await it.http("/metrics"))[1]

        await it.until(is_open)
        it.signal(signal.SIGTERM)

        (line,) = await it.says("draining")
        assert line["in_flight"] == 1
        (tmp_path / "go").touch()
        await waiting
        assert await it.ended() == 0


async def test_a_call_that_outlasts_the_grace_is_cut(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """The end comes all the same, with status 0."""
    async with supervised(grace_s=1) as it, channel(it.target) as opened:
        await it.until_ready()
        waiting = asyncio.ensure_future(call(opened, "Wait", bytes(tmp_path / "never")))
        await asyncio.wait({waiting}, timeout=0.2)

        it.signal(signal.SIGTERM)

        assert await it.ended() == 0
        with pytest.raises(grpc.RpcError):
            await waiting
        await it.says("1 calls are cut")


async def test_an_idle_connection_is_told_to_go(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """A connection without calls gets GOAWAY before the process ends: a call then is made elsewhere, and is not lost."""
    async with supervised(grace_s=30) as it, channel(it.target) as busy, channel(it.target) as idle:
        await it.until_ready()
        await call(idle, "Pid")
        waiting = asyncio.ensure_future(call(busy, "Wait", bytes(tmp_path / "go")))
        await asyncio.wait({waiting}, timeout=0.2)

        it.signal(signal.SIGTERM)

        async with asyncio.timeout(10):
            while (state := idle.get_state()) is grpc.ChannelConnectivity.READY:
                await idle.wait_for_state_change(state)
        assert state is grpc.ChannelConnectivity.IDLE and not waiting.done()
        (tmp_path / "go").touch()
        await waiting
        assert await it.ended() == 0


async def test_a_second_signal_ends_at_once(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """Whatever is under way; and no Envoy stays."""
    async with supervised(processes=2, grace_s=600) as it, channel(it.target) as opened:
        await it.until_ready()
        pids = it.pids()
        waiting = asyncio.ensure_future(call(opened, "Wait", bytes(tmp_path / "never")))
        await asyncio.wait({waiting}, timeout=0.2)

        it.signal(signal.SIGTERM)
        await it.says("program drains")
        it.signal(signal.SIGTERM)

        assert await it.ended() == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError):
            await waiting
        await it.until(lambda: asyncio.to_thread(lambda: not any(map(is_alive, pids))))


async def test_no_envoy_outlives_a_killed_supervisor(supervised: Callable[..., Any]) -> None:
    """kill -9 leaves no orphan that goes on answering."""
    async with supervised(processes=2) as it:
        await it.until_ready()
        pids = it.pids()
        assert len(pids) == 2

        it.signal(signal.SIGKILL)

        try:
            await it.until(lambda: asyncio.to_thread(lambda: not any(map(is_alive, pids))))
        finally:
            for pid in filter(is_alive, pids):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["Exit", "Kill", "Hang"])
async def test_a_process_that_no_longer_answers_is_replaced(supervised: Callable[..., Any], method: str) -> None:
    """Whether its loop's thread has died, it was killed, or it hangs: Envoy alone would go on accepting calls for ever."""
    async with supervised(pace={"hung_after_s": 1.0}) as it:
        await it.until_ready()
        async with channel(it.target) as opened:
            before = await call(opened, "Pid")
            lost = asyncio.ensure_future(call(opened, method))

            await it.says("another one is started")
            await asyncio.wait({lost})
        await it.until_ready()

        async with channel(it.target) as opened:
            assert await call(opened, "Pid") != before
        assert 'infermesh_engine_restarts_total{reason="failed",service="engine"} 1.0' in (await it.http("/metrics"))[1]


async def test_the_service_gives_up_a_process_that_keeps_ending(supervised: Callable[..., Any]) -> None:
    """Past the limit the supervisor ends with status 1, for whoever started it to see."""
    async with supervised(pace={"limit": 1}) as it:
        await it.until_ready()
        os.kill(*it.pids(), signal.SIGKILL)
        await it.says("another one is started")
        await it.until_ready()

        os.kill(*it.pids(), signal.SIGKILL)

        assert await it.ended() == 1
        await it.says("for the 2. time in 60 s")


async def test_a_program_that_fails_at_the_start_ends_the_service(supervised: Callable[..., Any]) -> None:
    """With the status that it gave, and its words in the log."""
    async with supervised(program={"fails": 2}, listens=False) as it:
        assert await it.ended() == 2
        await it.says("expected a program that starts")


async def test_a_port_that_is_taken_is_seen(supervised: Callable[..., Any]) -> None:
    """By another service of this engine too, though its processes share theirs; exit status 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with supervised(grpc_port=taken.getsockname()[1], listens=False) as it:
            assert await it.ended() == 3
    async with supervised() as first:
        await first.until_ready()
        async with supervised(grpc_port=first.grpc_port, listens=False) as second:
            assert await second.ended() == 3


async def test_a_port_is_free_again_after_the_end(supervised: Callable[..., Any]) -> None:
    """Connections that the service has closed (TIME_WAIT) keep nobody from starting it again."""
    async with supervised() as it, channel(it.target) as opened:
        await it.until_ready()
        await call(opened, "Pid")
        it.signal(signal.SIGTERM)
        assert await it.ended() == 0
        async with supervised(grpc_port=it.grpc_port) as again:
            await again.until_ready()


async def test_sigterm_while_it_starts(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """A service that is not ready yet ends with status 0 as well, its held processes too."""
    (tmp_path / "hold").touch()
    async with supervised(processes=2, program={"hold": str(tmp_path / "hold")}) as it:
        assert (await it.http("/ready"))[0] == 503

        it.signal(signal.SIGTERM)

        assert await it.ended() == 0


async def test_children_of_the_program_start_with_this_python(supervised: Callable[..., Any]) -> None:
    """Inside Envoy sys.executable is somebody else's, and the variables that Envoy needs would harm its children."""
    async with supervised() as it, channel(it.target) as opened:
        await it.until_ready()

        executable, preload, home = json.loads(await call(opened, "Executable"))

        assert executable == sys.executable and preload is None and home is None


async def test_nobody_else_can_administer_it(supervised: Callable[..., Any]) -> None:
    """Its sockets are its user's alone, in a folder that is gone with it; no port is open for that."""
    async with supervised() as it:
        await it.until_ready()
        (folder,) = map(folder_of, it.pids())
        assert folder.stat().st_mode & 0o777 == 0o700
        sockets = [each for each in folder.iterdir() if each.is_socket()]
        assert len(sockets) == 2 and all(each.stat().st_mode & 0o777 == 0o600 for each in sockets)
    assert not folder.exists()
