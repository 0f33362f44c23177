"""docs/metrics.md beside scrapes of a predictor with two processes in Envoy, whose counts are told as those of one service."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from prometheus_client import Metric

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_inputs
from tests.unit.docs.metrics_page import PAGE, differences, documented, scrape
from tests.unit.engine.conftest import Supervised, channel

ROOT = Path(__file__).parents[3]
SECTION = "Every service on the engine envoy"
SETTINGS = {
    "SERVER__ENGINE": "envoy", "SERVER__PROCESSES": "2", "SERVER__HOST": "127.0.0.1", "SERVER__GRPC_PORT": "0",
    "SERVER__HTTP_PORT": "0", "SERVER__DRAIN": "0s", "REPOSITORY__ROOT": str(ROOT / "samples/models"),
    "REPOSITORY__MODELS": '["iris"]',
}  # fmt: skip


@asynccontextmanager
async def predictor() -> AsyncIterator[Supervised]:
    """With the samples' iris, whole: both processes are ready."""
    env = {**os.environ, **{f"INFERMESH_PREDICTOR__{name}": value for name, value in SETTINGS.items()}}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.predictor", cwd=ROOT, env=env, stderr=asyncio.subprocess.PIPE
    )
    it = Supervised(child)
    reading = asyncio.ensure_future(it.read())
    try:
        (line,) = await it.says("listening")
        it.grpc_port, it.http_port = line["grpc_port"], line["http_port"]
        yield it
        it.signal(signal.SIGTERM)
        assert await it.ended() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        await reading


async def until(it: Supervised, **values: float) -> dict[str, Metric]:
    """Scrape until these values of the supervisor's own are told: `state_ready=2`."""
    wanted = {tuple(name.split("_")): value for name, value in values.items()}
    found: dict[str, Metric] = {}

    async def told() -> bool:
        nonlocal found
        found = {each.name: each for each in await scrape(it.http_port)}
        own = [*found["infermesh_engine_processes"].samples, *found["infermesh_engine_restarts"].samples]
        return (
            wanted.items()
            <= {(key, label): s.value for s in own for key, label in s.labels.items() if key != "service"}.items()
        )

    await it.until(told)
    return found


async def ask(it: Supervised, times: int) -> None:
    """Each on a connection of its own, which the kernel gives to one of the processes."""
    request = pb.ModelInferRequest(model_name="iris")
    add_inputs(request, {"features": np.ones((1, 4), np.float32)}, raw=True)
    for _ in range(times):
        async with channel(it.target) as opened:
            await GRPCInferenceServiceStub(opened).ModelInfer(request, wait_for_ready=True, timeout=20)


def answered(told: dict[str, Metric]) -> float:
    return sum(each.value for each in told["infermesh_requests"].samples if each.labels["code"] == "OK")


async def test_the_page_has_what_a_predictor_in_envoy_tells() -> None:
    """Counters are the sums of both processes, and stay so when one dies and when all are replaced; gauges are what they mean."""
    async with predictor() as it:
        await until(it, state_ready=2)
        await ask(it, 40)  # a half of them would be told by one of the processes
        told = await until(it, state_ready=2)

        assert answered(told) == 40
        assert [each.value for each in told["infermesh_loaded_versions"].samples] == [2]  # in each, and not four
        sizes = {each.value for each in told["infermesh_model_file_bytes"].samples}
        assert sizes == {each.stat().st_size for each in (ROOT / "samples/models/iris").glob("*/model.onnx")}

        os.kill(min(it.pids()), signal.SIGKILL)
        await it.says("another one is started")
        told = await until(it, reason_failed=1, state_ready=2)
        assert answered(told) == 40

        it.signal(signal.SIGHUP)
        await it.says("process replaced", 2)
        told = await until(it, reason_failed=1, reason_asked=2, state_ready=2)
        assert answered(told) == 40

    page = documented(SECTION)
    names = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in told.values()}
    assert differences([each for name, each in names.items() if name in page], page) == []
    predictor_s = re.findall(
        r"^\| `(infermesh_(?:model|loaded|source|repository)\w+)` \|", PAGE.read_text(), re.MULTILINE
    )
    assert len(predictor_s) > 15 and set(predictor_s) <= names.keys()
