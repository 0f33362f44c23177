"""The Kubernetes manifests against each other and against the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infermesh.config import ServiceConfig

PODS = ("gateway", "transformer", "predictor", "explainer", "redis")
FOLDER = {
    "config.yaml": ["ConfigMap"],
    "deployment.yaml": ["Deployment"],
    "hpa.yaml": ["HorizontalPodAutoscaler"],
    "pdb.yaml": ["PodDisruptionBudget"],
    "service.yaml": ["Service"],
}
TIME_TO_CLOSE_S = (
    12  # after drain and grace: clients, sessions, the last spans; a process in Envoy is killed after 10 s of it
)


# ---- folders


def test_a_folder_holds_one_object_per_file(manifests: Any, service: str) -> None:
    """The folder of a service has its five files, each with the object that its name says, so that it can be applied alone."""
    found: dict[str, list[str]] = {}
    for file, each in manifests.all:
        if file.parent.name == service:
            found.setdefault(file.name, []).append(each["kind"])

    expected = dict(FOLDER)
    if service == "transformer":
        expected["features-job.yaml"] = ["Job"]
    assert found == expected


def test_redis_has_no_autoscaler_and_no_budget(manifests: Any) -> None:
    """The small store is one pod: a second one would be another store, and a budget would block every drain of its node."""
    kinds = [each["kind"] for file, each in manifests.all if file.parent.name == "redis"]

    assert sorted(kinds) == ["ConfigMap", "Deployment", "Service"]
    assert manifests.of("Deployment", "redis")["spec"]["replicas"] == 1


def test_the_kustomization_lists_every_file(root: Path) -> None:
    """`kubectl apply -k` applies exactly what the folders hold, and no folder holds a kustomization of its own."""
    top = root / "deploy" / "k8s"

    listed = yaml.safe_load((top / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]

    there = [str(file.relative_to(top)) for file in top.glob("*/*")]
    assert sorted(listed) == sorted(there)
    assert [file.name for file in top.iterdir() if file.is_file()] == ["kustomization.yaml"]


def test_names_are_unique_and_bound_to_no_namespace(manifests: Any) -> None:
    """Whoever applies the manifests chooses the namespace, and no object replaces another."""
    names = [(each["kind"], each["metadata"]["name"]) for _, each in manifests.all]

    assert len(set(names)) == len(names)
    assert not [each for _, each in manifests.all if "namespace" in each["metadata"]]


def test_objects_carry_the_recommended_labels(manifests: Any) -> None:
    """Every object says its name, its component and that it is part of infermesh."""
    for _, each in manifests.all:
        labels = each["metadata"]["labels"]

        assert labels["app.kubernetes.io/part-of"] == "infermesh"
        assert labels["app.kubernetes.io/name"].startswith("infermesh-")
        assert labels["app.kubernetes.io/component"]


# ---- pods


@pytest.mark.parametrize("name", PODS)
def test_pods_have_the_least_rights(manifests: Any, name: str) -> None:
    """No root, no capability, no writable root file system, no token of the cluster, the runtime's own seccomp profile."""
    _check_rights(manifests.of("Deployment", name)["spec"]["template"]["spec"])


def test_the_features_job_has_the_least_rights(manifests: Any) -> None:
    """The loader is a pod like the others."""
    _check_rights(manifests.of("Job", "features")["spec"]["template"]["spec"])


def _check_rights(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_user_is_the_image_s(manifests: Any, dockerfile: str, service: str) -> None:
    """The pod runs as the user that the image was made for."""
    user, group = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[0]

    context = manifests.of("Deployment", service)["spec"]["template"]["spec"]["securityContext"]

    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))


def test_images_are_of_this_version(manifests: Any, project: dict[str, Any], service: str) -> None:
    """Images and version labels say the version of the project, and a local image is not looked for in a registry."""
    version = project["project"]["version"]
    deployment = manifests.of("Deployment", service)

    container = manifests.container(service)

    assert container["image"] == f"infermesh-{service}:{version}"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/version"] == version
    assert deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"] == version


def test_the_loader_is_the_transformer_s_image(manifests: Any) -> None:
    """Features are loaded by the code that reads them, from the same configuration."""
    job = manifests.of("Job", "features")["spec"]["template"]["spec"]
    transformer = manifests.of("Deployment", "transformer")["spec"]["template"]["spec"]

    assert job["containers"][0]["image"] == transformer["containers"][0]["image"]
    assert _volume(job, "config") == _volume(transformer, "config")


