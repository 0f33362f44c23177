"""What a gateway with several processes on one port can't do is refused when its configuration is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.config import ConfigError, load
from services.gateway.config import GatewayConfig

ROUTES = "routes:\n  - {model: m, variants: [{name: stable, backend: predictor, weight: 100}]}\n"


def read(tmp_path: Path, text: str) -> GatewayConfig:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    (tmp_path / "gateway.yaml").write_text(f"routes: routes.yaml\nauth: {{keys: keys.yaml}}\n{text}")
    return load(GatewayConfig, tmp_path / "gateway.yaml", {})


def test_shadows_are_compared_by_one_process(tmp_path: Path) -> None:
    """Each would see a part of the pairs, a report would show the part of one, and all would write the same state."""
    with pytest.raises(ConfigError, match=r"compare: expected `server\.processes: 1` with it"):
        read(tmp_path, "server: {engine: envoy, processes: 2}\ncompare: {enabled: true}\n")

    assert read(tmp_path, "server: {engine: envoy}\ncompare: {enabled: true}\n").compare.enabled


def test_logs_are_shared(tmp_path: Path) -> None:
    """The audit file is appended to by all, and each has payload files of its own."""
    config = read(
        tmp_path,
        "server: {engine: envoy, processes: 2}\naudit: {mode: file, file: audit.jsonl}\n"
        "payload_log: {mode: file, folder: .}\n",
    )

    assert config.server.processes == 2
