"""docs/metrics.md beside a scrape of a gateway that has seen all that it counts."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import Metric

from infermesh.call import Call
from infermesh.config import load
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.service import InferenceService
from services.gateway.app import build
from services.gateway.config import GatewayConfig
from tests.certificates import Authority
from tests.unit.docs.metrics_page import PAGE, backend, differences, documented, scrape, serving
from tests.unit.gateway.limits import prefix

VARIANTS = [
    {"name": "stable", "version": 3, "weight": 99, "backend": "one"},
    {"name": "canary", "version": 4, "weight": 1, "backend": "two"},
]
CONSTANT = {"constant": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}}
ROUTES = [
    {
        "model": "fraud",
        "variants": VARIANTS,
        "sticky": {"metadata": "x-card"},
        "shadows": [{"name": "candidate", "fraction": 1, "backend": "two"}],
    },
    {"model": "broken", "backend": "broken", "fallback": {"steps": [CONSTANT]}},
    {"model": "slow", "backend": "slow"},
    {"model": "mistaken", "backend": "mistaken"},
]
KEYS = {"all": ["infer", "variant"], "plain": ["infer"], "many": ["infer"]}


@dataclass
class Answering(InferenceService):
    """Answers, fails, or waits until it is told to go on."""

    error: Exception | None = None
    wait: asyncio.Event | None = None
    model: str = ""  # that it answers for, whatever is asked
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.reached.set()
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        return pb.ModelInferResponse(
            model_name=self.model or request.model_name, model_version=request.model_version, id=request.id
        )

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@dataclass
class Gateway:
    """One that serves, and how to ask it."""

    folder: Path
    http_port: int
    stub: Any
    slow: Answering

    async def infer(self, model: str = "fraud", key: str = "all", **metadata: str) -> pb.ModelInferResponse:
        sent = [("x-api-key", key), *((name.replace("_", "-"), value) for name, value in metadata.items())]
        request = pb.ModelInferRequest(model_name=model)
        return await self.stub.ModelInfer(request, metadata=sent, timeout=10, wait_for_ready=True)

    async def refused(self, *asked: Any, **how: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await self.infer(*asked, **how)

    async def routes(self, text: str, outcome: str) -> None:
        """Write the file and wait until its reading is counted."""
        (self.folder / "routes.yaml").write_text(text)
        labels = {"file": "routes", "outcome": outcome}
        async with asyncio.timeout(10):
            while not value(await scrape(self.http_port), "infermesh_gateway_reloads_total", **labels):
                await asyncio.sleep(0)


def value(told: list[Metric], name: str, **labels: str) -> float:
    """The sum of the samples with that name and these labels."""
    samples = (sample for family in told for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def _written(folder: Path, redis_url: str, pair: Any, ports: tuple[int, int], at: dict[str, str]) -> GatewayConfig:
    entries = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "caller": key, "scopes": scopes}
        for key, scopes in KEYS.items()
    ]
    rule = {"name": "few", "rate": 1, "burst": 2, "store": "redis", "match": {"caller": "many"}}
    settings = {
        "server": {
            "host": "127.0.0.1",
            "grpc_port": ports[0],
            "http_port": ports[1],
            "drain": "0s",
            "tls": {"cert": str(pair.cert), "key": str(pair.key)},
        },
        "backends": {name: {"target": place, "breaker": {"failures": 1}} for name, place in at.items()},
        "routes": "routes.yaml",
        "auth": {"keys": "keys.yaml"},
        "rate_limit": {"redis": {"url": redis_url, "key_prefix": prefix(), "timeout": "1s"}, "rules": [rule]},
        "concurrency": {"mode": "enforce", "backends": {"slow": 1}},
        "breaker": {"failures": 2, "backoff": "1h", "max_backoff": "1h"},
        "look_every": "50ms",
    }
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": entries}, explicit_end=True))
    (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": ROUTES}))
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    return load(GatewayConfig, folder / "gateway.yaml", {})


@pytest.fixture
async def gateway(tmp_path: Path, redis_url: str, unused_tcp_port_factory: Callable[[], int]) -> AsyncIterator[Gateway]:
    authority = Authority(tmp_path)
    ports = (unused_tcp_port_factory(), unused_tcp_port_factory())
    slow = Answering(wait=asyncio.Event())
    fakes = {"one": Answering(), "two": Answering(), "slow": slow, "broken": Answering(Unavailable("away"))}
    fakes["mistaken"] = Answering(model="another")
    async with AsyncExitStack() as resources:
        at = {name: await resources.enter_async_context(backend(fake)) for name, fake in fakes.items()}
        at["one"] = at["one"].replace("127.0.0.1", "localhost")  # a name, which is looked up
        config = _written(tmp_path, redis_url, authority.pair(dns=["localhost"]), ports, at)
        await resources.enter_async_context(serving("gateway", config, build))
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.secure_channel(f"127.0.0.1:{ports[0]}", credentials, options)
        await resources.enter_async_context(channel)
        watched = HealthStub(channel).Watch(HealthCheckRequest(), wait_for_ready=True, timeout=10)
        async for health in watched:
            if health.status == HealthCheckResponse.SERVING:
                break
        yield Gateway(tmp_path, ports[1], GRPCInferenceServiceStub(channel), slow)


async def _use(gateway: Gateway) -> None:
    """Everything that is counted happens: answers, refusals of each kind, faults, a good and a bad file."""
    await asyncio.gather(*(gateway.infer(x_card=str(each)) for each in range(20)))
    await gateway.infer(x_infermesh_variant="canary")
    await gateway.infer(key="plain", x_infermesh_variant="canary")
    await gateway.refused(key="wrong")
    await gateway.refused("no-such-model")
    await asyncio.gather(gateway.infer(key="many"), gateway.infer(key="many"))
    await gateway.refused(key="many")
    for _ in range(3):
        await gateway.infer("broken")
    await gateway.refused("mistaken")
    one = asyncio.ensure_future(gateway.infer("slow"))
    await gateway.slow.reached.wait()
    await gateway.refused("slow")
    assert gateway.slow.wait is not None
    gateway.slow.wait.set()
    await one
    await gateway.routes("routes: [", "bad")
    await gateway.routes(yaml.safe_dump({"routes": [*ROUTES, {"model": "new", "backend": "one"}]}), "good")


async def test_the_page_has_what_a_gateway_in_use_tells(gateway: Gateway) -> None:
    """The same names with the same labels, each with a value; and what happened is counted under what it happened to."""
    await _use(gateway)

    told = await scrape(gateway.http_port)

    assert differences(told, documented("Every service with backends, or with TLS", "Gateway")) == []
    stable = {"model": "fraud", "version": "3", "variant": "stable"}
    assert value(told, "infermesh_requests_total", **stable, code="OK") >= 1
    assert value(told, "infermesh_request_seconds_count", **stable) >= 1
    assert value(told, "infermesh_request_seconds_count", model="fraud", version="4", variant="canary") >= 1
    for code, model in (("UNAUTHENTICATED", "fraud"), ("NOT_FOUND", ""), ("RESOURCE_EXHAUSTED", "fraud")):
        assert value(told, "infermesh_requests_total", code=code, model=model) == 1
    assert value(told, "infermesh_gateway_limit_decisions_total", rule="few", outcome="refused") == 1
    assert value(told, "infermesh_gateway_rate_limited_total", caller="many", mode="enforce") == 1
    assert value(told, "infermesh_gateway_shed_total", backend="slow", kind="prediction", mode="enforce") == 1
    assert value(told, "infermesh_gateway_fallback_total", model="broken", step="constant", outcome="answered") == 3
    assert value(told, "infermesh_gateway_breaker_total", model="broken", event="opened") == 1
    assert value(told, "infermesh_gateway_breaker_total", model="broken", event="refused") == 1
    assert value(told, "infermesh_gateway_retries_total", backend="broken", outcome="retried") >= 1
    assert value(told, "infermesh_backend_breaker_total", backend="mistaken", change="opened") == 1
    assert value(told, "infermesh_gateway_file_generation", file="routes") == 2


def test_questions_and_alerts_ask_for_what_there_is() -> None:
    """Every metric that the PromQL of the page names is one that its tables have."""
    text = PAGE.read_text()
    tables, asked = text[: text.index("## Questions")], text[text.index("## Questions") :]

    known = set(re.findall(r"`(infermesh_\w+)`", tables))
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"infermesh_\w+", asked)}

    assert names <= known
    assert len(names) > 10
    alerts = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", asked, re.DOTALL)[0])["groups"][0]["rules"]
    assert all(alert["expr"] and alert["alert"] for alert in alerts)
