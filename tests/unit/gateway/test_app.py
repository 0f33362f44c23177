"""The gateway as it is built, over real channels to servers in this process."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from infermesh.call import Call
from infermesh.config import ServerConfig, TelemetryConfig, load
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.runtime import Telemetry
from infermesh.service import InferenceService, Stack, stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from infermesh.transport.metadata import write_call
from services.gateway.app import build
from services.gateway.config import GatewayConfig

KEYS = {"all": ["infer", "explain", "admin", "variant"], "plain": ["infer"]}


@dataclass
class Backend(InferenceService):
    """A service behind a real port that says who it is; it keeps the calls that reached it."""

    name: str
    calls: list[Call] = field(default_factory=list)
    hanging: asyncio.Event | None = None

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        if self.hanging is not None:
            await self.hanging.wait()
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version or "7", id=request.id
        )
        response.parameters["backend"].string_param = self.name
        return response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name, versions=["7"])

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


def _local(name: str, service: InferenceService | None = None, *, inside_mesh: bool = True) -> Server:
    config = ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0})
    server = Server(name, config, inside_mesh=inside_mesh)
    if service is not None:
        server.mount(stack(service=service))
    return server


@dataclass
class Running:
    """A gateway with its backends, and a stub to its port."""

    folder: Path
    stub: Any
    stack: Stack
    metrics: Metrics
    backends: dict[str, Backend]
    servers: dict[str, Server]

    async def infer(
        self, model: str = "m", key: str | None = "all", version: str = "", **metadata: str
    ) -> pb.ModelInferResponse:
        sent = [("x-api-key", key)] if key is not None else []
        sent += [(name.replace("_", "-"), value) for name, value in metadata.items()]
        request = pb.ModelInferRequest(model_name=model, model_version=version, id="1")
        return await self.stub.ModelInfer(request, metadata=sent, timeout=10)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"service": "gateway", **labels}) or 0.0


@asynccontextmanager
async def _running(folder: Path, routes: list[dict[str, Any]], **settings: Any) -> AsyncIterator[Running]:
    entries = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "caller": key, "scopes": scopes}
        for key, scopes in KEYS.items()
    ]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": entries}, explicit_end=True))
    (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": routes}))
    async with AsyncExitStack() as resources:
        backends = {name: Backend(name) for name in ("one", "two")}
        servers = {name: _local(name, backend) for name, backend in backends.items()}
        for server in servers.values():
            await server.start()
            await server.set_ready(True)  # a backend is called while its health says so
            resources.push_async_callback(server.stop, 0)
        at = {name: f"127.0.0.1:{server.port}" for name, server in servers.items()}
        targets = {name: {"target": place} for name, place in at.items()} | {"both": {"target": list(at.values())}}
        written = {"backends": targets, "routes": "routes.yaml", "auth": {"keys": "keys.yaml"}, "look_every": "50ms"}
        (folder / "gateway.yaml").write_text(yaml.safe_dump(written | settings))
        config = load(GatewayConfig, folder / "gateway.yaml", {})
        metrics = Metrics("gateway")
        telemetry = Telemetry(metrics, Tracing("gateway", TelemetryConfig()))
        gateway = await resources.enter_async_context(build(config, telemetry))
        door = _local("gateway", inside_mesh=False)
        await door.start()
        resources.push_async_callback(door.stop, 0)
        door.mount(gateway)
        channel = await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{door.port}"))
        yield Running(folder, GRPCInferenceServiceStub(channel), gateway, metrics, backends, servers)


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., Any]:
    return lambda routes, **settings: _running(tmp_path, routes, **settings)


async def _code(asked: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked
    return refused.value.code()


async def test_a_call_goes_through_with_what_the_mesh_passes_on_and_nothing_else(running: Any) -> None:
    """The backend sees tenant, variant and request id, no credentials and none of the caller's own mesh metadata."""
    variants = [{"name": "stable", "weight": 1, "version": 3}]
    async with running([{"model": "m", "backend": "one", "variants": variants}]) as gateway:
        response = await gateway.infer(x_infermesh_tenant="evil", x_infermesh_shadow="1", x_request_id="r1")

        (call,) = gateway.backends["one"].calls
        assert (call.caller.tenant, call.variant, call.request_id, call.shadow) == ("all", "stable", "r1", False)
        assert not {"x-api-key", "authorization"} & set(call.metadata)
        assert (response.model_name, response.model_version, response.id) == ("m", "3", "1")
        assert response.parameters["infermesh_variant"].string_param == "stable"
        labels = {"model": "m", "version": "3", "variant": "stable", "code": "OK"}
        assert gateway.value("infermesh_requests_total", **labels) == 1


