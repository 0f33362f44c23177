"""docs/metrics.md beside a scrape of a gateway that compares, and the alerts of docs/shadows.md."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from infermesh.call import Call
from infermesh.config import load
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import shadow_reports_pb2 as reports_pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.protocol.shadow_reports_pb2_grpc import ShadowReportsStub
from infermesh.runtime import serve
from infermesh.service import InferenceService
from infermesh.tensors import add_outputs
from infermesh.transport.probe import wait_until_serving
from services.gateway.app import build
from services.gateway.comparer import TOOLS
from services.gateway.config import GatewayConfig
from tests.unit.docs.metrics_page import PAGE, backend, differences, documented, scrape

SHADOWS_PAGE = PAGE.with_name("shadows.md")
SECTIONS = ("Every service with backends, or with TLS", "Gateway", "Gateway: shadows")
CALLS = 60
KEY = (("x-api-key", "key"),)
COMPARE = {"repeat": 1, "min_pairs": 50, "bin_from": 50}
SHADOW = {"name": "candidate", "fraction": 1, "budget": "60s", "backend": "two", "compare": COMPARE}


class Scoring(InferenceService):
    """Answers with one number."""

    def __init__(self, score: float) -> None:
        self._score = score

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        add_outputs(response, [("score", "FP32", np.array([self._score], np.float32))], raw=True)
        return response


def _config(folder: Path, ports: tuple[int, int], at: dict[str, str]) -> GatewayConfig:
    entry = {"sha256": hashlib.sha256(b"key").hexdigest(), "caller": "all", "scopes": ["infer", "admin"]}
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry]}, explicit_end=True))
    routes = [{"model": "m", "backend": "one", "shadows": [SHADOW]}]
    (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": routes}))
    settings = {
        "server": {"host": "127.0.0.1", "grpc_port": ports[0], "http_port": ports[1], "drain": "0s"},
        "backends": {name: {"target": place} for name, place in at.items()},
        "routes": "routes.yaml",
        "auth": {"keys": "keys.yaml"},
        "rate_limit": {"mode": "off"},
        "compare": {"enabled": True},
        "mirroring": {"suppress_lag": "1h"},
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    return load(GatewayConfig, folder / "gateway.yaml", {})


async def _use(address: str) -> reports_pb.Report:
    """Make the calls, and wait until all pairs are counted; then have the gauges told anew."""
    async with grpc.aio.insecure_channel(address) as channel:
        infer, reports = GRPCInferenceServiceStub(channel).ModelInfer, ShadowReportsStub(channel)
        for _ in range(CALLS):
            await infer(pb.ModelInferRequest(model_name="m"), metadata=KEY, timeout=10, wait_for_ready=True)
        async with asyncio.timeout(20):
            while True:
                found = (await reports.Report(reports_pb.ReportRequest(), metadata=KEY)).reports
                if found and found[0].pairs == found[0].repeats == CALLS:
                    break
                await asyncio.sleep(0.01)
        await reports.Reset(reports_pb.ResetRequest(model="another"), metadata=KEY)
        return found[0]


@asynccontextmanager
async def _serving(config: GatewayConfig) -> AsyncIterator[None]:
    """The gateway with its tools, as its process has it; left, it has drained."""
    stop = asyncio.Event()
    served = asyncio.ensure_future(serve("gateway", config, build, stop=stop, inside_mesh=False, tools=TOOLS))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(served, 20)


async def test_the_page_has_what_a_gateway_that_compares_tells(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same names with the same labels, each with a value, and the values are the report's."""
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))  # for the comparing process
    ports = (unused_tcp_port_factory(), unused_tcp_port_factory())
    async with backend(Scoring(0.25)) as one, backend(Scoring(0.75)) as two:
        config = _config(tmp_path, ports, {"one": one, "two": two})
        async with _serving(config):
            address = f"127.0.0.1:{ports[0]}"
            assert await asyncio.to_thread(wait_until_serving, address, 20.0)
            report = await _use(address)
            async with asyncio.timeout(20):
                while _values(told := await scrape(ports[1]), "infermesh_shadow_pairs") != [CALLS]:
                    await asyncio.sleep(0.05)

    page = documented(*SECTIONS)
    shadows = {name for name in page if "shadow_" in name or "pairs" in name or "compare" in name}
    assert len(shadows) == len(documented("Gateway: shadows")) - len(documented()) + 1  # shadow_total is of the gateway
    faults = differences(told, page)
    assert [each for each in faults if each.split()[0] in shadows or "not on the page" in each] == []
    assert _values(told, "infermesh_shadow_repeats") == [CALLS]
    assert _values(told, "infermesh_shadow_differs") == [report.verdict.state == reports_pb.Verdict.DIFFERS] == [True]
    assert _values(told, "infermesh_shadow_findings") == [len(report.verdict.findings)]
    assert _values(told, "infermesh_shadow_event_share", what="outside", of="shadow") == [1]
    assert _values(told, "infermesh_shadow_event_share", what="outside", of="repeat") == [0]
    assert _values(told, "infermesh_gateway_pairs_total", outcome="compared") == [CALLS]
    assert _values(told, "infermesh_gateway_pairs_total", outcome="repeated") == [CALLS]


def test_the_alerts_of_shadows_ask_for_what_there_is() -> None:
    """Every metric that the page on shadows names is on the page of metrics."""
    text = SHADOWS_PAGE.read_text()
    known = set(re.findall(r"`(infermesh_\w+)`", PAGE.read_text()))

    names = set(re.findall(r"infermesh_\w+[a-z]", text))
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    alerts = next(block["groups"][0]["rules"] for block in blocks if "groups" in block)

    assert {name for name in names if name != "infermesh_shadow"} <= known
    assert all(alert["expr"] and alert["alert"] for alert in alerts)
    assert len(alerts) >= 5


def _values(told: list[Any], name: str, **labels: str) -> list[float]:
    samples = (sample for family in told for sample in family.samples)
    return [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
