"""docker-compose.yml against the images, the configuration and the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infermesh.config import ServiceConfig
from services.transformer import load_main

PROGRAM = {
    "gateway": "gateway",
    "transformer": "transformer",
    "predictor": "predictor",
    "candidate": "predictor",
    "explainer": "explainer",
}
KEYS = {"services", "volumes"}  # what docker-compose 1.29 and Compose 2 agree upon; `name` is for the second alone
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def test_it_is_for_both_generations(compose: dict[str, Any]) -> None:
    """The file has no top-level key that one of docker-compose 1.29 and Compose 2 refuses or warns of."""
    assert {key for key in compose if not key.startswith("x-")} == KEYS


def test_it_has_the_mesh(compose: dict[str, Any]) -> None:
    """The four services, a candidate for the shadow, the store and who fills it, and Prometheus when asked for."""
    assert set(compose["services"]) == {*PROGRAM, "features", "redis", "prometheus"}
    assert compose["services"]["redis"]["image"] == "redis:7"
    assert compose["services"]["prometheus"]["profiles"] == ["observe"]
    assert [name for name, each in compose["services"].items() if "profiles" in each] == ["prometheus"]


@pytest.mark.parametrize("name", PROGRAM)
def test_images_are_of_this_version(compose: dict[str, Any], project: dict[str, Any], name: str) -> None:
    """Each image is built once, by the service whose name it has, and whoever shares it waits for that one."""
    each, program = compose["services"][name], PROGRAM[name]

    assert each["image"] == f"infermesh-{program}:{project['project']['version']}"
    if name == program:
        assert each["build"] == {"context": ".", "args": {"SERVICE": program, "ENGINE": "${ENGINE:-grpcio}"}}
    else:
        assert "build" not in each
        assert program in each["depends_on"]


@pytest.mark.parametrize("name", PROGRAM)
def test_one_variable_chooses_the_engine(compose: dict[str, Any], name: str) -> None:
    """Each container runs the engine that its image was built with."""
    variable = f"INFERMESH_{PROGRAM[name].upper()}__SERVER__ENGINE"

    assert compose["services"][name]["environment"][variable] == "${ENGINE:-grpcio}"


def test_the_loader_runs_once(compose: dict[str, Any], root: Path) -> None:
    """The loader is the transformer's image with another entry point, reads the transformer's configuration, and ends."""
    loader, transformer = compose["services"]["features"], compose["services"]["transformer"]
    config, folder = loader["command"][1], loader["command"][3]

    assert loader["image"] == transformer["image"]
    assert loader["entrypoint"] == ["python", "-m", load_main.__name__]
    assert loader["command"] == ["--config", config, "--folder", folder]
    assert loader["restart"] == "no"
    assert "transformer" in loader["depends_on"]
    assert loader["volumes"] == [f"./samples/config:{Path(config).parent}:ro"]
    assert (root / "samples" / "config" / Path(config).name).is_file()


def test_the_loader_is_the_one_of_kubernetes(compose: dict[str, Any], manifests: Any) -> None:
    """Both load features by the same command."""
    loader = compose["services"]["features"]
    (container,) = manifests.of("Job", "features")["spec"]["template"]["spec"]["containers"]

    assert (container["command"], container["args"]) == (loader["entrypoint"], loader["command"])


def test_containers_have_the_least_rights(compose: dict[str, Any]) -> None:
    """Read-only root file systems, no capabilities, no new privileges, and Redis is not started as root."""
    for name, each in compose["services"].items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in each, name
    assert compose["services"]["redis"]["user"] == "redis"


def test_only_this_machine_gets_in(compose: dict[str, Any], configured: Callable[..., ServiceConfig]) -> None:
    """The gateway's port and Prometheus' are published, on the loopback address."""
    published = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    port = _configured(compose, configured, "gateway").server.grpc_port

    assert published == {
        "gateway": [f"127.0.0.1:${{INFERMESH_PORT:-8001}}:{port}"],
        "prometheus": ["127.0.0.1:${INFERMESH_PROMETHEUS_PORT:-9090}:9090"],
    }


def test_start_order_can_be_met(compose: dict[str, Any], dockerfile: str) -> None:
    """Every condition is about a service that exists and can fulfil it, and the gateway's door opens last."""
    services = compose["services"]

    for name, each in services.items():
        for needed, how in each.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed] or needed in PROGRAM, f"{name} waits for {needed}"
    assert "HEALTHCHECK" in dockerfile
    assert set(services["gateway"]["depends_on"]) == {*PROGRAM, "features"} - {"gateway"}


