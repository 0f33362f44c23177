"""Gateways as processes while their files, their store and their backends change under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from e2e_door import CALLER
from e2e_gateway import Backend, Gateway, serving

from benchmarks.rate_limit_exact import most_over
from infermesh.call import Call
from infermesh.cli.ports import free_port
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

RELOADS = 10
CALLERS = 8
RATE, BURST = 200.0, 40
LOAD_S = 2.0

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
Ended = tuple[float, float, str]  # when it was asked, when it was answered, and how


def named(name: str) -> Callable[[pb.ModelInferRequest, Call], Awaitable[pb.ModelInferResponse]]:
    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name=request.model_name, model_version=name, id=request.id)

    return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def _ask(stub: Any, timeout_s: float = 20.0, model: str = "m") -> str:
    try:
        request = pb.ModelInferRequest(model_name=model, id="7")
        return str((await stub.ModelInfer(request, metadata=CALLER, timeout=timeout_s)).model_version)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)


async def test_routes_that_change_under_load_lose_no_call(tmp_path: Path) -> None:
    """Ten tables, and after each a file that is half written or names no backend: every call is answered by a variant that a good
    table had, and the last one counts in the end."""
    ended: Counter[str] = Counter()
    stop = asyncio.Event()

    def route(at: int) -> list[dict[str, Any]]:
        return [{"model": "m", "backend": "one" if at % 2 else "two"}, {"model": f"other-{at}", "backend": "one"}]

    async def caller(stub: Any) -> None:
        while not stop.is_set():
            ended[await _ask(stub)] += 1

    async with serving(Backend(named("1"))) as one, serving(Backend(named("2"))) as two:
        backends = {"one": one, "two": two}
        async with (
            Gateway(tmp_path, backends, route(0)) as gateway,
            grpc.aio.insecure_channel(gateway.address) as channel,
        ):
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            callers = [asyncio.ensure_future(caller(stub)) for _ in range(CALLERS)]
            for at in range(1, RELOADS + 1):
                generation = gateway.generation("routes")
                gateway.write_routes(route(at))
                await until(lambda was=generation: gateway.generation("routes") > was)  # type: ignore[misc]
                (tmp_path / "routes.yaml").write_text("routes: [{model: m, backend: nobody}" + "]" * (at % 2))
                await until(lambda: gateway.sample("infermesh_gateway_file_bad", file="routes") == 1)
            stop.set()
            await asyncio.gather(*callers)
            last = await _ask(stub)

    assert set(ended) == {"1", "2"}, ended
    assert min(ended.values()) >= RELOADS
    assert last == ("1" if RELOADS % 2 else "2")


async def test_two_gateways_with_one_redis_keep_one_limit(tmp_path: Path, redis_url: str) -> None:
    """Callers at both, all the time: of any stretch of time they admit together no more than burst + rate × time."""
    rule = {"name": "tenants", "per": ["tenant"], "rate": RATE, "burst": BURST}
    limits = {
        "mode": "enforce", "rules": [rule], "redis": {"url": redis_url, "key_prefix": f"e2e-{time.time_ns()}", "timeout": "1s"},
    }  # fmt: skip
    spans: list[Ended] = []
    loop = asyncio.get_running_loop()

    async def caller(stub: Any, end: float) -> None:
        while loop.time() < end:
            asked = loop.time()
            code = await _ask(stub)
            spans.append((asked, loop.time(), code))

    async with serving(Backend(named("OK"))) as one:
        routes = [{"model": "m", "backend": "one"}]
        first, second = (Gateway(tmp_path / name, {"one": one}, routes, rate_limit=limits) for name in "ab")
        async with first, second:
            channels = [grpc.aio.insecure_channel(each.address) for each in (first, second)]
            stubs = [pb_grpc.GRPCInferenceServiceStub(each) for each in channels]
            end = loop.time() + LOAD_S
            await asyncio.gather(*(caller(stub, end) for stub in stubs for _ in range(4)))
            for each in channels:
                await each.close()
            shared = [each.sample("infermesh_gateway_limit_store_away") for each in (first, second)]

    admitted = [(asked, answered) for asked, answered, code in spans if code == "OK"]
    assert {code for _, _, code in spans} == {"OK", "RESOURCE_EXHAUSTED"}
    assert shared == [0, 0]
    assert most_over(admitted, RATE, BURST) <= 0
    assert len(admitted) > BURST + RATE * LOAD_S / 4


async def test_backends_that_hang_or_are_dead_cost_their_own_calls_alone(tmp_path: Path) -> None:
    """One was never there, one accepts connections and says nothing, one takes calls and never answers: each call to them ends by
    its deadline, the process is ready from the start, and calls to a good one are answered meanwhile."""
    never = asyncio.Event()

    async def hang(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await never.wait()
        return pb.ModelInferResponse()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    mute = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    hung = Backend(hang)
    async with serving(Backend(named("OK"))) as good, serving(hung) as hanging:
        backends = {"good": good, "hanging": hanging, "dead": f"127.0.0.1:{free_port()}", "mute": mute}
        routes = [{"model": name, "backend": name} for name in backends]
        async with (
            Gateway(tmp_path, backends, routes) as gateway,
            grpc.aio.insecure_channel(gateway.address) as channel,
        ):
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            bad = {name: [_ask(stub, 1.0, name) for _ in range(20)] for name in ("hanging", "dead", "mute")}
            waiting = {name: asyncio.gather(*each) for name, each in bad.items()}
            answered = [await _ask(stub, 20.0, "good") for _ in range(50)]
            ended = {name: set(await each) for name, each in waiting.items()}
            await until(lambda: hung.cancelled == len(hung.calls) > 0)

    silent.close()
    assert answered == ["OK"] * 50
    assert ended["dead"] == {"UNAVAILABLE"}
    assert ended["mute"] <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert ended["hanging"] <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