async def test_nothing_that_is_written_on_holds_a_credential() -> None:
    """What goes to the next hop is a fixed list: neither the key nor a wish for a variant is on it."""
    metadata = {"x-api-key": "k", "authorization": "Bearer k", "x-infermesh-variant": "canary", "cookie": "c"}

    assert write_call(Call(metadata=metadata, request_id="r")) == [("x-request-id", "r")]


async def test_the_order_of_checks_is_credentials_permission_model_version(running: Any) -> None:
    """A call with every fault is refused for the first, and with each one mended for the next."""
    variants = [{"name": "stable", "weight": 1, "version": 3}]
    async with running([{"model": "m", "backend": "one", "variants": variants}]) as gateway:
        assert await _code(gateway.infer("x", None, "bad")) is grpc.StatusCode.UNAUTHENTICATED
        assert await _code(gateway.infer("x", "no-such", "bad")) is grpc.StatusCode.UNAUTHENTICATED
        assert await _code(gateway.infer("x-explainer", "plain", "bad")) is grpc.StatusCode.PERMISSION_DENIED
        assert await _code(gateway.infer("x", "all", "bad")) is grpc.StatusCode.NOT_FOUND
        assert await _code(gateway.infer("m", "all", "bad")) is grpc.StatusCode.INVALID_ARGUMENT
        assert await _code(gateway.infer("m", "all", "9")) is grpc.StatusCode.NOT_FOUND
        assert await _code(gateway.infer("")) is grpc.StatusCode.INVALID_ARGUMENT
        assert not gateway.backends["one"].calls
        assert gateway.value("infermesh_gateway_auth_refusals_total", reason="KEY_MISSING", mode="enforce") == 1


async def test_a_caller_with_the_scope_may_choose_its_variant(running: Any) -> None:
    """The header reaches the gateway over the wire; from a caller without the scope it is dropped, and counted."""
    variants = [{"name": "stable", "weight": 1, "version": 1}, {"name": "canary", "weight": 0, "version": 2}]
    async with running([{"model": "m", "backend": "one", "variants": variants}]) as gateway:
        assert (await gateway.infer(x_infermesh_variant="canary")).model_version == "2"
        assert (await gateway.infer(key="plain", x_infermesh_variant="canary")).model_version == "1"
        assert (await gateway.infer(key="plain", x_infermesh_variant="no-such")).model_version == "1"
        assert gateway.value("infermesh_gateway_variants_dropped_total", mode="enforce") == 2
        assert gateway.value("infermesh_gateway_picks_total", model="m", variant="stable", by="weight") == 2


