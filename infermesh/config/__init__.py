"""Configuration: pydantic models, filled from defaults < YAML file < environment, refused whole with every fault named."""

from infermesh.config.load import ConfigError, load, parse
from infermesh.config.models import BackendConfig, Model, PortTaken, ServerConfig, ServiceConfig, TelemetryConfig
from infermesh.config.types import ConfigPath, Duration, Mode, Size

__all__ = [
    "BackendConfig",
    "ConfigError",
    "ConfigPath",
    "Duration",
    "Mode",
    "Model",
    "PortTaken",
    "ServerConfig",
    "ServiceConfig",
    "Size",
    "TelemetryConfig",
    "load",
    "parse",
]
