"""Tests of what a route file may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from infermesh.call import Call
from infermesh.config import ConfigError, load, parse
from infermesh.errors import Unavailable
from infermesh.filters import Retry, RetryBudget
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.config import GatewayConfig, RetryConfig
from services.gateway.keys import KeysFile
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile, read_routes
from tests.unit.gateway.conftest import FakeBackend

SAMPLES = Path("samples/config")
STABLE = {"name": "stable", "weight": 1}
BIG = {"name": "big", "weight": 1.5e308}
RULE = {"when": {"tenant": "acme"}}
NAMED = RULE | {"name": "r", "variant": "default"}


def _file(folder: Path, *routes: dict[str, Any]) -> Path:
    file = folder / "routes.yaml"
    file.write_text(yaml.safe_dump({"routes": list(routes)}))
    return file


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"backend": "one"}, "either model or prefix"),
        ({"model": "m", "prefix": "m", "backend": "one"}, "either model or prefix"),
        ({"model": "m"}, "expected a backend"),
        ({"model": "m", "variants": [STABLE]}, "expected a backend"),
        ({"model": "m*", "backend": "one"}, "expected an exact name"),
        ({"model": "m-explainer", "backend": "one"}, "an explanation uses its route"),
        ({"model": "m", "backend": "one", "variants": [STABLE, STABLE]}, "variant stable stands twice"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"weight": 0}]}, "a weight over 0"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"weight": -1}]}, "greater than or equal to 0"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"weight": float("nan")}]}, "weight"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"weight": float("inf")}]}, "weight"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"name": "A B"}]}, "variants.0.name"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"version": "v1.0"}]}, "variants.0.version"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"version": "Stable"}]}, "variants.0.version"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"version": True}]}, "variants.0.version"),
        (
            {"model": "m", "backend": "one", "variants": [STABLE, {"name": "b", "weight": 1, "version": 2}]},
            "a version for every variant, or for none",
        ),
        ({"prefix": "m", "backend": "one", "variants": [STABLE | {"model": "x"}]}, "a route for one model"),
        ({"model": "m", "backend": "one", "sticky": {}}, "at least one of metadata"),
        ({"model": "m", "backend": "one", "sticky": {"metadata": "x-api-key"}}, "credentials"),
        ({"model": "m", "backend": "one", "sticky": {"metadata": "X-Card"}}, "sticky.metadata"),
        ({"model": "m", "backend": "one", "shadows": [{"name": "s", "fraction": 1.1}]}, "shadows.0.fraction"),
        ({"model": "m", "backend": "one", "shadows": [{"name": "s", "fraction": 1, "budget": 5}]}, "with its unit"),
        ({"model": "m", "backend": "nobody"}, 'no backend "nobody"; the gateway has one, two'),
        ({"model": "m", "backend": "one", "explanations": {"backend": "nobody"}}, 'no backend "nobody"'),
        ({"model": "m", "backend": "one", "wait": 1}, "no such setting"),
        ({"model": "m", "shadows": [{"name": "s", "fraction": 1, "backend": "one"}]}, "a shadow answers nobody"),
        ({"model": "m", "backend": "one", "aliases": ["n*"]}, "expected an exact name"),
        ({"model": "m", "backend": "one", "aliases": ["n-explainer"]}, "an explanation uses its route"),
        ({"prefix": "m", "backend": "one", "aliases": ["n"]}, "for one model where it has aliases"),
        (
            {"model": "m", "backend": "one", "total": 100, "variants": [STABLE]},
            "the weights sum to 1, expected the total 100",
        ),
        ({"model": "m", "backend": "one", "rules": [{"variant": "x"}]}, "rules.0.when: required"),
        (
            {"model": "m", "backend": "one", "rules": [RULE | {"variant": "x"}]},
            "rules.0: no variant x; the route has default",
        ),
        ({"model": "m", "backend": "one", "rules": [RULE | {"weights": {"x": 1}}]}, "no variant x"),
        (
            {"model": "m", "backend": "one", "total": 1, "rules": [RULE | {"weights": {"default": 2}}]},
            "rules.0: the weights sum to 2, expected the total 1",
        ),
        ({"model": "m", "backend": "one", "rules": [NAMED, NAMED]}, "rule r stands twice"),
        ({"model": "m", "backend": "one", "rules": [RULE | {"variant": "default"}] * 33}, "at most 32 items"),
        ({"model": "m", "backend": "one", "when_dead": "wait"}, "'others' or 'fail'"),
        ({"model": "m", "backend": "one", "sticky": {"metadata": "cookie"}}, "credentials"),
        ({"model": "m", "backend": "one", "variants": [STABLE | {"weight": 1e308}, BIG]}, "a sum that is a number"),
    ],
)
def test_faults_of_a_route_are_refused(tmp_path: Path, route: dict[str, Any], words: str) -> None:
    """A file with a fault is refused whole, and says where it is and what would be right."""
    with pytest.raises(ConfigError) as refused:
        read_routes(_file(tmp_path, {"model": "good", "backend": "one"}, route), ["one", "two"])

    assert words in str(refused.value)
    assert "routes.1" in str(refused.value)


@pytest.mark.parametrize("text", ["", "routes: []", "routes: {}", "routes: [", "{}"])
def test_an_empty_or_half_written_file_is_refused(tmp_path: Path, text: str) -> None:
    """A file without routes is refused: one that is cut off must not close every door."""
    (tmp_path / "routes.yaml").write_text(text)

    with pytest.raises(ConfigError):
        parse(RoutesFile, tmp_path / "routes.yaml")


@pytest.mark.parametrize("key", ["model", "prefix"])
def test_a_model_has_one_route(tmp_path: Path, key: str) -> None:
    """Two routes for the same name or prefix are refused."""
    route = {key: "m", "backend": "one"}

    with pytest.raises(ConfigError, match=r"a route for m\*? stands twice"):
        parse(RoutesFile, _file(tmp_path, route, route))


@pytest.mark.parametrize(
    ("first", "second", "places"),
    [
        ({"model": "a"}, {"model": "b", "aliases": ["c", "a"]}, ("routes.1.aliases.1", "routes.0")),
        ({"model": "a", "aliases": ["b"]}, {"model": "b"}, ("routes.1", "routes.0.aliases.0")),
        (
            {"model": "a", "aliases": ["x"]},
            {"model": "b", "aliases": ["x"]},
            ("routes.1.aliases.0", "routes.0.aliases.0"),
        ),
        ({"model": "a", "aliases": ["a"]}, {"model": "b"}, ("routes.0.aliases.0", "routes.0")),
        ({"prefix": "a"}, {"prefix": "a"}, ("routes.1", "routes.0")),
    ],
)
def test_a_name_stands_for_one_route(tmp_path: Path, first: Any, second: Any, places: tuple[str, str]) -> None:
    """Models, aliases and prefixes that collide are refused, with both places; also when a route is wrong in itself."""
    backend = {"backend": "one"}
    with pytest.raises(ConfigError) as plain:
        read_routes(_file(tmp_path, first | backend, second | backend), ["one"])
    with pytest.raises(ConfigError) as broken:
        read_routes(_file(tmp_path, first | backend, second | backend | {"total": -1}), ["one"])

    assert [str(refused.value).count(f"{places[0]}: a route for ") for refused in (plain, broken)] == [1, 1]
    assert f"stands twice, at {places[1]} too" in str(plain.value)
    assert len(broken.value.faults) == 2


def test_an_unknown_backend_is_told_beside_other_faults(tmp_path: Path) -> None:
    """Of a route that is wrong in itself too; where nobody knows the backends none is unknown."""
    variants = [STABLE | {"backend": "three"}]
    wrong = {"model": "m", "backend": "four", "variants": variants, "explanations": {"backend": "five"}, "wait": 1}
    file = _file(tmp_path, wrong, {"prefix": "", "backend": "six"}, {"model": "one-more", "backend": "one"})

    with pytest.raises(ConfigError) as refused:
        read_routes(file, ["one"])
    with pytest.raises(ConfigError) as unknown:
        read_routes(file, None)

    assert [re.findall(r'no backend "(\w+)"', fault) for fault in refused.value.faults] == [
        [],
        ["five"],
        ["four"],
        ["three"],
        ["six"],
    ]
    assert len(unknown.value.faults) == 1


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Every fault has its line, not only the first."""
    bad = {"model": "m*", "backend": "one", "shadows": [{"name": "s", "fraction": 2}]}

    with pytest.raises(ConfigError) as refused:
        parse(RoutesFile, _file(tmp_path, bad, {"prefix": "x"}))

    assert len(refused.value.faults) == 3