@pytest.mark.parametrize("name", PROGRAM)
def test_a_stop_leaves_time_to_drain(
    compose: dict[str, Any], configured: Callable[..., ServiceConfig], name: str
) -> None:
    """The engine kills a container only after it could drain and finish what it had accepted."""
    server = _configured(compose, configured, name).server

    (seconds,) = re.findall(r"^(\d+)s$", compose["services"][name]["stop_grace_period"])

    assert int(seconds) >= server.drain + server.grace + 12  # what the engine envoy takes at most to close


@pytest.mark.parametrize("name", PROGRAM)
def test_targets_are_services(compose: dict[str, Any], configured: Callable[..., ServiceConfig], name: str) -> None:
    """Each host that the samples' configuration names is a service here, and the port is the one that it listens on."""
    config = _configured(compose, configured, name)
    ports = {each: _configured(compose, configured, each).server.grpc_port for each in PROGRAM}

    targets = [str(backend.target) for backend in getattr(config, "backends", {}).values()]

    assert bool(targets) == (PROGRAM[name] != "predictor")
    for target in targets:
        host, port = target.split(":")
        assert ports[host] == int(port)
    if name == "transformer":
        assert config.redis.url.startswith("redis://redis:6379")  # type: ignore[attr-defined]


def test_the_candidate_answers_shadow_copies(compose: dict[str, Any], configured: Callable[..., ServiceConfig]) -> None:
    """The candidate is a predictor with the one model that is shadowed, and the transformer sends the shadow's variant there."""
    candidate: Any = _configured(compose, configured, "candidate")
    transformer: Any = _configured(compose, configured, "transformer")

    (route,) = transformer.routing.routes

    assert candidate.repository.models == [route.model]
    assert transformer.backends[route.backend].target == f"candidate:{candidate.server.grpc_port}"


def test_prometheus_scrapes_every_service(
    compose: dict[str, Any], configured: Callable[..., ServiceConfig], root: Path
) -> None:
    """Prometheus asks each service's HTTP port, under the names that the services have here."""
    file = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    ((source,),) = [job["dns_sd_configs"] for job in file["scrape_configs"]]

    assert set(source["names"]) == set(PROGRAM)
    for name in PROGRAM:
        assert _configured(compose, configured, name).server.http_port == source["port"]
    assert compose["services"]["prometheus"]["volumes"] == [
        "./deploy/prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro"
    ]


def _configured(compose: dict[str, Any], configured: Callable[..., ServiceConfig], name: str) -> ServiceConfig:
    """The configuration of a container: the mounted files of samples/config, and its variables with their defaults."""
    each, program = compose["services"][name], PROGRAM[name]
    (mounted,) = [volume.split(":")[0] for volume in each["volumes"]]
    files = {file.name: file.read_text(encoding="utf-8") for file in (Path(__file__).parents[2] / mounted).iterdir()}
    environment = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in each.get("environment", {}).items()}
    return configured(program, files, environment)


def test_the_tests_of_the_containers_can_be_run(root: Path) -> None:
    """They need a container engine, so that nothing else collects them: on each engine, once."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "tests/e2e/test_compose.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_the_gateway_s_image_is_small[envoy]" in done.stdout
    assert "test_the_gateway_s_image_is_small\n" in done.stdout
