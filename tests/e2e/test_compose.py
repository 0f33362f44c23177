"""The mesh as containers: images built, docker-compose up, driven through its public port. `make e2e-compose` runs it.

It needs a container engine, whatever `docker info` answers for, and is not collected with the other tests. Its project has a name
of its own, so that a mesh that is up already is left alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from infermesh.cli.ports import free_port
from infermesh.cli.request import from_json
from infermesh.errors import MeshError, Unauthenticated, Unavailable
from infermesh.parameters import FEATURES
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs
from infermesh.transport.outside import OutsideCaller
from infermesh.transport.probe import wait_until_serving

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "transformer", "predictor", "explainer")
BASE = os.environ.get("INFERMESH_BASE", "python:3.11-slim")  # one with a shared libpython, which Debian's own has not
KEY = "infermesh-demo-key"
BUILD_S, UP_S, SOON_S = 900, 180, 60
GATEWAY_LIMIT_BYTES = 170_000_000  # beyond its base; numpy, for shadows that are compared, is 65 MB of it
ENVOY_BYTES = 140_000_000


@dataclass(frozen=True)
class Compose:
    """One docker-compose project."""

    command: tuple[str, ...]
    project: str
    environment: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """What a command of docker-compose prints; fails the test with its messages when it fails."""
        done = self._done(arguments, timeout_s)
        if done.returncode:
            pytest.fail(f"docker-compose {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def inside(self, service: str, *command: str) -> tuple[int, str]:
        """Status and output of a command in the running container of a service."""
        done = self._done(("exec", "-T", service, *command), SOON_S)
        return done.returncode, done.stdout + done.stderr

    def container(self, service: str) -> str:
        """The id of the running container of a service."""
        return self.run("ps", "--quiet", service).strip()

    def _done(self, arguments: tuple[str, ...], timeout_s: float) -> subprocess.CompletedProcess[str]:
        command = [*self.command, "--project-name", self.project, *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def compose(port: int, engine: str) -> Iterator[Compose]:
    """The project, up: its images built, its services healthy; gone afterwards with its volumes."""
    project = Compose(
        _compose_command(),
        f"infermesh-e2e-{engine}-{os.getpid()}",
        {"INFERMESH_PORT": str(port), "INFERMESH_PROMETHEUS_PORT": str(free_port()), "ENGINE": engine},
    )
    try:
        project.run("build", "--build-arg", f"PYTHON={BASE}", timeout_s=BUILD_S)
        project.run("up", "--detach")
        if not wait_until_serving(f"127.0.0.1:{port}", SOON_S):
            pytest.fail(f"the gateway does not serve\n{project.run('logs', '--no-color', '--tail=50')}")
        yield project
    finally:
        project.run("--profile", "observe", "down", "--volumes", "--timeout", "30")


@pytest.fixture
def caller(compose: Compose, port: int) -> Iterator[OutsideCaller]:
    """A client with the demo key."""
    with OutsideCaller(f"127.0.0.1:{port}", KEY, timeout_s=10) as caller:
        yield caller


# ---- answers


@pytest.mark.parametrize("model", ["iris", "breast-cancer", "fraud-detector", "credit-score"])
def test_answers_are_scikit_learn_s(caller: OutsideCaller, model: str) -> None:
    """Every version that the routes list answers through the gateway as scikit-learn did, features from the store included."""
    for case in _golden(model):
        _check_answer(caller.infer(_request(model, case)), case)


def test_a_caller_without_a_key_is_refused(compose: Compose, port: int) -> None:
    """The published port is the gateway's, which knows its callers."""
    with OutsideCaller(f"127.0.0.1:{port}") as stranger, pytest.raises(Unauthenticated):
        stranger.infer(_request("iris", _golden("iris")[0]))


@pytest.mark.parametrize("model", ["iris", "fraud-detector"])
def test_an_explanation_adds_up(caller: OutsideCaller, model: str) -> None:
    """The attributions of a row and the base value add up to the prediction that they explain, through all four services."""
    case = _golden(model)[0]
    request = _request(f"{model}-explainer", case)

    outputs = read_outputs(caller.infer(request))

    rows = case["outputs"]["label"]["shape"][0]
    assert outputs["attributions"].shape[:2] == (rows, len(outputs["feature_names"]))
    total = outputs["base_values"] + outputs["attributions"].sum(axis=1)
    np.testing.assert_allclose(total, outputs["predictions"], atol=1e-5)


