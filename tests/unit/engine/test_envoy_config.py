"""Envoy's configuration: what is in it, and that Envoy takes it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infermesh.config import ServerConfig, TelemetryConfig
from infermesh.engine.envoy_config import Places, bootstrap, certificates, log_level
from infermesh.engine.settings import Settings
from infermesh.transport.tls import Pem

SETTINGS = Settings("predictor", "127.0.0.1", 8001, 8002)
PLACES = Places(Path("/run/a"), Path("/run/l"), Path("/run"), Path("/lib/pyvoy.so"), "module:application")
VARIANTS = {
    "plain": SETTINGS,
    "text": replace(SETTINGS, log_json=False),
    "access": replace(SETTINGS, access_log=True),
    "aged": replace(SETTINGS, max_connection_age_s=0.25),
    "tls": replace(SETTINGS, tls=True),
    "mutual": replace(SETTINGS, tls=True, mutual=True, host="::1"),
}


def http(settings: Settings) -> dict[str, Any]:
    (listener,) = bootstrap(settings, 8001, PLACES)["static_resources"]["listeners"]
    config: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return config


def test_it_is_the_same_for_the_same_settings() -> None:
    """A pure function, whose answer is JSON."""
    assert json.dumps(bootstrap(SETTINGS, 1, PLACES)) == json.dumps(bootstrap(SETTINGS, 1, PLACES))


def test_calls_are_filtered_before_python_sees_them() -> None:
    """The program is the last filter, behind the one that lets gRPC through alone."""
    names = [each["name"] for each in http(SETTINGS)["http_filters"]]

    assert names == ["envoy.filters.http.rbac", "python"]


def test_settings_of_a_server_become_those_of_the_engine(tmp_path: Path) -> None:
    """What both engines have is said once."""
    server = ServerConfig(grpc_port=1, max_connection_age="5m", drain="1s", grace="3s")

    settings = Settings.of("gateway", server, TelemetryConfig(log_level="warning"), processes=3)

    assert (settings.grpc_port, settings.max_connection_age_s, settings.drain_s, settings.grace_s) == (1, 300, 1, 3)
    assert settings.processes == 3 and not settings.tls and log_level(settings) == "warn"
    assert http(settings)["common_http_protocol_options"]["max_connection_duration"] == "300s"


def test_silence_ends_no_stream_and_an_age_does() -> None:
    """A health Watch says nothing for longer than the five minutes that Envoy waits by itself."""
    config = http(SETTINGS)

    assert config["stream_idle_timeout"] == "0s"
    assert config["common_http_protocol_options"]["max_stream_duration"] == "3600s"


@pytest.mark.parametrize(("variant", "inspector"), [("plain", "http"), ("mutual", "tls")])
def test_a_connection_is_looked_at_before_it_is_served(variant: str, inspector: str) -> None:
    """By what waits for its first bytes: of TLS where there is TLS."""
    (listener,) = bootstrap(VARIANTS[variant], 8001, PLACES)["static_resources"]["listeners"]

    assert [each["name"] for each in listener["listener_filters"]] == [f"envoy.filters.listener.{inspector}_inspector"]
    assert listener["listener_filters_timeout"] == "10s"


@pytest.mark.parametrize(("variant", "expected"), [("tls", "SANITIZE"), ("mutual", "SANITIZE_SET")])
def test_a_caller_cannot_write_who_it_is(variant: str, expected: str) -> None:
    """The header with the client's certificate is set by Envoy from the connection, or is dropped."""
    config = http(VARIANTS[variant])

    assert config["forward_client_cert_details"] == expected
    assert ("set_current_client_cert_details" in config) is (variant == "mutual")


def envoy() -> str:
    """The program: the wheel has it in its package, behind a script of Python."""
    spec = importlib.util.find_spec("envoy")
    assert spec is not None and spec.origin is not None, "the development environment has the extra `envoy`"
    return str(Path(spec.origin).parent / "_bin/envoy")


@pytest.mark.parametrize("variant", VARIANTS)
def test_envoy_takes_it(variant: str, tmp_path: Path) -> None:
    """As `envoy --mode validate` sees it, unknown fields refused; another filter stands for Python, which is not started."""
    settings = VARIANTS[variant]
    places = Places(tmp_path / "a", tmp_path / "leaving", tmp_path, PLACES.module, PLACES.app)
    places.leaving.write_text("0")
    for name, secret in certificates(Pem(b"cert", b"key", b"ca")).items():
        (tmp_path / name).write_text(json.dumps(secret))
    config = bootstrap(settings, 0, places)
    filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"][
        "http_filters"
    ]
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    filters[-1] = {"name": "envoy.filters.http.router", "typed_config": {"@type": router}}
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(config))

    told = subprocess.run(
        [envoy(), "--mode", "validate", "--disable-hot-restart", "--config-path", str(file), "--log-level", "warn"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
    )

    assert told.returncode == 0, told.stderr
    assert "deprecated" not in told.stderr.lower()