async def test_refusals_are_in_the_log_with_who_asked_for_what(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line for a refused inference, a message of a stream and another RPC alike, with the caller and without the key."""
    caplog.set_level(logging.INFO, logger="infermesh.filters.logged")
    async with running([{"model": "m", "backend": "one"}]) as gateway:
        await gateway.infer()
        await _code(gateway.infer("x", "plain", x_request_id="r1"))
        await _code(gateway.infer("m", "no-such-key"))
        load = pb.RepositoryModelLoadRequest(model_name="m")
        await _code(gateway.stub.RepositoryModelLoad(load, metadata=[("x-api-key", "plain")], timeout=10))
        lost = iter([pb.ModelInferRequest(model_name="y")])
        assert [one async for one in gateway.stub.ModelStreamInfer(lost, metadata=[("x-api-key", "all")], timeout=10)]

    texts = [record.getMessage() for record in caplog.records if record.name == "infermesh.filters.logged"]
    assert texts[0] == 'ModelInfer NOT_FOUND (MODEL_NOT_FOUND): caller "plain", model "x", request "r1"'
    assert texts[1].startswith('ModelInfer UNAUTHENTICATED (KEY_UNKNOWN): caller "", model "m", request "')
    assert texts[2].startswith('RepositoryModelLoad PERMISSION_DENIED (SCOPE_MISSING): caller "plain", model "m"')
    assert texts[3].startswith('ModelInfer NOT_FOUND (MODEL_NOT_FOUND): caller "all", model "y"')
    assert len(texts) == 4
    assert "no-such-key" not in "".join(texts)


async def test_a_caller_past_its_rate_is_told_to_come_back(running: Any) -> None:
    """Past the burst the answer is RESOURCE_EXHAUSTED with pushback; another caller is served, and one's own limit counts."""
    limits = {"rate": 0.01, "burst": 2, "callers": {"all": {"rate": 1000, "burst": 100}}}
    async with running([{"model": "m", "backend": "one"}], rate_limit=limits) as gateway:
        for _ in range(2):
            await gateway.infer(key="plain")

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.infer(key="plain")

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 1000
        await gateway.infer(key="all")


async def test_a_refusal_tells_the_limit(running: Any, redis_url: str) -> None:
    """Rows, tenants and callers are limited by rules, in Redis too; the refusal has what a client can read of the limit."""
    rule = {"name": "tenants", "per": ["tenant"], "rate": 0.01, "burst": 4, "cost": "rows"}
    limits = {"rules": [rule], "redis": {"url": redis_url, "key_prefix": "test-app", "timeout": "1s"}}
    async with running([{"model": "m", "backend": "one"}], rate_limit=limits) as gateway:
        for _ in range(4):
            await gateway.infer(key="plain")

        with pytest.raises(grpc.aio.AioRpcError, match='the tenant "plain" is past its rate') as refused:
            await gateway.infer(key="plain")

        told = dict(refused.value.trailing_metadata())
        assert [told[f"x-ratelimit-{each}"] for each in ("limit", "remaining", "reset")] == ["4", "0", "400"]
        await gateway.infer(key="all")
        decisions = "infermesh_gateway_limit_decisions_total"
        assert [gateway.value(decisions, rule="tenants", outcome=each) for each in ("admitted", "refused")] == [5, 1]
        assert gateway.value("infermesh_gateway_limit_store_away") == 0


async def test_a_full_backend_refuses_copies_first(running: Any) -> None:
    """With half of the places in use a copy is shed, and predictions are served until all are."""
    gate = asyncio.Event()
    route = {"model": "m", "backend": "one", "shadows": [{"name": "copy", "fraction": 1, "backend": "one"}]}
    limits = {"mode": "enforce", "max_in_flight": 2, "shadows": 0.5}
    async with running([route], concurrency=limits, rate_limit={"mode": "off"}) as gateway:
        gateway.backends["one"].hanging = gate
        calls = [asyncio.ensure_future(gateway.infer(key="all")) for _ in range(2)]
        async with asyncio.timeout(20):
            while len(gateway.backends["one"].calls) < 2:
                await asyncio.sleep(0.001)

        assert await _code(gateway.infer(key="all")) is grpc.StatusCode.RESOURCE_EXHAUSTED

        gate.set()
        await asyncio.gather(*calls)
        shed = "infermesh_gateway_shed_total"
        assert gateway.value(shed, backend="one", kind="prediction", mode="enforce") == 1
        assert gateway.value(shed, backend="one", kind="shadow", mode="enforce") == 3


async def test_policies_that_are_off_are_not_in_the_stack(running: Any) -> None:
    """What is off costs nothing; what observes is there and refuses nobody."""
    off = {"auth": {"mode": "off"}, "rate_limit": {"mode": "off"}, "retry": {"attempts": 1}}
    async with running([{"model": "m", "backend": "one"}], **off) as gateway:
        await gateway.infer(key=None)
        text = repr(gateway.stack)
        assert not any(word in text for word in ("Authenticate", "RateLimit", "Retry"))


async def test_observing_refuses_nobody_and_counts(running: Any) -> None:
    """With authentication and limits in `observe` a stranger past every rate is served, and counted."""
    watching = {
        "auth": {"mode": "observe", "keys": "keys.yaml"},
        "rate_limit": {"mode": "observe", "rate": 0.01, "burst": 1},
    }
    async with running([{"model": "m", "backend": "one"}], **watching) as gateway:
        for _ in range(3):
            await gateway.infer(key=None)

        assert gateway.value("infermesh_gateway_auth_refusals_total", reason="KEY_MISSING", mode="observe") == 3
        assert gateway.value("infermesh_gateway_rate_limited_total", caller="", mode="observe") == 2


async def test_routes_change_while_calls_go_on(running: Any) -> None:
    """A new route file is taken over, a bad one leaves the last good one and is told; no call fails meanwhile."""
    async with running([{"model": "m", "backend": "one"}]) as gateway:
        file, ended = gateway.folder / "routes.yaml", asyncio.Event()
        served: list[str] = []

        async def call_until_ended() -> None:
            while not ended.is_set():
                served.append((await gateway.infer()).parameters["backend"].string_param)

        async def until(holds: Callable[[], bool]) -> None:
            async with asyncio.timeout(10):
                while not holds():
                    await gateway.infer()

        calling = asyncio.ensure_future(call_until_ended())
        file.write_text("routes: [{model: m, backend: nobody}]")
        await until(lambda: gateway.value("infermesh_gateway_file_bad", file="routes") == 1)
        assert gateway.value("infermesh_gateway_file_generation", file="routes") == 1
        file.write_text("routes: [{model: m, backend: two}]")
        await until(lambda: gateway.value("infermesh_gateway_file_generation", file="routes") == 2)
        ended.set()
        await calling

        assert gateway.value("infermesh_gateway_file_bad", file="routes") == 0
        assert gateway.value("infermesh_gateway_reloads_total", file="routes", outcome="bad") >= 1
        assert (await gateway.infer()).parameters["backend"].string_param == "two"
        assert set(served) <= {"one", "two"}


async def test_a_key_that_is_taken_away_is_refused_without_a_restart(running: Any) -> None:
    """A change of the keys file counts while the gateway runs."""
    async with running([{"model": "m", "backend": "one"}], rate_limit={"mode": "off"}) as gateway:
        await gateway.infer(key="plain")

        (gateway.folder / "keys.yaml").write_text("keys: []")

        async with asyncio.timeout(10):
            while gateway.value("infermesh_gateway_file_generation", file="keys") < 2:
                await asyncio.sleep(0.01)
        assert await _code(gateway.infer(key="plain")) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_replica_that_dies_under_load_costs_no_call(running: Any) -> None:
    """Of two replicas one is stopped without any grace while calls are under way: every call is answered."""
    async with running([{"model": "m", "backend": "both"}], rate_limit={"mode": "off"}) as gateway:
        go_on = asyncio.Event()
        for backend in gateway.backends.values():
            backend.hanging = go_on
        under_way = [asyncio.ensure_future(gateway.infer()) for _ in range(40)]
        async with asyncio.timeout(10):
            while sum(len(b.calls) for b in gateway.backends.values()) < 40:
                await asyncio.sleep(0.01)
        lost = len(gateway.backends["one"].calls)

        await gateway.servers["one"].stop(0)
        go_on.set()
        answers = await asyncio.gather(*under_way)
        later = await asyncio.gather(*(gateway.infer() for _ in range(40)))

        assert 0 < lost < 40
        assert {a.parameters["backend"].string_param for a in later} == {"two"}
        assert len(answers) == 40
        assert gateway.value("infermesh_gateway_retries_total", backend="both", outcome="retried") >= lost


async def test_a_candidate_that_died_costs_nobody_anything(running: Any) -> None:
    """With the shadow's backend gone every call is answered, and the copies are counted as failed."""
    shadows = [{"name": "candidate", "backend": "two", "fraction": 1}]
    async with running([{"model": "m", "backend": "one", "shadows": shadows}]) as gateway:
        await gateway.servers["two"].stop(0)

        for _ in range(20):
            assert (await gateway.infer()).parameters["backend"].string_param == "one"
        async with asyncio.timeout(10):
            while gateway.value("infermesh_gateway_shadow_total", model="m", shadow="candidate", outcome="failed") < 20:
                await asyncio.sleep(0.01)

        assert len(gateway.backends["one"].calls) == 20


async def test_a_copy_says_that_it_is_one(running: Any) -> None:
    """Over the wire the candidate sees the mark, and its own name as the variant."""
    shadows = [{"name": "candidate", "backend": "two", "fraction": 1, "version": 9}]
    async with running([{"model": "m", "backend": "one", "shadows": shadows}]) as gateway:
        await gateway.infer()
        async with asyncio.timeout(10):
            while not gateway.backends["two"].calls:
                await asyncio.sleep(0.01)

        (copy,) = gateway.backends["two"].calls
        assert (copy.shadow, copy.variant, copy.caller.tenant) == (True, "candidate", "all")
        assert not gateway.backends["one"].calls[0].shadow


async def test_every_message_of_a_stream_is_admitted_and_routed(running: Any) -> None:
    """Good requests of a stream are answered, a model that is not routed is an error in the stream, which goes on."""
    async with running([{"model": "m", "backend": "one"}]) as gateway:
        requests = [pb.ModelInferRequest(model_name=name, id=name) for name in ("m", "x", "m-explainer")]

        stream = gateway.stub.ModelStreamInfer(iter(requests), metadata=[("x-api-key", "plain")], timeout=10)
        answers = [answer async for answer in stream]

        assert [answer.infer_response.id for answer in answers] == ["m", "x", "m-explainer"]
        assert "no route" in answers[1].error_message
        assert "scope explain" in answers[2].error_message
        assert answers[0].infer_response.parameters["infermesh_variant"].string_param == "default"
