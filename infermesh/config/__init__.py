"""Configuration: pydantic models, filled from defaults < YAML file < environment, refused whole with every fault named."""

from infermesh.config.load import ConfigError, load, parse
from infermesh.config.models import (
    BackendConfig,
    BackendTlsConfig,
    BreakerConfig,
    Identity,
    Model,
    PortTaken,
    ServerConfig,
    ServerTlsConfig,
    ServiceConfig,
    TelemetryConfig,
)
from infermesh.config.types import OFF, ConfigPath, Duration, Mode, Size

__all__ = [
    "OFF",
    "BackendConfig",
    "BackendTlsConfig",
    "BreakerConfig",
    "ConfigError",
    "ConfigPath",
    "Duration",
    "Identity",
    "Mode",
    "Model",
    "PortTaken",
    "ServerConfig",
    "ServerTlsConfig",
    "ServiceConfig",
    "Size",
    "TelemetryConfig",
    "load",
    "parse",
]