def test_the_samples_can_be_used() -> None:
    """The sample configuration, with its routes and keys, is good as it stands."""
    config = load(GatewayConfig, SAMPLES / "gateway.yaml", {})

    routes = {route.label: route for route in config.routes_file().routes}
    (key,) = config.keys_file().keys
    fraud = routes["fraud-detector"]
    assert {(v.name, v.version, v.weight) for v in fraud.variants} == {("stable", "1", 90), ("canary", "2", 10)}
    assert [(s.name, s.version) for s in fraud.shadows] == [("candidate", "3")]
    assert "*" in routes
    assert (key.caller, set(key.scopes)) == ("demo", {"infer", "explain", "admin", "variant"})


def test_the_pauses_of_the_samples_retries_are_as_its_setting_says() -> None:
    """As delivered and in the samples there are six attempts; the first retry waits for nothing, the others 0.4 s in all."""
    default = RetryConfig().attempts
    pauses_s = [Retry.pause_s * 2**doubled for doubled in range(default - 2)]

    assert load(GatewayConfig, SAMPLES / "gateway.yaml", {}).retry.attempts == default == 6
    assert sum(pauses_s) == pytest.approx(0.4, abs=0.05)


def test_faults_of_the_files_are_faults_of_the_configuration(tmp_path: Path) -> None:
    """Routes and keys are read with the configuration, so that what is wrong in them is found before the start."""
    _file(tmp_path, {"model": "m", "backend": "nobody"})
    (tmp_path / "gateway.yaml").write_text("routes: routes.yaml\nauth: {keys: missing.yaml}")

    with pytest.raises(ConfigError) as refused:
        load(GatewayConfig, tmp_path / "gateway.yaml", {})

    assert 'no backend "nobody"' in str(refused.value)
    assert "missing.yaml" in str(refused.value)


