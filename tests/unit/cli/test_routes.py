"""Routes: checked, shown, and what they do with a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infermesh.call import Call
from infermesh.cli.processes import samples_folder
from infermesh.telemetry import Metrics, TelemetryServer
from services.gateway.backends import Backend
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile

CONFIG = samples_folder() / "config"
FRAUD: dict[str, Any] = {
    "model": "fraud",
    "aliases": ["fraud-latest"],
    "backend": "transformer",
    "sticky": {"metadata": "x-card"},
    "variants": [
        {"name": "stable", "version": 1, "weight": 90},
        {"name": "canary", "version": 2, "weight": 10, "backend": "predictor"},
    ],
    "rules": [
        {"name": "beta", "when": {"tenant": "acme", "parameters": {"amount": {"at_least": 1000}}}, "variant": "canary"},
        {"when": {"metadata": {"x-region": {"prefix": "eu-"}}}, "weights": {"stable": 1, "canary": 1}},
    ],
    "shadows": [{"name": "candidate", "fraction": 0.25, "version": 3}],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A route file with everything in it."""
    path = tmp_path / "routes.yaml"
    path.write_text(yaml.safe_dump({"routes": [FRAUD, {"prefix": "conf-", "backend": "predictor"}]}))
    return path


def test_a_good_file_is_good(infermesh: Any, file: Path) -> None:
    """With the gateway's configuration the backends are checked too; without one that is said."""
    alone = infermesh("routes", "check", file)
    sample = infermesh("routes", "check", CONFIG / "routes.yaml", "--gateway-config", CONFIG / "gateway.yaml")

    assert (alone.status, sample.status) == (0, 0)
    assert "2 routes, 1 aliases; backends were not checked" in alone.out
    assert "not checked" not in sample.out


def test_all_faults_are_told_at_once(infermesh: Any, tmp_path: Path) -> None:
    """Within routes, between them, and with the backends; the status is for CI."""
    routes = [FRAUD | {"total": 50}, {"model": "fraud-latest", "backend": "nobody"}, {"prefix": "x", "weight": 1}]
    (tmp_path / "routes.yaml").write_text(yaml.safe_dump({"routes": routes}))
    (tmp_path / "gateway.yaml").write_text("backends: {predictor: {target: 'p:1'}, transformer: {target: 't:1'}}")

    done = infermesh("routes", "check", tmp_path / "routes.yaml", "--gateway-config", tmp_path / "gateway.yaml")

    assert done.status == 2
    for words in (
        "the weights sum to 100, expected the total 50",
        "routes.1: a route for fraud-latest stands twice, at routes.0.aliases.0 too",
        'routes.1 (fraud-latest): no backend "nobody"; the gateway has predictor, transformer',
        "routes.2.weight: no such setting",
    ):
        assert words in done.err


def test_routes_are_shown_as_they_work(infermesh: Any, file: Path) -> None:
    """Shares in percent, versions and backends, copies, and the rules in words."""
    done = infermesh("routes", "show", file)

    assert done.status == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for line in (
        "fraud stable 90 % 1 transformer",
        "canary 10 % 2 predictor",
        "(candidate) copies 25 % 3 transformer",
        "conf-* default 100 % predictor",
        "also called fraud-latest",
        "rule beta: when tenant is 'acme', and parameter amount is at least 1000: canary 100 %",
        "rule 1: when metadata x-region begins with 'eu-': canary 50 %, stable 50 %",
        "sticky by metadata x-card; salt fraud",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "fraud"], ["fraud → stable 90 %, canary 10 %", "weight: drawn anew"]),
        (["--model", "fraud", "--metadata", "X-Region=eu-west"], ["stable 50 %, canary 50 %", "rule 1: drawn anew"]),
        (["--model", "fraud-latest", "--version", "2"], ["→ canary", "chosen by version", "fraud version 2"]),
        (["--model", "fraud", "--variant", "canary"], ["→ canary", "chosen by header", "predictor"]),
        (["--model", "conf-echo"], ["→ default", "route conf-*", "asked for conf-echo"]),
        (
            ["--model", "fraud", "--tenant", "acme", "--parameter", "amount=1000.5"],
            ["→ canary", "chosen by rule beta", "copies to candidate 25 %"],
        ),
        (["--model", "fraud", "--tenant", "acme", "--parameter", "amount=a lot"], ["stable 90 %"]),
    ],
)
def test_what_becomes_of_a_call_is_told(infermesh: Any, file: Path, words: list[str], expected: list[str]) -> None:
    """The variant with the reason, or the chances of each where it is drawn for each call."""
    done = infermesh("routes", "show", file, *words)

    assert done.status == 0
    text = " ".join(done.out.split())
    assert all(each in text for each in expected)


