"""What is deployed, read from the repository: manifests, the compose file, the Dockerfile."""

from __future__ import annotations

import importlib
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infermesh.config import ServiceConfig, load

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "k8s"
SAMPLES = ROOT / "samples"
SERVICES = ("gateway", "transformer", "predictor", "explainer")

Object = dict[str, Any]


@dataclass(frozen=True)
class Manifests:
    """All Kubernetes objects, in the order of their files, each with the file that it stands in."""

    all: list[tuple[Path, Object]]

    def of(self, kind: str, name: str) -> Object:
        """The one object of a kind and name."""
        found = [each for _, each in self.all if each["kind"] == kind and each["metadata"]["name"] == name]
        assert len(found) == 1, f"expected one {kind} {name}, found {len(found)}"
        return found[0]

    def kind(self, kind: str) -> list[Object]:
        return [each for _, each in self.all if each["kind"] == kind]

    def container(self, deployment: str) -> Object:
        """The one container of a Deployment."""
        (container,) = self.of("Deployment", deployment)["spec"]["template"]["spec"]["containers"]
        return dict(container)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    """Each of the four services in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    files = sorted(path for path in MANIFESTS.glob("*/*") if path.is_file())
    return Manifests([(file, each) for file in files for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))])


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml, with its anchors resolved and its variables as they stand there."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="session")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def configured(dockerfile: str, tmp_path: Path) -> Callable[..., ServiceConfig]:
    """Reads the configuration of a service as its container would: `configured(service, files, environment)`.

    `files` are what is mounted over the image's configuration, by name; the data beside it is what the Dockerfile puts there.
    """

    def configured(service: str, files: Mapping[str, str], environment: Mapping[str, str]) -> ServiceConfig:
        image = Path(tempfile.mkdtemp(dir=tmp_path))
        (image / "config").mkdir()
        for name, text in files.items():
            (image / "config" / name).write_text(text, encoding="utf-8")
        branch = re.search(rf"^ +{service}\) +(.*);; \\$", dockerfile, re.MULTILINE)
        assert branch, f"the Dockerfile has no data for {service}"
        for folder in re.findall(r"cp -r (\S+) /srv/infermesh/", branch[1]):
            (image / folder).symlink_to(SAMPLES / folder)
        module = importlib.import_module(f"services.{service}.config")
        kind: type[ServiceConfig] = getattr(module, f"{service.capitalize()}Config")
        return load(kind, image / "config" / f"{service}.yaml", environment)

    return configured
