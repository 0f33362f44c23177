"""What callers are told of their limits while they are within them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from infermesh.call import Call, Caller
from infermesh.config import BackendConfig, ServerConfig, TelemetryConfig
from infermesh.errors import NotFound
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.runtime import Telemetry
from infermesh.service import Filter, InferenceService, Stack, stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import RemoteService, Server
from services.gateway.app import build
from services.gateway.config import GatewayConfig
from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter
from services.gateway.limits_config import RateLimitConfig
from services.gateway.rate_limit import RateLimit, RateLimitByCost
from tests.unit.gateway.limits import Replica, prefix, replica

REQUEST = pb.ModelInferRequest(model_name="m", id="1")
KEYS = ("limit", "remaining", "reset")


class Answering(InferenceService):
    """Answers every model but one that is named `missing`."""

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.model_name == "missing":
            raise NotFound("no such model")
        return pb.ModelInferResponse(model_name=request.model_name, id=request.id)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


def _limit(told: bool = True, **config: Any) -> RateLimit:
    """A filter with a clock that stands still, so that nothing is paid off."""
    parsed = RateLimitConfig.model_validate({"rate": 0.5, "burst": 4, **config})
    rules = rules_of(parsed)
    kind = RateLimitByCost if any(rule.cost for rule in rules) else RateLimit
    limiter = Limiter(Gcra(clock=lambda: 1000.0))
    return kind(plans=Plans(rules, told=told), limiter=limiter, observe=lambda *each: None, told=told)


@asynccontextmanager
async def _edge(service: Stack) -> AsyncIterator[str]:
    """The service at a port of its own, where callers from outside the mesh ask; its address."""
    config = ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0})
    server = Server("gateway", config, inside_mesh=False)
    server.mount(service)
    await server.start()
    await server.set_ready(True)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def at_edge() -> AsyncIterator[Callable[..., Any]]:
    """`await at_edge(filter, …)`: a stub to these filters over a service that answers."""
    async with AsyncExitStack() as resources:

        async def serve(*filters: Filter, service: InferenceService | None = None) -> Any:
            target = await resources.enter_async_context(_edge(stack(*filters, service=service or Answering())))
            return GRPCInferenceServiceStub(await resources.enter_async_context(grpc.aio.insecure_channel(target)))

        yield serve


async def _told(asked: Any) -> list[str]:
    """Limit, remaining and reset, of an answer."""
    await asked
    return _of(await asked.trailing_metadata())


def _of(trailing: Any) -> list[str]:
    pairs = list(trailing or ())
    assert len({key for key, _ in pairs}) == len(pairs)
    told = dict(pairs)
    return [told[f"x-ratelimit-{key}"] for key in KEYS if f"x-ratelimit-{key}" in told]


def _rule(**rest: Any) -> dict[str, Any]:
    return {"name": "rule", "rate": 0.5, "burst": 4, "store": "local", **rest}


async def test_each_answer_tells_what_is_left(at_edge: Any) -> None:
    """Every RPC counts as a call, and tells what a refusal would tell: the burst, what is left of it, and when all is."""
    stub = await at_edge(_limit())

    assert await _told(stub.ModelInfer(REQUEST, timeout=10)) == ["4", "3", "2"]
    assert await _told(stub.ModelMetadata(pb.ModelMetadataRequest(name="m"), timeout=10)) == ["4", "2", "4"]
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stub.ModelInfer(pb.ModelInferRequest(model_name="missing"), timeout=10)
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    assert _of(missing.value.trailing_metadata()) == ["4", "1", "6"]
    assert await _told(stub.ModelInfer(REQUEST, timeout=10)) == ["4", "0", "8"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(REQUEST, timeout=10)
    assert _of(refused.value.trailing_metadata()) == ["4", "0", "8"]


async def test_a_blocking_client_reads_it_too() -> None:
    """As clients without asyncio do: the call object beside the answer has the trailing metadata."""
    async with _edge(stack(_limit(), service=Answering())) as target:

        def ask() -> list[str]:
            with grpc.insecure_channel(target) as channel:
                _, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(REQUEST, timeout=10)
                return _of(call.trailing_metadata())

        assert await asyncio.to_thread(ask) == ["4", "3", "2"]


async def test_a_stream_tells_at_its_end(at_edge: Any) -> None:
    """The last state: each message was a call, and the last of them may be one that was refused."""
    stub = await at_edge(_limit())

    for messages, told in [(3, ["4", "1", "6"]), (2, ["4", "0", "8"])]:
        asked = stub.ModelStreamInfer(iter([REQUEST] * messages), timeout=10)
        answers = [answer async for answer in asked]

        assert len(answers) == messages
        assert _of(await asked.trailing_metadata()) == told
    assert "is past its rate" in answers[-1].error_message


@pytest.mark.parametrize(
    "config", [{"told": False}, {"mode": "observe"}, {"rate": None, "rules": [_rule(mode="observe")]}]
)
async def test_nothing_is_told_where_it_is_off_or_nobody_is_refused(at_edge: Any, config: dict[str, Any]) -> None:
    """The setting takes it away from successes; a limit that only observes is none that a caller has to keep."""
    stub = await at_edge(_limit(**config))

    assert await _told(stub.ModelInfer(REQUEST, timeout=10)) == []


async def test_of_several_limits_the_nearest_to_its_end_is_told(at_edge: Any) -> None:
    """By the part of the burst that is left; a rule that observes does not count."""
    rules = [
        _rule(name="wide", burst=100),
        _rule(name="near", burst=10),
        _rule(name="seen", burst=2, mode="observe"),
        _rule(name="rows", burst=20, cost="rows"),
    ]
    stub = await at_edge(_limit(rate=None, rules=rules))
    batch = pb.ModelInferRequest(
        model_name="m", inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[15, 0])]
    )

    assert await _told(stub.ModelInfer(REQUEST, timeout=10)) == ["10", "9", "2"]
    assert await _told(stub.ModelInfer(batch, timeout=10)) == ["20", "4", "32"]
    assert await _told(stub.ModelMetadata(pb.ModelMetadataRequest(name="m"), timeout=10)) == ["10", "7", "6"]


@pytest.mark.parametrize("remote", [True, False])
async def test_the_callers_own_gateway_tells(at_edge: Any, remote: bool) -> None:
    """The limits of a gateway behind it are its own affair, over the network and in one process alike."""
    inner = stack(_limit(burst=2), service=Answering())
    async with _edge(inner) as target:
        below = RemoteService(BackendConfig.model_validate({"target": target}), "below")
        stub = await at_edge(_limit(burst=100), service=below if remote else inner)

        assert await _told(stub.ModelInfer(REQUEST, timeout=10)) == ["100", "99", "2"]
        await below.close()


def _filter(gateway: Replica) -> RateLimit:
    return RateLimit(plans=gateway.plans, limiter=gateway.limiter, observe=lambda *each: None, told=True)


async def _admitted(limit: RateLimit) -> dict[str, str] | None:
    call = Call(caller=Caller("demo", tenant="acme"), trailing={})
    await limit.admit("ModelInfer", "m", "", call)
    return call.trailing


async def test_shared_limits_are_told_as_redis_has_them(redis_url: str) -> None:
    """What other replicas let in is part of it: Redis answers a decision with what is left."""
    rules = [{"name": "wide", "rate": 0.01, "burst": 50}, {"name": "near", "rate": 0.01, "burst": 5}]
    seen = {"name": "seen", "mode": "observe", "rate": 0.01, "burst": 1}
    async with replica(redis_url, *rules, seen, told=True) as gateway:
        limit = _filter(gateway)
        left = []
        for _ in range(3):
            told = await _admitted(limit)
            assert told is not None
            left.append((told["x-ratelimit-limit"], told["x-ratelimit-remaining"]))
            reset = told["x-ratelimit-reset"]

    assert left == [("5", "4"), ("5", "3"), ("5", "2")]
    assert 299 <= int(reset) <= 300
    assert (gateway.outcome("admitted", 2), gateway.outcome("observed", 2)) == (1, 2)


@pytest.mark.parametrize(("local", "told"), [(3, "3"), (100, "4")])
async def test_local_and_shared_limits_are_compared(redis_url: str, local: int, told: str) -> None:
    """The nearest of both kinds."""
    rules = [{"rate": 0.01, "burst": 4}, {"name": "here", "store": "local", "rate": 0.01, "burst": local}]
    async with replica(redis_url, *rules, told=True) as gateway:
        assert (await _admitted(_filter(gateway)) or {})["x-ratelimit-limit"] == told


async def test_without_redis_the_limit_that_is_kept_meanwhile_is_told() -> None:
    """A replica alone tells its share; rules that let everybody in meanwhile have nothing to tell."""
    rules = [{"rate": 0.01, "burst": 40, "local_share": 0.25}, {"name": "open", "burst": 2, "on_store_failure": "open"}]
    async with replica("redis://127.0.0.1:1", *rules, told=True) as gateway:
        told = await _admitted(_filter(gateway)) or {}

    assert [told[f"x-ratelimit-{key}"] for key in KEYS[:2]] == ["10", "9"]


@asynccontextmanager
async def _gateway(folder: Path, backend: str, limits: dict[str, Any]) -> AsyncIterator[Any]:
    """A whole gateway, as it is built; a stub to it."""
    routes = folder / "routes.yaml"
    routes.write_text("routes: [{model: m, backend: one}]")
    written = {"backends": {"one": {"target": backend}}, "auth": {"mode": "off"}, "rate_limit": limits}
    config = GatewayConfig.model_validate({**written, "routes": routes})
    telemetry = Telemetry(Metrics("gateway"), Tracing("gateway", TelemetryConfig()))
    async with (
        build(config, telemetry) as gateway,
        _edge(gateway) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        yield GRPCInferenceServiceStub(channel)


async def test_two_gateways_tell_what_both_let_in(redis_url: str, tmp_path: Path) -> None:
    """By their one Redis; and with `metadata: false` a third one tells nothing, and keeps the same limit."""
    rule = {"name": "all", "rate": 0.001, "burst": 4}
    limits = {"rate": None, "rules": [rule], "redis": {"url": redis_url, "key_prefix": prefix(), "timeout": "1s"}}
    async with (
        _edge(stack(service=Answering())) as backend,
        _gateway(tmp_path, backend, limits) as one,
        _gateway(tmp_path, backend, limits) as two,
        _gateway(tmp_path, backend, {**limits, "metadata": False}) as silent,
    ):
        told = [(await _told(each.ModelInfer(REQUEST, timeout=10)))[:2] for each in (one, two, silent, one)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await silent.ModelInfer(REQUEST, timeout=10)

    assert told == [["4", "3"], ["4", "2"], [], ["4", "0"]]
    assert _of(refused.value.trailing_metadata())[:2] == ["4", "0"]