@pytest.mark.parametrize("name", PODS)
def test_pods_request_no_more_than_their_limits(manifests: Any, name: str) -> None:
    """CPU and memory are requested and limited."""
    resources = manifests.container(name)["resources"]

    for resource in ("cpu", "memory"):
        assert 0 < _quantity(resources["requests"][resource]) <= _quantity(resources["limits"][resource])


def test_pods_are_spread(manifests: Any, service: str) -> None:
    """Replicas of a service go to different nodes and zones where there are several."""
    spec = manifests.of("Deployment", service)["spec"]

    constraints = spec["template"]["spec"]["topologySpreadConstraints"]

    assert [each["topologyKey"] for each in constraints] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert all(each["labelSelector"] == spec["selector"] for each in constraints)


# ---- against the code


def test_ports_and_probes_are_the_service_s(
    manifests: Any, configured: Callable[..., ServiceConfig], service: str
) -> None:
    """The container's ports are those that the service listens on, and Kubernetes asks its own health service, by grpc."""
    config = _configured_in_cluster(manifests, configured, service)
    container = manifests.container(service)

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert ports == {"grpc": config.server.grpc_port, "http": config.server.http_port}
    for probe, name in {"startupProbe": "", "readinessProbe": "", "livenessProbe": "live"}.items():
        assert container[probe]["grpc"].get("service", "") == name
        assert container[probe]["grpc"]["port"] == config.server.grpc_port


def test_the_grace_period_holds_drain_and_grace(
    manifests: Any, configured: Callable[..., ServiceConfig], service: str
) -> None:
    """Kubernetes kills a pod only after it could drain, finish what it had accepted, and close."""
    server = _configured_in_cluster(manifests, configured, service).server

    period = manifests.of("Deployment", service)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert period >= server.drain + server.grace + TIME_TO_CLOSE_S
    assert period <= server.drain + server.grace + TIME_TO_CLOSE_S + 5


def test_callers_find_new_pods(manifests: Any, configured: Callable[..., ServiceConfig], service: str) -> None:
    """Connections end at some age: else pods that an autoscaler adds would get no calls."""
    assert _configured_in_cluster(manifests, configured, service).server.max_connection_age > 0


def test_files_of_the_configuration_are_there(
    manifests: Any, configured: Callable[..., ServiceConfig], service: str
) -> None:
    """Each file and folder that the embedded configuration names is mounted, or in the image."""
    config = _configured_in_cluster(manifests, configured, service)

    missing = [str(path) for path in _paths(config) if not path.exists()]

    assert not missing


def test_embedded_files_are_the_samples(manifests: Any, root: Path, service: str) -> None:
    """The ConfigMap holds the files of samples/config as they are; `python -m deploy.configmaps` copies them."""
    data = manifests.of("ConfigMap", service)["data"]

    assert f"{service}.yaml" in data
    for name, text in data.items():
        assert text == (root / "samples" / "config" / name).read_text(encoding="utf-8"), f"{name}: copy it anew"


def test_backends_are_services(manifests: Any, configured: Callable[..., ServiceConfig], service: str) -> None:
    """Each host that the embedded configuration names is a Service with that port."""
    config = _configured_in_cluster(manifests, configured, service)
    ports = {
        each["metadata"]["name"]: [port["port"] for port in each["spec"]["ports"]] for each in manifests.kind("Service")
    }

    targets = [backend.target for backend in getattr(config, "backends", {}).values()]
    if service == "transformer":
        targets.append(config.redis.url.removeprefix("redis://").split("/")[0])  # type: ignore[attr-defined]

    assert bool(targets) == (service != "predictor")
    for target in targets:
        host, port = str(target).split(":")
        assert int(port) in ports[host]


def test_keys_come_from_the_secret_alone(manifests: Any) -> None:
    """Without its Secret the gateway does not start, rather than with the key of the samples, which everybody knows."""
    pod = manifests.of("Deployment", "gateway")["spec"]["template"]["spec"]

    sources = _volume(pod, "config")["projected"]["sources"]

    assert sources == [{"configMap": {"name": "gateway"}}, {"secret": {"name": "infermesh-keys"}}]
    assert "keys.yaml" not in manifests.of("ConfigMap", "gateway")["data"]
    assert not manifests.kind("Secret")