def test_the_candidate_sees_shadow_copies(compose: Compose, caller: OutsideCaller) -> None:
    """Some calls to the fraud detector are copied to the candidate, a container of its own that nobody waits for."""
    before = _requests(compose, "candidate")

    def seen() -> bool:
        for _ in range(20):
            response = caller.infer(_request("fraud-detector", _golden("fraud-detector")[0], version=""))
            assert response.model_version in ("1", "2")  # never the candidate's answer
        return _requests(compose, "candidate") > before

    _soon(seen, "the candidate got no copy")


# ---- faults


def test_redis_may_go_and_come_back(compose: Compose, caller: OutsideCaller) -> None:
    """While the store is away each view's policy answers; when it is back, so are the features, loaded by nobody."""
    patient, card = _golden("breast-cancer")[0], _golden("fraud-detector")[0]

    compose.run("stop", "redis")
    try:
        with pytest.raises(Unavailable):
            caller.infer(_request("breast-cancer", patient))
        defaulted = caller.infer(_request("fraud-detector", card))
        iris = caller.infer(_request("iris", _golden("iris")[0]))
    finally:
        compose.run("start", "redis")

    assert defaulted.parameters[FEATURES].string_param == "redis_unavailable"
    _check_answer(iris, _golden("iris")[0])
    _soon(lambda: _answers(caller, _request("breast-cancer", patient), patient), "no features after Redis came back")
    _check_answer(caller.infer(_request("fraud-detector", card)), card)


@pytest.mark.parametrize("service", ["explainer", "predictor"])
def test_a_stopped_service_drains_and_comes_back(compose: Compose, caller: OutsideCaller, service: str) -> None:
    """SIGTERM reaches the service as process 1: it drains and ends with status 0; started again, it is found again."""
    case = _golden("iris")[0]
    request = _request("iris-explainer" if service == "explainer" else "iris", case)
    container = compose.container(service)
    began = time.monotonic()

    compose.run("stop", service)

    took = time.monotonic() - began
    state = json.loads(_docker("inspect", "--format", "{{json .State}}", container))
    compose.run("start", service)
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    assert took < 15  # the drain of 2 s, and no waiting for calls that are not there

    def answered() -> bool:
        try:
            caller.infer(request)
        except MeshError as error:
            assert error.code == "UNAVAILABLE"
            return False
        return True

    _soon(answered, f"{service} was not found again")


# ---- images


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_change_nothing(compose: Compose, service: str) -> None:
    """The process is no root, has no capabilities, and can write to /tmp alone."""
    script = (
        "import os, pathlib\n"
        "status = pathlib.Path('/proc/1/status').read_text()\n"
        "assert os.getuid() == 10001 and os.getgid() == 10001, os.getuid()\n"
        "assert 'CapEff:\\t0000000000000000' in status, status\n"
        "pathlib.Path('/tmp/x').write_text('x')\n"
        "for place in ('/app', '/srv/infermesh', '/opt/venv', '/'):\n"
        "    try:\n"
        "        pathlib.Path(place, 'x').write_text('x')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit(f'{place} can be written to')\n"
    )

    status, output = compose.inside(service, "python", "-c", script)

    assert status == 0, output


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_one_service(compose: Compose, service: str) -> None:
    """No other service's code, no command line, no installer, no scikit-learn; ONNX Runtime only where models run."""
    absent = [f"services.{other}" for other in SERVICES if other != service]
    absent += ["infermesh.cli", "pip", "sklearn", "typer", *(["onnxruntime"] if service != "predictor" else [])]
    script = (
        "import importlib.util\n"
        f"found = [name for name in {absent!r} if importlib.util.find_spec(name)]\n"
        f"assert importlib.util.find_spec('services.{service}.app')\n"
        "assert not found, found\n"
    )

    status, output = compose.inside(service, "python", "-c", script)

    assert status == 0, output