def test_without_authentication_no_keys_are_needed(tmp_path: Path) -> None:
    """With `auth.mode: off` the keys file need not exist."""
    _file(tmp_path, {"model": "m", "backend": "predictor"})
    (tmp_path / "gateway.yaml").write_text("routes: routes.yaml\nauth: {mode: 'off', keys: missing.yaml}")

    assert load(GatewayConfig, tmp_path / "gateway.yaml", {}).auth.mode == "off"


def test_keys_may_be_none_and_not_forgotten(tmp_path: Path) -> None:
    """`keys: []` lets nobody in and is said on purpose; an empty file is a fault."""
    (tmp_path / "keys.yaml").write_text("keys: []")
    assert parse(KeysFile, tmp_path / "keys.yaml").keys == []

    (tmp_path / "keys.yaml").write_text("")
    with pytest.raises(ConfigError, match="keys: required"):
        parse(KeysFile, tmp_path / "keys.yaml")


@pytest.mark.parametrize("version", ["01", "010", "0x10", "1_0", "1:30"])
def test_a_version_that_yaml_would_change_is_refused(tmp_path: Path, version: str) -> None:
    """010 is 8 to YAML: another version, without a word."""
    file = tmp_path / "routes.yaml"
    route = "routes: [{model: m, backend: p, variants: [{name: a, weight: 1, version: %s}]}]\n"
    for good in ("10", "'10'", "stable", "0"):
        file.write_text(route % good)
        read_routes(file, ["p"])
    file.write_text(route % version)

    with pytest.raises(ConfigError, match=f"version {version}: YAML reads another number"):
        read_routes(file, ["p"])


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"variants": [{"name": "a", "weight": True}]}, "expected a number"),
        ({"variants": [{"name": "a", "weight": "1"}]}, "expected a number"),
        (
            {"variants": [{"name": "a", "version": 1, "weight": 1}, {"name": "b", "version": 1, "weight": 1}]},
            "a and b ask for the same version",
        ),
        ({"model": "m\0"}, "printable"),
        ({"aliases": ["a\ud800"]}, "valid string"),
        ({"sticky": {"input": "x\n"}}, "printable"),
    ],
)
def test_what_is_a_slip_for_certain_is_refused(route: dict[str, object], words: str) -> None:
    """Weights that are no numbers, a version that stands for two variants, names that no log can show."""
    with pytest.raises(ValidationError, match=words):
        RoutesFile.model_validate({"routes": [{"model": "m", "backend": "p", **route}]})


