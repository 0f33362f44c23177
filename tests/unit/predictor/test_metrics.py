"""What a scrape sees of the predictor, and that it adds up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from infermesh.call import Call
from infermesh.config import ServerConfig
from infermesh.filters import Measured, WithinDeadline
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.service import stack
from infermesh.telemetry import Metrics
from infermesh.transport import Server
from services.predictor.metrics import RepositoryCollector, VersionsCollector

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
DOCS = Path(__file__).parents[3] / "docs/metrics.md"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def scrape(registry: CollectorRegistry) -> Callable[..., float]:
    """`value("name", model="m")`: the sum of the samples of that name with those labels."""
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))

    def value(name: str, **labels: str) -> float:
        return sum(
            s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()
        )

    return value


def registered(predictor: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (VersionsCollector, RepositoryCollector):
        registry.register(collector(predictor.repository, "predictor"))
    return registry


async def test_what_a_version_did_is_in_its_metrics(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Requests by code, rows, runs, waits, NaNs and the cache, each under model and version."""
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))
    predictor = await serve(response_cache={"enabled": True})
    x, nan = np.ones(3, np.float32), np.array([np.nan], np.float32)
    for array in (x, x, nan):
        await predictor.infer(ask("m", version="1", x=array), Call())
    with contextlib.suppress(Exception):
        await predictor.infer(ask("m", version="1", wrong=x), Call())

    value = scrape(registered(predictor))

    one = {"service": "predictor", "model": "m", "version": "1"}
    assert value("infermesh_loaded_versions") == 2
    assert value("infermesh_model_requests_total", **one, code="OK") == 3
    assert value("infermesh_model_requests_total", **one, code="INVALID_ARGUMENT") == 1
    assert value("infermesh_model_requests_total", **one) == 4
    assert value("infermesh_model_rows_total", **one) == 4
    assert value("infermesh_model_nan_answers_total", **one) == 1
    assert value("infermesh_model_compute_seconds_count", **one) == 2
    assert value("infermesh_model_queue_seconds_count", **one) == 2
    assert value("infermesh_model_batch_rows_sum", **one) == 4
    assert value("infermesh_model_batch_requests_bucket", **one, le="1.0") == 2
    assert value("infermesh_response_cache_hits_total", **one) == 1
    assert value("infermesh_response_cache_misses_total", **one) == 3
    assert value("infermesh_response_cache_bytes", **one) > 0
    assert value("infermesh_model_in_flight", **one) == value("infermesh_model_waiting", **one) == 0
    assert value("infermesh_model_requests_total", model="m", version="2") == 0
    assert value("infermesh_model_loads_total") == 2