def test_the_gateway_s_image_is_small(compose: Compose, project_version: str, engine: str) -> None:
    """What the gateway's image adds to its base is less than 170 MB, and 140 MB more with the second engine."""
    sizes = [
        int(_docker("image", "inspect", "--format", "{{.Size}}", i))
        for i in (f"infermesh-gateway:{project_version}", BASE)
    ]

    assert 0 < sizes[0] - sizes[1] < GATEWAY_LIMIT_BYTES + (ENVOY_BYTES if engine == "envoy" else 0)


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_runs_on_the_engine(compose: Compose, engine: str, service: str) -> None:
    """One variable has chosen it for all: with `envoy` the supervisor is process 1, and tells of its processes."""
    script = (
        "import urllib.request\n"
        "text = urllib.request.urlopen('http://127.0.0.1:8002/metrics').read().decode()\n"
        f'print(\'infermesh_engine_processes{{service="{service}",state="ready"}} 1.0\' in text)'
    )

    status, output = compose.inside(service, "python", "-c", script)

    assert (status, output.strip()) == (0, str(engine == "envoy"))


def test_keys_are_in_no_image(compose: Compose, project_version: str) -> None:
    """The gateway's image alone refuses to start: whoever runs it brings the keys."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--network", "none", f"infermesh-gateway:{project_version}"],
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )

    assert done.returncode == 2
    assert "keys.yaml" in done.stderr


# ---- profile observe


def test_prometheus_sees_every_service(compose: Compose) -> None:
    """With the profile, Prometheus comes up and scrapes the four services and the candidate by their names."""
    compose.run("--profile", "observe", "up", "--detach", "prometheus")
    address = f"http://127.0.0.1:{compose.environment['INFERMESH_PROMETHEUS_PORT']}"
    query = urllib.parse.urlencode({"query": "infermesh_ready == 1"})

    def hosts() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return False
        return {each["metric"]["host"] for each in result} == {*SERVICES, "candidate"}

    _soon(hosts, "Prometheus does not see every service")


# ---- private


@pytest.fixture(scope="module")
def project_version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


def _compose_command() -> tuple[str, ...]:
    """Compose 2 where there is one, else docker-compose."""
    for command in (("docker", "compose"), ("docker-compose",)):
        try:
            if subprocess.run([*command, "version"], capture_output=True, timeout=SOON_S, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    pytest.fail("neither `docker compose` nor `docker-compose` is there")


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=SOON_S, check=True)
    return done.stdout.strip()


def _golden(model: str) -> list[dict[str, Any]]:
    """The recorded answers of the versions that the samples' routes list for a model; another one can't be asked for."""
    table = yaml.safe_load((ROOT / "samples" / "config" / "routes.yaml").read_text(encoding="utf-8"))
    (route,) = [each for each in table["routes"] if each.get("model") == model]
    listed = {variant["version"] for variant in route["variants"]}
    cases = json.loads((ROOT / "samples" / "golden" / f"{model}.json").read_text(encoding="utf-8"))["cases"]
    found = [case for case in cases if case["version"] in listed]
    assert {case["version"] for case in found} == listed
    return found


def _request(model: str, case: dict[str, Any], version: str | None = None) -> pb.ModelInferRequest:
    """What a client sends: the request where it differs from the model's inputs, for the case's version."""
    request = from_json(model, {"inputs": case.get("request") or case["inputs"]}, {})
    request.model_version = case["version"] if version is None else version
    return request


def _check_answer(response: pb.ModelInferResponse, case: dict[str, Any]) -> None:
    outputs = read_outputs(response)
    expected = {name: np.array(each["data"]).reshape(each["shape"]) for name, each in case["outputs"].items()}
    assert response.model_version == case["version"]
    np.testing.assert_array_equal(outputs["label"], expected["label"])
    np.testing.assert_allclose(outputs["probabilities"], expected["probabilities"], atol=1e-5)


def _answers(caller: OutsideCaller, request: pb.ModelInferRequest, case: dict[str, Any]) -> bool:
    """Whether the call is answered, and then rightly; no answer for want of features is the one other way."""
    try:
        response = caller.infer(request)
    except Unavailable:
        return False
    _check_answer(response, case)
    return True


def _requests(compose: Compose, service: str) -> float:
    """Inference calls that a service has counted, by its own metrics."""
    script = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8002/metrics', timeout=5).read().decode())"
    status, text = compose.inside(service, "python", "-c", script)
    assert status == 0, text
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("infermesh_requests_total{")
    )


def _soon(true: Callable[[], bool], otherwise: str) -> None:
    """Return when it has come true; fail when that takes longer than a minute."""
    end, pause = time.monotonic() + SOON_S, threading.Event()
    while not true():
        assert time.monotonic() < end, otherwise
        pause.wait(0.2)
