"""The overlay of docs/deployment.md that gives the manifests TLS, applied as kustomize would."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infermesh.config import BackendConfig, ServerConfig, ServerTlsConfig, ServiceConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import Server
from tests.certificates import Authority

SERVICES = ("gateway", "transformer", "predictor", "explainer")
Object = dict[str, Any]


@pytest.fixture(scope="session")
def overlay(root: Path) -> Object:
    """The kustomization, as it stands in the page."""
    page = (root / "docs" / "deployment.md").read_text(encoding="utf-8")
    part = page.split("### TLS on Kubernetes\n")[1].split("\n### ")[0]
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    found: Object = yaml.safe_load(block)
    return found


@pytest.fixture
def patched(manifests: Any, overlay: Object) -> dict[tuple[str, str], Object]:
    """Deployments and Services with the overlay's patches."""
    objects = {(each["kind"], each["metadata"]["name"]): deepcopy(each) for _, each in manifests.all}
    for patch in overlay["patches"]:
        chosen = [each for each in objects.values() if _is_target(each, patch["target"])]
        assert chosen, f"the patch of {patch['target']} is for nothing"
        for each in chosen:
            for step in yaml.safe_load(patch["patch"]):
                _apply(each, step)
    return {
        name: each for name, each in objects.items() if name[1] in SERVICES and name[0] in ("Deployment", "Service")
    }


@pytest.fixture
def variables(overlay: Object) -> dict[str, str]:
    (generated,) = overlay["configMapGenerator"]
    return dict(each.split("=", 1) for each in generated["literals"])


@pytest.fixture
def configs(
    manifests: Any, patched: Any, variables: dict[str, str], configured: Callable[..., ServiceConfig]
) -> dict[str, Any]:
    """What each service reads in its pod, under the overlay."""
    found = {}
    for service in SERVICES:
        files = dict(manifests.of("ConfigMap", service)["data"])
        files["keys.yaml"] = "keys: []\n"
        env = {each["name"]: each["value"] for each in _container(patched, service)["env"]}
        found[service] = configured(service, files, {**variables, **env})
    return found


def test_every_object_is_valid(patched: dict[tuple[str, str], Object]) -> None:
    """What comes of the patches is what Kubernetes takes, without a field that it does not know."""
    assert len(patched) == 2 * len(SERVICES)
    for each in patched.values():
        for version in ("1.25", "1.37"):
            kubernetes_validate.validate(each, version, strict=True)


def test_every_port_and_every_channel_has_tls(configs: dict[str, Any]) -> None:
    """Servers behind the gateway ask for certificates, and each channel shows one and checks its server's."""
    for service, config in configs.items():
        assert config.server.tls is not None, service
        assert (config.server.tls.client_ca is None) == (service == "gateway"), service
        for name, backend in getattr(config, "backends", {}).items():
            tls = backend.tls
            assert tls is not None and tls.ca is not None and tls.cert is not None, (service, name)


def test_each_hop_is_believed_by_those_that_it_calls(configs: dict[str, Any]) -> None:
    """The identities of a server are exactly the services that have it as a backend."""
    callers: dict[str, set[str]] = {service: set() for service in SERVICES}
    for service, config in configs.items():
        for backend in getattr(config, "backends", {}).values():
            callers[backend.target.split(":")[0]].add(f"dns:{service}")

    assert {service: set(config.server.mesh_identities) for service, config in configs.items()} == callers


def test_files_come_from_a_secret_of_the_service_s_own(
    patched: Any, variables: dict[str, str], configs: dict[str, Any], overlay: Object
) -> None:
    """Each path lies in the folder that the Secret is mounted at, as a folder, so that renewed certificates arrive."""
    for service in SERVICES:
        pod = patched["Deployment", service]["spec"]["template"]["spec"]
        container = _container(patched, service)
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tls"]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "tls"]
        assert mount == {"name": "tls", "mountPath": "/tls", "readOnly": True}
        assert volume["secret"] == {"secretName": f"{service}-tls"}
        assert container["envFrom"] == [{"configMapRef": {"name": overlay["configMapGenerator"][0]["name"]}}]
    paths = {value for value in variables.values() if not value.startswith("[")}
    assert paths == {"/tls/tls.crt", "/tls/tls.key", "/tls/ca.crt"}