async def test_requests_that_run_and_wait_are_in_flight(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """One runs and two wait; after they are given up all gauges are back at zero."""
    put("m", 1, models.slow())
    predictor = await serve()
    registry = registered(predictor)
    version = predictor.repository.resolve("m", "")
    calls = [asyncio.ensure_future(predictor.infer(ask("m", n=np.array([10**9])), Call())) for _ in range(3)]
    async with asyncio.timeout(5):
        while not version.running or version.waiting < 2:
            await asyncio.sleep(0.001)

    value = scrape(registry)

    assert (value("infermesh_model_in_flight"), value("infermesh_model_waiting")) == (3, 2)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    value = scrape(registry)
    assert (value("infermesh_model_in_flight"), value("infermesh_model_waiting")) == (0, 0)
    assert value("infermesh_model_requests_total", code="CANCELLED") == 3


async def test_series_go_with_their_version(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """An unload leaves nothing of the model; failed loads are counted and are no labels."""
    put("m", 1, models.add(1))
    put("broken", 1, b"no model")
    predictor = await serve()
    registry = registered(predictor)
    await predictor.infer(ask("m", x=np.ones(1, np.float32)), Call())

    await predictor.repository.unload("m")

    text = generate_latest(registry).decode()
    assert 'model="' not in text
    assert scrape(registry)("infermesh_model_load_failures_total") >= 1
    assert scrape(registry)("infermesh_loaded_versions") == 0


async def test_a_disk_cache_has_its_metrics(serve: Any, put: Any, models: Any) -> None:
    """Also where there is none, as zeros: a dashboard needs no two forms."""
    put("m", 1, models.add(1))
    value = scrape(registered(await serve()))

    assert value("infermesh_source_downloads_total") == value("infermesh_source_cache_bytes") == 0


async def test_nothing_is_registered_twice(serve: Any, put: Any, models: Any) -> None:
    """The names of the collectors are known to the registry."""
    predictor = await serve()
    registry = registered(predictor)

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(VersionsCollector(predictor.repository, "predictor"))


@contextlib.asynccontextmanager
async def served(predictor: Any, **limits: int) -> AsyncIterator[tuple[Metrics, grpc.aio.Channel]]:
    """The predictor behind a real server, composed as in its process."""
    metrics = Metrics("predictor")
    metrics.label = predictor.repository.label
    config = ServerConfig(**{"host": "127.0.0.1", "grpc_port": 0, **limits})
    server = Server("predictor", config, inside_mesh=True, refused=metrics.refused)
    await server.start()
    server.mount(stack(Measured(metrics.request, metrics.label), WithinDeadline(30), service=predictor))
    options = [("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            yield metrics, channel
    finally:
        await server.stop(5)


async def test_every_request_of_a_storm_is_under_exactly_one_outcome(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """Good and bad ones, unknown models, malformed bytes, full queues, too many calls at a time, expired and cancelled ones, on
    unary calls and streams: the codes add up to what was offered, and so do success and failure of each version."""
    put("fast", 1, models.add(1))
    put("slow", 1, models.slow())
    put("text", 1, models.echo(TensorProto.STRING))
    predictor = await serve(queue={"max_requests": 4, "refuse_late": False}, inline_below="0s")
    draw = random.Random(3)
    x = np.ones(2, np.float32)
    expiring = ask("slow", n=np.array([10**9]))
    expiring.parameters[
        "timeout"
    ].int64_param = 50_000  # a deadline of grpc's could pass before the server has the call
    kinds = [
        (ask("fast", x=x), 20.0),
        (ask("fast", y=x), 20.0),
        (ask("unknown", x=x), 20.0),
        (ask("slow", n=np.array([500])), 20.0),
        (expiring, 20.0),
        (ask("text", x=np.array([b"a"] * 5000, object)), 20.0),
        (ask("text", x=np.array([b"\xff"], object)), 20.0),
    ]
    codes: Counter[str] = Counter()
    offered = 0

    async with served(predictor, max_in_flight=24) as (metrics, channel):
        infer = channel.unary_unary(INFER)
        started: list[asyncio.Task[None]] = []

        async def one(data: bytes, timeout: float) -> None:
            try:
                await infer(data, timeout=timeout)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1

        for number in range(400):
            request, timeout = draw.choice(kinds)
            data = b"\xff\xff\xff" if number % 40 == 7 else request.SerializeToString()
            started.append(asyncio.ensure_future(one(data, timeout)))
            offered += 1
            if number % 8 == 0:
                await asyncio.sleep(0.002)
        await asyncio.gather(*started)

        stream = pb_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        good, bad = ask("fast", x=x), ask("fast", y=x)
        answers = [a async for a in stream(iter([good, bad] * 20), timeout=20)]
        offered += len(answers)
        assert len(answers) == 40
        for each in answers:
            codes[each.infer_response.parameters["infermesh_code"].string_param or "OK"] += 1

        gone = [asyncio.ensure_future(one(ask("slow", n=np.array([10**9])).SerializeToString(), 20)) for _ in range(3)]
        offered += 3
        async with asyncio.timeout(10):
            while predictor.repository.resolve("slow", "").statistics.in_flight < 3:
                await asyncio.sleep(0.001)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        async with asyncio.timeout(10):
            while predictor.repository.resolve("slow", "").statistics.in_flight:
                await asyncio.sleep(0.001)

        value = scrape(metrics.registry)
        assert value("infermesh_requests_total") == offered
        codes["CANCELLED"] += 3
        assert {code: value("infermesh_requests_total", code=code) for code in codes} == codes
        assert codes["RESOURCE_EXHAUSTED"] and codes["DEADLINE_EXCEEDED"] and codes["NOT_FOUND"]
        assert (
            value("infermesh_requests_total", code="INVALID_ARGUMENT", model="") >= 10
        )  # malformed: nobody knows of what

    for version in predictor.repository.loaded():
        told = version.statistics.message(version.model, "1").inference_stats
        assert told.success.count + told.fail.count == version.statistics.begun > 0
        assert version.statistics.fail.count == sum(t.count for t in version.statistics.failures.values())


async def test_what_the_server_refuses_before_the_service_is_counted_once(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """Past `max_in_flight` and `max_streams`, and malformed, on streams too; the model is a label where it is known."""
    put("m", 1, models.add(1))
    put("slow", 1, models.slow())
    predictor = await serve()
    good = ask("m", x=np.ones(1, np.float32))

    async with served(predictor, max_in_flight=1, max_streams=1) as (metrics, channel):
        infer = channel.unary_unary(INFER)
        takes_the_place = infer(ask("slow", n=np.array([10**9])).SerializeToString(), timeout=20)
        statistics = predictor.repository.resolve("slow", "").statistics
        async with asyncio.timeout(10):
            while not statistics.in_flight:
                await asyncio.sleep(0.001)
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        raw = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for data in (good.SerializeToString(), ask("other", x=np.ones(1)).SerializeToString(), b"\xff"):
            with pytest.raises(grpc.aio.AioRpcError):
                await infer(data, timeout=10)
        open_stream = raw(timeout=10)
        for data in (good.SerializeToString(), b"\xff"):
            await open_stream.write(data)
            await open_stream.read()
        with pytest.raises(grpc.aio.AioRpcError, match="streams are open"):
            await stub.ModelStreamInfer(iter([good]), timeout=10).read()
        await open_stream.done_writing()
        await open_stream.read()
        takes_the_place.cancel()
        async with asyncio.timeout(10):
            while statistics.in_flight:
                await asyncio.sleep(0.001)

        value = scrape(metrics.registry)
        assert value("infermesh_requests_total") == 7
        assert value("infermesh_requests_total", code="CANCELLED", model="slow") == 1
        assert value("infermesh_requests_total", code="RESOURCE_EXHAUSTED", model="m") == 2
        assert value("infermesh_requests_total", code="RESOURCE_EXHAUSTED", model="") == 2
        assert value("infermesh_requests_total", code="INVALID_ARGUMENT", model="") == 2
        assert predictor.repository.resolve("m", "").statistics.begun == 0


async def test_the_documentation_has_every_metric(serve: Any, put: Any, models: Any) -> None:
    """Those that a scrape shows and those in docs/metrics.md are the same, but for prometheus_client's own."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache={"enabled": True})
    metrics = Metrics("predictor")
    for collector in (VersionsCollector, RepositoryCollector):
        metrics.registry.register(collector(predictor.repository, "predictor"))

    told = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if family.name.startswith("infermesh_")
    }

    assert set(re.findall(r"^\| `(infermesh_\w+)`", DOCS.read_text(), re.MULTILINE)) == told
