"""Configuration for named hosts, made to fit one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infermesh.cli.processes import samples_folder
from infermesh.cli.wiring import overrides, setting
from infermesh.config import ConfigError, load
from services.transformer.config import TransformerConfig

ADDRESSES = {"predictor": ["127.0.0.1:1", "127.0.0.1:2"], "explainer": ["127.0.0.1:3"]}


def test_setting_is_the_name_of_a_variable():
    """Parts of a path are joined as the configuration reads them."""
    assert setting("gateway", "server", "grpc_port") == "INFERMESH_GATEWAY__SERVER__GRPC_PORT"


def test_targets_and_store_of_the_samples():
    """Targets that name a service get its addresses, and the store's address is replaced; the service reads them."""
    file = samples_folder() / "config" / "transformer.yaml"

    found = overrides("transformer", file, ADDRESSES, "redis://127.0.0.1:9", {})
    config = load(TransformerConfig, file, found)

    assert config.backends["predictor"].target == ["127.0.0.1:1", "127.0.0.1:2"]
    assert config.backends["explainer"].target == "127.0.0.1:3"
    assert config.redis.url == "redis://127.0.0.1:9"


def test_defaults_that_a_file_leaves_out_are_wired_too(tmp_path: Path):
    """What a file does not say is in effect all the same."""
    file = tmp_path / "transformer.yaml"
    file.write_text("{}\n")

    found = overrides("transformer", file, ADDRESSES, "", {})

    assert json.loads(found["INFERMESH_TRANSFORMER__BACKENDS__PREDICTOR__TARGET"]) == ADDRESSES["predictor"]
    assert "INFERMESH_TRANSFORMER__REDIS__URL" not in found


def test_other_hosts_are_left_alone(tmp_path: Path):
    """A target outside the mesh, and a store of one's own, stay what they are."""
    file = tmp_path / "transformer.yaml"
    file.write_text(
        "backends: {predictor: {target: 'models.example:8001'}, explainer: {target: 'explainer:8001'}}\n"
        "redis: {url: 'redis://store.example:6379'}\n"
    )

    found = overrides("transformer", file, ADDRESSES, "redis://127.0.0.1:9", {})

    assert found == {"INFERMESH_TRANSFORMER__BACKENDS__EXPLAINER__TARGET": "127.0.0.1:3"}


def test_a_bad_file_is_refused_with_every_fault(tmp_path: Path):
    """A configuration that its service would refuse is refused before anything is started."""
    file = tmp_path / "transformer.yaml"
    file.write_text("server: {drain: 5, grpc_port: x}\n")

    with pytest.raises(ConfigError, match=r"2 faults\n  server\.grpc_port: .*\n  server\.drain: expected a duration"):
        overrides("transformer", file, ADDRESSES, "", {})