def test_no_probe_and_no_service_speaks_plain_grpc(patched: Any, configs: dict[str, Any]) -> None:
    """Readiness is asked on the HTTP port, liveness by the program in the image."""
    for service, config in configs.items():
        container = _container(patched, service)
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        for probe in ("startupProbe", "readinessProbe"):
            assert "grpc" not in container[probe]
            assert container[probe]["httpGet"] == {"path": "/ready", "port": "http"}
        assert "grpc" not in container["livenessProbe"]
        assert container["livenessProbe"]["exec"]["command"][-1].endswith(f":{ports['grpc']}")
        assert ports["http"] == config.server.http_port
        assert "appProtocol" not in patched["Service", service]["spec"]["ports"][0]


class _Answers(InferenceService):
    async def infer(self, request: pb.ModelInferRequest, call: Any) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name=request.model_name)


@pytest.mark.parametrize("service", SERVICES)
async def test_the_liveness_probe_of_the_overlay_works(
    patched: Any, variables: dict[str, str], configs: dict[str, Any], root: Path, tmp_path: Path, service: str
) -> None:
    """Its command, with its variables, says that a server with the overlay's certificates lives; without them it does not."""
    authority = Authority(tmp_path)
    pair = authority.pair(dns=[service])
    here = {"/tls/ca.crt": authority.file, "/tls/tls.crt": pair.cert, "/tls/tls.key": pair.key}
    asked = configs[service].server.tls
    tls = ServerTlsConfig(
        cert=here[str(asked.cert)],
        key=here[str(asked.key)],
        client_ca=here[str(asked.client_ca)] if asked.client_ca else None,
    )
    own = {each["name"]: each["value"] for each in _container(patched, service)["env"]}
    env = {name: str(here.get(value, value)) for name, value in {**variables, **own}.items() if "_TLS_" in name}
    server = Server(service, ServerConfig(host="127.0.0.1", grpc_port=0, tls=tls), inside_mesh=False)
    await server.start()
    server.mount(stack(service=_Answers()))
    command = _container(patched, service)["livenessProbe"]["exec"]["command"]
    command = [sys.executable, *command[1:-1], f"127.0.0.1:{server.port}"]
    command = [each.replace("/app/", f"{root}/") for each in command]
    try:
        ended = [await (await asyncio.create_subprocess_exec(*command, env=each)).wait() for each in (env, {})]
    finally:
        await server.stop(0)

    assert ended == [0, 1], shlex.join(command)


def test_a_backend_is_checked_by_the_name_of_its_service(configs: dict[str, Any]) -> None:
    """The host of each target is the name that the page says is in that service's certificate."""
    backends: list[BackendConfig] = [
        backend for config in configs.values() for backend in getattr(config, "backends", {}).values()
    ]

    assert len(backends) == 7
    for backend in backends:
        assert str(backend.target).split(":")[0] in SERVICES
        assert backend.tls is not None and not backend.tls.server_name


# ---- private


def _container(patched: Any, service: str) -> Object:
    (container,) = patched["Deployment", service]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _is_target(each: Object, target: Object) -> bool:
    if each["kind"] != target["kind"] or each["metadata"]["name"] != target.get("name", each["metadata"]["name"]):
        return False
    selector = target.get("labelSelector")
    if selector is None:
        return True
    matched = re.fullmatch(r"(\S+) in \((.*)\)", selector)
    assert matched, selector
    return each["metadata"]["labels"].get(matched[1]) in re.split(r", *", matched[2])


def _apply(each: Any, step: Object) -> None:
    """One step of a JSON patch (RFC 6902); what is to be removed has to be there."""
    *way, last = step["path"].strip("/").split("/")
    for part in way:
        each = each[int(part)] if isinstance(each, list) else each[part]
    if step["op"] == "remove":
        del each[int(last) if isinstance(each, list) else last]
    elif last == "-":
        each.append(step["value"])
    else:
        assert step["op"] == "add" and last not in each, step
        each[last] = step["value"]
