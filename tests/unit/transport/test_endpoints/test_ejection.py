"""Addresses that fail are left out, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, MeshError, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from tests.unit.transport.endpoint_parts import QUICK, REQUEST, Strange, ask, soon


async def test_an_address_that_keeps_failing_is_left_out_and_found_again(
    serve: Any, remote: Any, strange: Strange
) -> None:
    """Garbage opens its breaker; the others get all calls; after the pause a trial that is answered brings it back."""
    running = await serve()

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote([strange.target, running.target], breaker=QUICK)
    failed = 0
    async with asyncio.timeout(5):
        while watched.now != (1, 1, 0):
            try:
                await ask(backend)
            except Internal as error:
                assert (error.reason, error.endpoint) == ("BACKEND_GARBAGE", strange.target)
                failed += 1
    assert failed == 3
    strange.answer = strange.echo

    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0):
            await ask(backend)
            await asyncio.sleep(0.002)

    assert watched.changes[0] == "opened"
    assert watched.changes[-2:] == ["half_opened", "closed"]


async def test_the_last_endpoint_is_never_left_out(remote: Any, strange: Strange) -> None:
    """However it fails, it goes on being asked: its failures are told, and its first good answer too."""

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote(strange.target, breaker=QUICK)
    for _ in range(20):
        with pytest.raises(Internal):
            await ask(backend)
    assert watched.now == (0, 1, 0)
    strange.answer = strange.echo

    assert (await ask(backend)).id == "7"


async def test_observing_leaves_nothing_out(serve: Any, remote: Any, strange: Strange) -> None:
    """In observe mode the breaker opens, is counted, and the address keeps its share."""
    running = await serve()

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote(
        [strange.target, running.target], breaker={**QUICK, "mode": "observe", "backoff": "1h", "max_backoff": "1h"}
    )
    ended: Counter[str] = Counter()
    for _ in range(60):
        try:
            await ask(backend)
            ended["OK"] += 1
        except MeshError as error:
            ended[error.code] += 1

    assert watched.changes == ["opened"]
    assert ended["INTERNAL"] > 20


@pytest.mark.parametrize(
    "answer",
    [pb.ModelInferResponse(model_name="another", id="7"), pb.ModelInferResponse(model_name="m", id="8")],
    ids=["another model", "another request"],
)
async def test_an_answer_to_another_question_is_garbage(remote: Any, strange: Strange, answer: Any) -> None:
    """What is about another model or request never reaches a caller; one that leaves both out does."""

    async def other(request: bytes, context: Any) -> bytes:
        data: bytes = answer.SerializeToString()
        return data

    backend, _ = remote(strange.target)
    strange.answer = other

    with pytest.raises(Internal, match=r"its answer is (of the model|to the request)") as error:
        await ask(backend)
    assert (error.value.reason, error.value.hop) == ("BACKEND_GARBAGE", "backend")

    answer = pb.ModelInferResponse()
    answer.outputs.add(name="y", datatype="FP32", shape=[0])
    assert (await ask(backend)) == answer


async def test_an_answer_of_nothing_is_garbage(remote: Any, strange: Strange) -> None:
    """Zero bytes are a message to protobuf, and no answer to anybody: it names neither model nor request."""

    async def nothing(request: bytes, context: Any) -> bytes:
        return b""

    backend, _ = remote(strange.target)
    strange.answer = nothing

    with pytest.raises(Internal, match="names no model and no request, and has no outputs") as error:
        await ask(backend)
    assert error.value.reason == "BACKEND_GARBAGE"


async def test_short_deadlines_leave_no_address_out(remote: Any, strange: Strange) -> None:
    """Answers take longer than some callers give them: their ends say nothing, however many in a row."""
    release = asyncio.Event()

    async def waits(request: bytes, context: Any) -> bytes:
        await release.wait()
        result: bytes = await strange.echo(request, context)
        return result

    backend, watched = remote(strange.target, breaker={**QUICK, "patience": "1ms"})
    await ask(backend)
    breaker = next(iter(backend._endpoints._all.values())).breaker
    assert breaker.usual_s > 0
    breaker.usual_s = 0.2
    strange.answer = waits
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await ask(backend, 0.05)
    release.set()

    assert watched.changes == []


async def test_a_backend_that_accepts_and_never_speaks_costs_its_calls_their_deadline(remote: Any) -> None:
    """A port behind which nobody reads: DEADLINE_EXCEEDED or UNAVAILABLE at the deadline, and nothing is left behind."""
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    backend, _ = remote(f"127.0.0.1:{port}")

    with pytest.raises((DeadlineExceeded, Unavailable)):
        await ask(backend, 0.2)

    silent.close()


async def test_a_backend_that_speaks_another_protocol_is_unavailable(remote: Any) -> None:
    """Bytes that are no HTTP/2 open no connection."""

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    backend, _ = remote(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(Unavailable):
        await ask(backend, 2)

    server.close()


HUNG = """
import asyncio, sys
from infermesh.config import ServerConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import Server

