"""A gateway that is its own backend, and one whose variant goes away, over real channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
from infermesh.service import InferenceService, stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from services.gateway.app import build
from services.gateway.config import GatewayConfig

BOTH = [{"name": "a", "version": 1, "weight": 1}, {"name": "b", "version": 2, "weight": 1}]


class Backend(InferenceService):
    """Has versions, some of which are not ready."""

    def __init__(self) -> None:
        self.dead: set[str] = set()

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return version not in self.dead


@asynccontextmanager
async def _gateway(folder: Path, service: InferenceService | None, **route: Any) -> AsyncIterator[tuple[Any, Metrics]]:
    """A stub to a gateway whose backend is the service, or itself."""
    async with AsyncExitStack() as resources:
        server_config = ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0})
        door = Server("gateway", server_config, inside_mesh=False)
        below = Server("below", server_config, inside_mesh=True) if service is not None else door
        for each in {door, below}:
            await each.start()
            await each.set_ready(True)
            resources.push_async_callback(each.stop, 0)
        if service is not None:
            below.mount(stack(service=service))
        routes = {"routes": [{"model": "m", "backend": "b", "variants": BOTH} | route]}
        routes["readiness"] = {"every": "100ms", "fall": 1, "rise": 1}  # type: ignore[assignment]
        (folder / "routes.yaml").write_text(yaml.safe_dump(routes))
        written = {
            "backends": {"b": {"target": f"127.0.0.1:{below.port}"}},
            "routes": "routes.yaml",
            "auth": {"mode": "off"},
        }
        (folder / "gateway.yaml").write_text(yaml.safe_dump(written))
        metrics = Metrics("gateway")
        telemetry = Telemetry(metrics, Tracing("gateway", TelemetryConfig()))
        config = load(GatewayConfig, folder / "gateway.yaml", {})
        door.mount(await resources.enter_async_context(build(config, telemetry)))
        channel = await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{door.port}"))
        yield GRPCInferenceServiceStub(channel), metrics


async def test_a_gateway_that_is_its_own_backend_says_so(tmp_path: Path) -> None:
    """The call goes round a few times and is FAILED_PRECONDITION, with the words that say why; readiness ends too."""
    async with _gateway(tmp_path, None) as (stub, metrics):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(pb.ModelInferRequest(model_name="m"), timeout=10)
        ready = await stub.ModelReady(pb.ModelReadyRequest(name="m"), timeout=10)

        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "a loop of gateways" in refused.value.details()
        assert not ready.ready
        counted = [
            sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == "infermesh_requests_total"
        ]
        assert sum(counted) == 9


async def test_a_variant_that_goes_away_loses_its_share_and_gets_it_back(tmp_path: Path) -> None:
    """The gateway finds out by itself, over the channel that calls take."""
    backend = Backend()
    async with _gateway(tmp_path, backend) as (stub, metrics):

        async def answered() -> set[str]:
            asked = [stub.ModelInfer(pb.ModelInferRequest(model_name="m"), timeout=10) for _ in range(60)]
            return {(await each).model_version for each in asked}

        async def until(ready: float) -> None:
            labels = {"service": "gateway", "model": "m", "variant": "b", "backend": "b", "version": "2"}
            async with asyncio.timeout(10):
                while metrics.registry.get_sample_value("infermesh_gateway_variant_ready", labels) != ready:
                    await asyncio.sleep(0.01)

        assert await answered() == {"1", "2"}
        backend.dead.add("2")
        await until(0)
        assert await answered() == {"1"}
        backend.dead.clear()
        await until(1)
        assert await answered() == {"1", "2"}
