"""Tests of how a new table takes the place of an old one while calls go on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml

from infermesh.call import Call
from infermesh.config import BreakerConfig, ConfigError
from infermesh.telemetry import Metrics
from services.gateway import routes_reader
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.readiness import ReadinessWatch
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile, read_routes
from services.gateway.routes_reader import PickledRoutes, read_routes_apart

MANY = 40


def _file(models: int = MANY, backend: str = "one", canary: int = 10, prefix: str = "m") -> RoutesFile:
    return RoutesFile.model_validate({"routes": _routes(models, backend, canary, prefix)})


def _routes(models: int, backend: str = "one", canary: int = 10, prefix: str = "m") -> list[dict[str, Any]]:
    return [
        {
            "model": f"{prefix}{number}",
            "aliases": [f"{prefix}{number}-latest"],
            "backend": backend,
            "sticky": {"metadata": "x-card"},
            "variants": [
                {"name": "stable", "version": 1, "weight": 100 - canary},
                {"name": "canary", "version": 2, "weight": canary},
            ],
            "rules": [{"when": {"tenant": "acme"}, "variant": "canary"}],
            "shadows": [{"name": "s", "fraction": 0.5, "backend": "explainer"}],
        }
        for number in range(models)
    ]


async def test_calls_get_their_turn_while_a_table_is_compiled(make_mesh: Any, ask: Any) -> None:
    """Until it is whole, calls are answered by the old one; from one moment on all are by the new one."""
    mesh = make_mesh([*_routes(MANY)])
    taking = asyncio.ensure_future(mesh.table.take_over(_file(backend="two")))
    seen: list[str] = []

    while not taking.done():
        for model in ("m0", f"m{MANY - 1}"):
            before = len(mesh.backends["one"].asked)
            await mesh.table.infer(ask(model), Call())
            seen.append("old" if len(mesh.backends["one"].asked) > before else "new")
        await asyncio.sleep(0)
    await taking

    assert seen.count("old") >= 2 * MANY / 8
    assert seen == sorted(seen, reverse=True)
    assert mesh.table.generation == 2


async def test_calls_in_flight_keep_their_table_when_it_is_taken_apart(make_mesh: Any, ask: Any, settle: Any) -> None:
    """A call, a stream and a copy that are under way end where they began, after the old table is gone."""
    mesh = make_mesh(_routes(MANY), draw=lambda: 0.0)
    mesh.backends["one"].state["wait"] = mesh.backends["explainer"].state["wait"] = go_on = asyncio.Event()
    call = asyncio.ensure_future(mesh.table.infer(ask("m3-latest"), Call()))
    stream = asyncio.ensure_future(anext(mesh.table.stream(ask("m4"), Call())))
    await settle()

    await mesh.table.take_over(_file(3, backend="two", prefix="n"))
    go_on.set()
    answered, streamed = await call, await stream
    await settle()

    assert (answered.model_name, streamed.model_name) == ("m3-latest", "m4")
    assert answered.parameters["infermesh_variant"].string_param == "stable"
    assert mesh.copies("mirrored", model="m3", shadow="s") == 1


async def test_a_table_that_fails_half_way_leaves_the_old_one(make_mesh: Any, ask: Any) -> None:
    """Nothing of it is taken over."""
    mesh = make_mesh(_routes(3))
    bad = RoutesFile.model_validate({"routes": [*_routes(MANY), {"model": "x", "backend": "gone"}]})

    with pytest.raises(KeyError):
        await mesh.table.take_over(bad)

    await mesh.table.infer(ask("m0"), Call())
    assert mesh.table.label("m10") == ""
    assert mesh.table.generation == 1


async def test_an_old_table_goes_without_the_collector(make_mesh: Any, ask: Any) -> None:
    """A table holds no reference cycles: in a process that froze it, nothing else would ever free it."""
    mesh = make_mesh(_routes(1))
    metrics = GatewayMetrics(Metrics("gateway"))
    resilience = Resilience(DeadlineConfig(), BreakerConfig(), metrics)
    backends = mesh.table._all_backends
    table = RouteTable(_file(), backends, metrics, resilience=resilience, watch=ReadinessWatch())
    await table.infer(ask("m1-latest"), Call(metadata={"x-card": "c"}))
    gc.collect()
    gc.disable()
    try:
        routes = [weakref.ref(route) for route in table._table.routes]
        splits = [weakref.ref(table.find(f"m{n}").split) for n in range(MANY)]
        splits.append(weakref.ref(table.find("m1-latest").split))
        await table.take_over(_file(canary=20))
        left = [each() for each in (*routes, *splits) if each() is not None]
    finally:
        gc.enable()

    assert left == []


async def test_what_is_kept_for_names_goes_with_them(make_mesh: Any, ask: Any, settle: Any) -> None:
    """After many tables with names of their own there are series, and sets of copies, of the last one alone."""
    mesh = make_mesh(_routes(2), draw=lambda: 0.0)

    for number in range(30):
        await mesh.table.take_over(_file(2, prefix=f"gen{number}-"))
        for model in ("0", "0-explainer", "1"):
            await mesh.table.infer(ask(f"gen{number}-{model}"), Call())
        await settle()

    picked = {
        sample.labels["model"]
        for family in mesh.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "infermesh_gateway_picks_total"
    }
    assert picked == {"gen29-0", "gen29-0-explainer", "gen29-1"}
    assert set(mesh.table._copies) == {("gen29-0", "s"), ("gen29-1", "s")}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own reads a file of any size."""
    monkeypatch.setattr(routes_reader, "APART_BYTES", 0)


def _written(folder: Path, text: str) -> Path:
    file = folder / "routes.yaml"
    file.write_text(text)
    return file


@pytest.mark.usefixtures("large")
def test_a_large_file_is_read_by_a_process_of_its_own(tmp_path: Path) -> None:
    """What it reads is what would be read here."""
    text = yaml.safe_dump({"routes": _routes(9), "readiness": {"every": "7s"}})
    file = _written(tmp_path, text)

    read = read_routes_apart(file, ["one", "explainer"])

    assert isinstance(read, PickledRoutes)
    here = read_routes(file, ["one", "explainer"])
    assert list(read.routes) == here.routes
    assert read.readiness == here.readiness


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "text", [yaml.safe_dump({"routes": _routes(2)}), "routes: [", "routes: [{model: m, weight: 1}]"]
)
def test_its_faults_are_those_that_would_be_found_here(tmp_path: Path, text: str) -> None:
    """A bad file, or one that names unknown backends, is a ConfigError with the same lines."""
    file = _written(tmp_path, text)

    with pytest.raises(ConfigError) as apart:
        read_routes_apart(file, ["two"])
    with pytest.raises(ConfigError) as here:
        read_routes(file, ["two"])

    assert str(apart.value) == str(here.value)


@pytest.mark.usefixtures("large")
def test_a_reader_that_dies_is_a_fault_of_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good table stays in use: nothing of what a dead process said is taken."""
    monkeypatch.setattr(routes_reader.sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="its reader ended with status 1"):
        read_routes_apart(_written(tmp_path, "routes: []"), [])

    monkeypatch.setattr(routes_reader.sys, "executable", "/no/such/python")
    with pytest.raises(ConfigError, match="could not be read"):
        read_routes_apart(_written(tmp_path, "routes: []"), [])


def test_a_file_that_is_gone_is_told_as_ever(tmp_path: Path) -> None:
    """No process is needed to say so."""
    with pytest.raises(ConfigError, match="can't be read"):
        read_routes_apart(tmp_path / "none.yaml", [])