def test_a_key_is_told_the_variant_that_the_gateway_gives_it(infermesh: Any, file: Path) -> None:
    """By the gateway's own table: the key goes where the route looks for it."""
    table = RouteTable(
        RoutesFile.model_validate({"routes": [FRAUD]}),
        {name: Backend(name, _Nobody()) for name in ("transformer", "predictor")},
        GatewayMetrics(Metrics("gateway")),
    )
    from infermesh.protocol.open_inference_pb2 import ModelInferRequest

    for card in ("c-1", "c-12", "c-99"):
        call = Call(metadata={"x-card": card})
        variant, _ = table.find("fraud").split.choose(ModelInferRequest(model_name="fraud"), call)

        done = infermesh("routes", "show", file, "--model", "fraud", "--key", card)

        assert f"fraud → {variant.name}\n" in done.out
        assert "chosen by  sticky" in done.out


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        ([], 2, "expected FILE, or --target"),
        (["--tenant", "acme"], 2, "expected --model too"),
        (["--model", "iris"], 1, "NOT_FOUND"),
        (["--model", "fraud", "--version", "9"], 1, "no version 9, its route lists 1, 2"),
        (["--model", "fraud", "--metadata", "x"], 2, "expected NAME=VALUE"),
        (["--model", "conf-a", "--key", "k"], 2, "has no sticky key"),
    ],
)
def test_mistakes_are_told(infermesh: Any, file: Path, words: list[str], status: int, expected: str) -> None:
    """On the line, or of the call that is described: one line says which."""
    done = infermesh("routes", "show", *([file] if words else []), *words)

    assert done.status == status
    assert expected in done.err


def test_a_gateway_tells_of_the_routes_that_it_has(infermesh: Any) -> None:
    """By its metrics: the generation, the shares as they are now, who is ready, and how many calls each variant got."""
    metrics = Metrics("gateway")
    counted = GatewayMetrics(metrics)
    backends = {name: Backend(name, _Nobody()) for name in ("transformer", "predictor")}
    table = RouteTable(RoutesFile.model_validate({"routes": [FRAUD]}), backends, counted)
    counted.standing(table.standing)
    counted.pick("fraud", "canary", "weight")()
    taken = counted.file("routes")
    taken(True)
    taken(False)
    server = TelemetryServer("127.0.0.1", 0, metrics.registry, lambda: True)
    try:
        done = infermesh("routes", "show", "--target", f"127.0.0.1:{server.port}")
    finally:
        server.close()

    assert done.status == 0
    assert "generation 2: the file was changed since and can't be used" in done.out
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "fraud stable 90 % 1 transformer yes 0" in lines
    assert "canary 10 % 2 predictor yes 1" in lines


def test_who_is_no_gateway_is_told(infermesh: Any) -> None:
    """Another service has no routes, and nobody no metrics."""
    server = TelemetryServer("127.0.0.1", 0, Metrics("predictor").registry, lambda: True)
    try:
        other = infermesh("routes", "show", "--target", f"127.0.0.1:{server.port}")
    finally:
        server.close()
    gone = infermesh("routes", "show", "--target", f"127.0.0.1:{server.port}")

    assert (other.status, gone.status) == (1, 1)
    assert "is no gateway" in other.err
    assert "no metrics" in gone.err


class _Nobody:
    """A backend that nobody asks."""

    def variant(self, *, model: str = "", version: str = "") -> _Nobody:
        return self

    async def infer(self, request: Any, call: Any) -> Any:
        raise NotImplementedError
