"""Every Kubernetes object against the schemas that Kubernetes publishes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import kubernetes_validate
import pytest

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(manifests: Any, version: str) -> None:
    """Every object is what this version of Kubernetes takes, without a field that it does not know."""
    assert len(manifests.all) > 20

    for file, each in manifests.all:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{file.parent.name}/{file.name}: {each['kind']}: {error.json_path}: {error.message}")


def test_a_misspelt_field_is_found(manifests: Any) -> None:
    """The check is strict: a field that Kubernetes would drop in silence is an error."""
    deployment = deepcopy(manifests.of("Deployment", "gateway"))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30

    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
