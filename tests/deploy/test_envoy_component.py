"""The component of deploy/envoy, which puts the services on the second engine, applied as kustomize would."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infermesh.config import ServiceConfig

Object = dict[str, Any]


@pytest.fixture
def deployments(manifests: Any, root: Path) -> dict[str, Object]:
    """The four Deployments with the component's patches, each of which is for one of them."""
    component = yaml.safe_load((root / "deploy" / "envoy" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert (component["kind"], set(component)) == ("Component", {"apiVersion", "kind", "patches"})
    patched = {}
    for each in component["patches"]:
        patch = yaml.safe_load(each["patch"])
        name = patch["metadata"]["name"]
        patched[name] = _merged(deepcopy(manifests.of(patch["kind"], name)), patch)
    return patched


def test_every_service_runs_on_envoy(
    deployments: dict[str, Object], manifests: Any, configured: Callable[..., ServiceConfig], service: str
) -> None:
    """Without the component a pod says `grpcio`, with it `envoy`; everything else of its configuration stays."""
    files = {**manifests.of("ConfigMap", service)["data"], "keys.yaml": "keys: []\n"}

    def read(container: Object) -> Object:
        config = configured(service, files, {each["name"]: each["value"] for each in container["env"]})
        return config.server.model_dump()

    before, after = read(manifests.container(service)), read(_container(deployments[service]))

    assert (before.pop("engine"), after.pop("engine")) == ("grpcio", "envoy")
    assert before == after


def test_what_comes_of_it_is_valid(deployments: dict[str, Object]) -> None:
    """Strictly, for the oldest and the newest version; more memory is asked for, and no more than the limit."""
    for each in deployments.values():
        for version in ("1.25", "1.37"):
            kubernetes_validate.validate(each, version, strict=True)
        resources = _container(each)["resources"]
        assert resources["requests"]["memory"] in ("256Mi", "384Mi")
        assert resources["limits"]["memory"] in ("512Mi", "1Gi")
        assert resources["requests"]["cpu"]


def _container(deployment: Object) -> Object:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _merged(there: Any, patch: Any) -> Any:
    """A strategic merge: mappings by key; the lists that Deployments have here, containers and variables, by name."""
    if isinstance(patch, dict):
        return {
            **there,
            **{key: _merged(there.get(key), value) if key in there else value for key, value in patch.items()},
        }
    if isinstance(patch, list):
        named = {each["name"]: each for each in there}
        return list({**named, **{each["name"]: _merged(named.get(each["name"], {}), each) for each in patch}}.values())
    return patch
