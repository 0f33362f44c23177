"""Configuration: checked, shown, documented."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from infermesh.cli.config_docs import page
from infermesh.cli.processes import samples_folder
from infermesh.cli.settings import FILES, REQUIRED, SERVICES, config_of, model_of, settings
from infermesh.cli.wiring import setting
from infermesh.config import BackendConfig, ConfigError, Duration, Model, ServiceConfig, Size, load
from services.predictor.config import PredictorConfig

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


class Inner(Model):
    wait: Duration = "250ms"
    """How long."""
    limit: Size = "64KiB"


class Outer(ServiceConfig):
    model_config = SettingsConfigDict(env_prefix="INFERMESH_OUTER__")

    needed: int = Field(ge=1, lt=10)
    mode: Literal["off", "enforce"] = "off"
    inner: Inner = Inner(wait="1s")
    backends: dict[str, BackendConfig] = Field(default_factory=lambda: {"a": BackendConfig(target="a:1")})
    parts: list[Inner] = []
    maybe: Duration | None = None


def test_the_page_is_current():
    """docs/configuration.md is what the code says; `make docs` makes it so."""
    assert DOCUMENT.read_text(encoding="utf-8") == page()


def test_every_setting_is_found():
    """Nested models, mappings by name and lists are followed; defaults stand in their written form."""
    found = {
        each.key: (each.type, each.default)
        for each in settings(Outer)
        if each.path[0] not in ("server", "telemetry", "backends")
    }
    backends = {each.key: (each.type, each.default) for each in settings(Outer) if each.path[0] == "backends"}

    assert found == {
        "needed": ("whole number ≥ 1, < 10", REQUIRED),
        "mode": ("`off`, `enforce`", "off"),
        "inner.wait": ("duration", "1s"),
        "inner.limit": ("size", "64KiB"),
        "parts": ("list", []),
        "parts[].wait": ("duration", "250ms"),
        "parts[].limit": ("size", "64KiB"),
        "maybe": ("duration or nothing", None),
    }
    assert backends["backends"][1]["a"]["target"] == "a:1"
    assert backends["backends.<name>.target"] == ("text or list of text", REQUIRED)
    assert backends["backends.<name>.margin"] == ("duration", "2ms")
    assert backends["backends.<name>.tls"] == ("mapping or nothing", None)


def test_no_variable_reaches_into_a_list():
    """Inside a list there is nothing that an environment variable could name."""
    reach = {each.key: each.variable_path is not None for each in settings(Outer)}

    assert reach["inner.wait"]
    assert reach["parts"]
    assert not reach["parts[].wait"]


@pytest.mark.parametrize("service", SERVICES)
def test_documented_variables_are_read(service):
    """Every variable that the page names is one that the service knows: an unknown one would be refused."""
    kind = config_of(service)
    optional = [
        each.path for each in settings(kind) if each.nested and each.default is None
    ]  # groups with required settings
    plain = [each for each in settings(kind) if each.variable_path and "<name>" not in each.path and not each.nested]
    environ = {
        setting(service, *each.path): each.default
        for each in plain
        if isinstance(each.default, str) and each.default and not any(each.path[: len(p)] == p for p in optional)
    }

    config = load(kind, samples_folder() / "config" / f"{service}.yaml", environ)

    assert len(environ) > 5
    assert isinstance(config, kind)
    with pytest.raises(ConfigError, match="no such setting"):
        load(kind, samples_folder() / "config" / f"{service}.yaml", {setting(service, "no_such"): "1"})


def test_samples_are_good(infermesh):
    """All sample configuration passes the check, each file recognised by its name."""
    files = sorted((samples_folder() / "config").glob("*.yaml"))

    result = infermesh("config", "check", *files)

    assert result.err == ""
    assert result.status == 0
    assert result.out.count(": good") == len(files) >= 7


def test_check_names_every_fault(infermesh, tmp_path: Path):
    """One bad file among good ones: exit status 2, and each fault with its path."""
    bad = tmp_path / "predictor.yaml"
    bad.write_text("server: {drain: 5}\nnonsense: 1\n")

    result = infermesh("config", "check", samples_folder() / "config" / "predictor.yaml", bad)

    assert result.status == 2
    assert result.out.count(": good") == 1
    assert f"{bad}: 2 faults" in result.err
    assert "server.drain: expected a duration with its unit" in result.err
    assert "nonsense: no such setting" in result.err


def test_check_of_a_file_whose_name_tells_nothing(infermesh, tmp_path: Path):
    """Then --service says what it configures."""
    file = tmp_path / "a.yaml"
    file.write_text("{}\n")

    assert infermesh("config", "check", file).status == 2
    assert infermesh("config", "check", file, "--service", "predictor").status == 0
    assert "expected one of gateway" in infermesh("config", "check", file, "--service", "x").err


def test_show_defaults_are_a_file_that_can_be_used(infermesh, tmp_path: Path):
    """What `show --service` prints is a configuration, with every meaning as a comment."""
    result = infermesh("config", "show", "--service", "predictor")
    file = tmp_path / "predictor.yaml"
    file.write_text(result.out)

    assert "# Largest message that is taken or sent." in result.out
    shown, default = load(PredictorConfig, file, {}), PredictorConfig()
    assert (shown.server, shown.execution, shown.deadline) == (default.server, default.execution, default.deadline)
    assert shown.repository.root == str(tmp_path / default.repository.root)


def test_show_what_comes_of_a_file(infermesh, monkeypatch: pytest.MonkeyPatch):
    """With a file it shows file and environment together."""
    file = samples_folder() / "config" / "predictor.yaml"
    monkeypatch.setenv("INFERMESH_PREDICTOR__EXECUTION__INSTANCES", "3")

    result = infermesh("config", "show", file)

    assert yaml.safe_load(result.out)["execution"]["instances"] == 3


@pytest.mark.parametrize("name", [*SERVICES, *FILES])
def test_every_setting_has_a_meaning(name):
    """No setting is documented by its name alone."""
    silent = [each.key for each in settings(model_of({**SERVICES, **FILES}[name])) if not each.text]

    assert silent == []


def test_a_models_own_file_is_checked(infermesh, tmp_path: Path):
    """`<model>/config.yaml` is known by its name, and a value that can't be is told with its path."""
    file = tmp_path / "fraud-detector" / "config.yaml"
    file.parent.mkdir()
    file.write_text("execution: {instances: 2}\n")

    assert infermesh("config", "check", file).out == f"{file}: good\n"

    file.write_text("execution: {instances: 0}\nlabel: {}\n")
    result = infermesh("config", "check", file)

    assert result.status == 2
    assert f"{file}: 2 faults" in result.err
    assert "execution.instances: Input should be greater than or equal to 1, got 0" in result.err
    assert "label: no such setting" in result.err
