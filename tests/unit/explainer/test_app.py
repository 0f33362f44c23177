"""The explainer as it is built, over real channels to servers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig, ServerConfig, TelemetryConfig
from infermesh.errors import Unavailable
from infermesh.runtime import Telemetry
from infermesh.service import stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import RemoteService, Server
from services.explainer.app import build
from services.explainer.config import ExplainerConfig

REPLICAS = 2


@pytest.fixture
async def built(lab: SimpleNamespace, tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """An explainer whose backend has two replicas of one model; each asks for one row at a time, so that both are asked."""
    models = [lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}) for _ in range(REPLICAS)]
    (tmp_path / "model.json").write_text(lab.oip_json({"x": np.zeros((1, 3))}))
    async with AsyncExitStack() as resources:
        servers = []
        for model in models:
            config = ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0})
            server = Server("predictor", config, inside_mesh=True)
            server.mount(stack(service=model))
            await server.start()
            await server.set_ready(True)  # a backend is called while its health says so
            resources.push_async_callback(server.stop, 0)
            servers.append(server)
        target = [f"127.0.0.1:{server.port}" for server in servers]

        async def explainer(**settings: Any) -> SimpleNamespace:
            config = ExplainerConfig.model_validate(
                {
                    "backends": {"predictor": {"target": target}},
                    "backgrounds": {"root": str(tmp_path)},
                    "asking": {"max_rows": 1, "in_flight": 4},
                    **settings,
                }
            )
            metrics = Metrics("explainer")
            telemetry = Telemetry(metrics, Tracing("explainer", TelemetryConfig()))
            service = await resources.enter_async_context(build(config, telemetry))
            return SimpleNamespace(service=service, registry=metrics.registry)

        yield SimpleNamespace(explainer=explainer, models=models, servers=servers)


class Gate:
    """Lets the first question through, whose answer says which version is explained; the others wait until it is open."""

    def __init__(self) -> None:
        self.came = 0
        self.open = asyncio.Event()

    async def wait(self) -> None:
        self.came += 1
        if self.came > 1:
            await self.open.wait()


async def _losing_one_replica(lab: SimpleNamespace, built: SimpleNamespace, service: Any) -> Any:
    """The explanation, one of whose replicas is stopped without grace while both are asked."""
    async with asyncio.timeout(20):
        while not all(model.requests for model in built.models):  # until both are connected
            await service.infer(lab.request_of({"x": np.zeros((4, 3))}), Call())
    gate = Gate()
    for model in built.models:
        model.hold = gate
        model.requests.clear()
    request = lab.request_of({"x": np.ones((4, 3))})
    explanation = asyncio.ensure_future(service.infer(request, Call()))
    async with asyncio.timeout(10):
        while not all(model.in_flight for model in built.models):
            await asyncio.sleep(0.001)
        await built.servers[0].stop(0)
        gate.open.set()
        return await explanation


async def test_a_replica_that_dies_in_the_middle_costs_its_questions_and_not_the_explanation(
    lab: SimpleNamespace, built: SimpleNamespace
) -> None:
    """What was under way there is asked of the other replica, and the rest of the work is not done again."""
    explainer = await built.explainer()

    response = await _losing_one_replica(lab, built, explainer.service)

    explained = lab.Explained(response)
    assert np.allclose(explained.attributions, 1.0)
    retried = explainer.registry.get_sample_value(
        "infermesh_explainer_retries_total", {"service": "explainer", "outcome": "retried"}
    )
    assert 1 <= retried <= 8
    assert sum(len(model.requests) for model in built.models) <= explained.parameters["infermesh_rows_sent"] + retried


async def test_without_retries_the_caller_is_told(lab: SimpleNamespace, built: SimpleNamespace) -> None:
    """`attempts: 1` leaves every other attempt to who asked."""
    explainer = await built.explainer(retry={"attempts": 1})

    with pytest.raises(Unavailable):
        await _losing_one_replica(lab, built, explainer.service)
    assert "Retry" not in repr(explainer.service)


async def test_refined_answers_travel_in_a_stream(lab: SimpleNamespace, built: SimpleNamespace) -> None:
    """Over a real channel, by the filters round the explainer: several answers to one request, the last one converged."""
    explainer = await built.explainer(asking={"max_rows": 4096})
    for model in built.models:
        model.function = lambda given: {"y": np.sin(given["x"] * 3).prod(axis=1, keepdims=True)}
    server = Server("explainer", ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0}), inside_mesh=True)
    server.mount(explainer.service)
    await server.start()
    await server.set_ready(True)
    remote = RemoteService(BackendConfig(target=f"127.0.0.1:{server.port}"), "explainer")
    request = lab.request_of({"x": np.ones((4, 3))}, method="permutation", max_evals=4000)

    async with asyncio.timeout(30):
        answers = [lab.Explained(response) async for response in remote.stream(request, Call())]
    await remote.close()
    await server.stop(0)

    converged = [answer.parameters["infermesh_converged"] for answer in answers]
    assert converged == [False] * (len(answers) - 1) + [True]
    assert len(answers) >= 2
