"""What docs/metrics.md says that there is, and what a service tells that has it, for tests that compare the two."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from infermesh.config import ServerConfig
from infermesh.engine.joined import RULES
from infermesh.runtime import Build, serve
from infermesh.service import InferenceService, stack
from infermesh.transport import Server

__all__ = ["PAGE", "backend", "differences", "documented", "scrape", "serving"]

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
ROW = re.compile(r"^\|[^|`]*\| `(infermesh_\w+)` \| ([^|]*) \|", re.MULTILINE)  # of a table whose labels are listed
EVERY = ("requests_total", "request_seconds", "ready", "build_info")
THEIR_LABELS = {"requests_total": {"model", "version", "variant", "code"}, "build_info": {"version"}, "ready": set()}


def documented(*sections: str) -> dict[str, set[str]]:
    """Metrics with their labels, but `service`, of these sections of the page, and of the one about every service."""
    found = {f"infermesh_{name}": THEIR_LABELS.get(name, {"model", "version", "variant"}) for name in EVERY}
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for name in sections:
        for metric, labels in ROW.findall(parts[name]):
            found[metric] = set() if labels == "–" else set(labels.split(", "))
    return found


async def scrape(port: int) -> list[Metric]:
    """The families that a service tells on its HTTP port, but for prometheus_client's own."""

    def read() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return response.read().decode()

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    return [each for each in families if each.name.startswith("infermesh_")]


def differences(told: list[Metric], page: dict[str, set[str]], quiet: Container[str] = ()) -> list[str]:
    """Where page and scrape disagree: a name that only one has, labels that are others, a metric without a value that is not
    among the `quiet` ones, of which nothing has happened."""
    faults = []
    names = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in told}
    faults += [f"{name} is not on the page" for name in names.keys() - page.keys()]
    faults += [f"{name} is not told" for name in page.keys() - names.keys()]
    faults += [f"{each.name} has no rule by which processes are joined" for each in told if _has_no_rule(each)]
    for name in names.keys() & page.keys():
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in names[name].samples}
        if not labels and name in quiet:
            continue
        if labels != {frozenset({"service", *page[name]})}:
            faults.append(f"{name} has the labels {sorted(map(sorted, labels))}, the page {sorted(page[name])}")
    return sorted(faults)


def _has_no_rule(family: Metric) -> bool:
    return family.type == "gauge" and family.name not in RULES


@asynccontextmanager
async def backend(service: InferenceService) -> AsyncIterator[str]:
    """The service on a port of its own; its address."""
    server = Server("backend", ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0}), inside_mesh=True)
    server.mount(stack(service=service))
    await server.start()
    await server.set_ready(True)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving(name: str, config: Any, build: Build[Any]) -> AsyncIterator[None]:
    """A service as in a process of its own, from its configuration to its ports; left, it has drained."""
    stop = asyncio.Event()
    served = asyncio.ensure_future(serve(name, config, build, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(served, 20)