class Echo(InferenceService):
    async def infer(self, request, call):
        return pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    async def ready(self, model="", version=""):
        return True

async def main():
    server = Server("hung", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True)
    await server.start()
    server.mount(stack(service=Echo()))
    await server.set_ready(True)
    print(server.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_hung_process_is_left_out_until_it_goes_on(serve: Any, remote: Any) -> None:
    """SIGSTOP leaves the connection open: a few calls end at their deadline, then the other has all; SIGCONT brings it back."""
    running = await serve()
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HUNG, stdout=subprocess.PIPE, cwd=root)
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        backend, watched = remote([f"127.0.0.1:{port}", running.target], breaker=QUICK)
        async with asyncio.timeout(10):
            while watched.now != (2, 0, 0):
                await ask(backend)
        os.kill(process.pid, signal.SIGSTOP)
        late = 0
        async with asyncio.timeout(10):
            while watched.now != (1, 1, 0):
                try:
                    await ask(backend, 0.1)
                except DeadlineExceeded:
                    late += 1
        for _ in range(20):
            await ask(backend)
        os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            while watched.now != (2, 0, 0):
                await ask(backend)
                await asyncio.sleep(0.005)
        assert late < 10  # three in a row; on a busy machine the other one may be late too
    finally:
        process.kill()
        await process.wait()


async def test_short_deadlines_of_some_take_an_endpoint_from_nobody(serve: Any, scripted: Any, remote: Any) -> None:
    """Calls to a slow model that run out of time, while others are answered, do not open the breaker."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.model_name == "slow":
            await asyncio.sleep(5)
        return pb.ModelInferResponse(id=request.id)

    running, other = await serve(scripted(answer)), await serve(scripted(answer))
    backend, watched = remote([running.target, other.target], breaker=QUICK)
    slow = pb.ModelInferRequest(model_name="slow")

    async def lively(ended: asyncio.Event) -> None:
        while not ended.is_set():
            await ask(backend)

    ended = asyncio.Event()
    others = asyncio.ensure_future(lively(ended))
    for _ in range(10):
        with pytest.raises(DeadlineExceeded):
            await backend.infer(slow, soon(0.06))
    ended.set()
    await others

    assert watched.changes == []


async def test_copies_for_a_shadow_take_an_endpoint_from_nobody(serve: Any, remote: Any, strange: Strange) -> None:
    """A candidate whose server fails, or answers garbage, is the candidate's fault: its address still serves the primary."""

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    async def broken(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "no hop of ours signed this")

    running = await serve()
    backend, watched = remote([strange.target, running.target], breaker=QUICK)
    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0):
            with contextlib.suppress(MeshError):
                await ask(backend)

    for answer in (garbage, broken):
        strange.answer = answer
        for _ in range(20):
            with contextlib.suppress(MeshError):
                await backend.infer(REQUEST, soon().derive(shadow=True))

    assert watched.now == (2, 0, 0)
    assert "opened" not in watched.changes