def test_two_variants_of_no_version_may_ask_for_the_same() -> None:
    """An A/A split tells how much two shares of one thing differ by chance."""
    variants = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]

    RoutesFile.model_validate({"routes": [{"model": "m", "backend": "p", "variants": variants}]})


@pytest.mark.parametrize(
    "text",
    [
        "routes: " + "[" * 40 + "]" * 40,
        "routes: " + "[" * 100_000 + "]" * 100_000,
        "routes:\n  " + "- " * 3000 + "x",
        "routes: &a [*a]",
    ],
    ids=["nested", "past the stack", "in blocks", "in itself"],
)
def test_a_file_that_is_nested_without_an_end_is_a_fault_and_no_crash(tmp_path: Path, text: str) -> None:
    """The parser is libyaml's, in C, and would end the process."""
    file = tmp_path / "routes.yaml"
    file.write_text(text + "\n")

    with pytest.raises(ConfigError, match="nested deeper than 32 levels"):
        read_routes(file, None)


def test_anchors_that_multiply_are_refused(tmp_path: Path) -> None:
    """Nine lists of nine references each are 9⁹ values in a few hundred bytes."""
    lines, below = [], "x"
    for name in "abcdefghi":
        lines.append(f"{name}: &{name} [{', '.join([below] * 9)}]")
        below = f"*{name}"
    file = tmp_path / "routes.yaml"
    file.write_text("\n".join(lines) + "\nroutes: *i\n")

    with pytest.raises(ConfigError, match="anchors make more than"):
        read_routes(file, None)


@pytest.mark.parametrize(("retry", "asked"), [("safe", 2), ("not_started", 1)])
async def test_a_route_says_whether_a_second_run_does_harm(retry: str, asked: int) -> None:
    """What broke off is asked again, or not; what was not begun is, in either case, and from one budget."""
    fake, seen = FakeBackend("one"), list[str]()
    filters = (Retry(2, RetryBudget(0.2, 3), seen.append),)
    file = RoutesFile.model_validate({"routes": [{"model": "m", "backend": "one", "retry": retry}]})
    table = RouteTable(file, {"one": Backend("one", fake, filters)}, GatewayMetrics(Metrics("gateway")))

    fake.state["error"] = Unavailable("reset")
    with pytest.raises(Unavailable):
        await table.infer(pb.ModelInferRequest(model_name="m"), Call())
    begun = len(fake.asked)
    fake.state["error"] = Unavailable("no connection", rejected=True)
    with pytest.raises(Unavailable):
        await table.infer(pb.ModelInferRequest(model_name="m"), Call())

    assert (begun, len(fake.asked) - begun) == (asked, 2)