def test_configuration_is_mounted_where_the_image_reads_it(manifests: Any, dockerfile: str, service: str) -> None:
    """The entry point's --config lies in the folder that is mounted."""
    mounts = {mount["name"]: mount["mountPath"] for mount in manifests.container(service)["volumeMounts"]}

    assert f"--config {mounts['config']}/$SERVICE.yaml " in dockerfile
    assert mounts["tmp"] == "/tmp"


# ---- Services, scale, budget


def test_services_select_pods_that_exist(manifests: Any) -> None:
    """Every Service, budget and autoscaler is about the pods of a Deployment."""
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in manifests.kind("Deployment")
    }
    selectors = [each["spec"]["selector"] for each in manifests.kind("Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in manifests.kind("PodDisruptionBudget")]

    for selector in selectors:
        assert len([labels for labels in pods.values() if selector.items() <= labels.items()]) == 1
    for each in manifests.kind("HorizontalPodAutoscaler"):
        assert each["spec"]["scaleTargetRef"]["name"] in pods


@pytest.mark.parametrize("name", ["transformer", "predictor", "explainer"])
def test_backends_are_headless(manifests: Any, name: str) -> None:
    """The name of a backend resolves to its ready pods, over which gRPC spreads calls; one virtual address would stick to one."""
    spec = manifests.of("Service", name)["spec"]

    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is False


def test_the_gateway_has_an_address(manifests: Any) -> None:
    """Callers outside the mesh balance nothing themselves."""
    spec = manifests.of("Service", "gateway")["spec"]

    assert spec["type"] == "ClusterIP"
    assert "clusterIP" not in spec


def test_the_autoscaler_alone_says_how_many(manifests: Any, service: str) -> None:
    """Two replicas at least, added before a pod's CPU limit is reached; applying the Deployment again changes no number."""
    scale = manifests.of("HorizontalPodAutoscaler", service)["spec"]
    (metric,) = scale["metrics"]
    limit = _quantity(manifests.container(service)["resources"]["limits"]["cpu"])

    assert 2 <= scale["minReplicas"] < scale["maxReplicas"]
    assert _quantity(metric["resource"]["target"]["averageValue"]) == pytest.approx(0.7 * limit)
    assert "replicas" not in manifests.of("Deployment", service)["spec"]


def test_a_rollout_takes_no_capacity_away(manifests: Any, service: str) -> None:
    """An old pod goes when a new one serves, and node drains take one pod at a time."""
    spec = manifests.of("Deployment", service)["spec"]

    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert manifests.of("PodDisruptionBudget", service)["spec"]["maxUnavailable"] == 1


# ---- private


def _configured_in_cluster(manifests: Any, configured: Callable[..., ServiceConfig], service: str) -> ServiceConfig:
    """The configuration of a pod: its ConfigMap, for the gateway the samples' keys too, and the container's variables."""
    files = dict(manifests.of("ConfigMap", service)["data"])
    if service == "gateway":
        files["keys.yaml"] = (Path(__file__).parents[2] / "samples" / "config" / "keys.yaml").read_text(
            encoding="utf-8"
        )
    environment = {each["name"]: each["value"] for each in manifests.container(service)["env"]}
    return configured(service, files, environment)


def _volume(pod: dict[str, Any], name: str) -> dict[str, Any]:
    (volume,) = [each for each in pod["volumes"] if each["name"] == name]
    return dict(volume)


def _paths(value: Any) -> list[Path]:
    """Every path in a configuration, at any depth."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, dict):
        return [path for each in value.values() for path in _paths(each)]
    if isinstance(value, list | tuple):
        return [path for each in value for path in _paths(each)]
    if hasattr(type(value), "model_fields"):
        return [path for name in type(value).model_fields for path in _paths(getattr(value, name))]
    return []


def _quantity(text: str) -> float:
    """A Kubernetes quantity as a number: 250m, 1, 64Mi."""
    units = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    matched = re.fullmatch(r"(\d+)(m|Ki|Mi|Gi)?", text)
    assert matched, text
    return int(matched[1]) * units[matched[2] or ""]
