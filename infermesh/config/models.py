"""What the configuration of every service has in common."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import SettingsConfigDict

from infermesh.config.types import Duration, Size

__all__ = ["BackendConfig", "Model", "PortTaken", "ServerConfig", "ServiceConfig", "TelemetryConfig"]

MAX_MESSAGE = 2**31 - 1  # gRPC's own bound

_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


class PortTaken(OSError):
    """A port that is configured can't be listened on."""


class Model(BaseModel):
    """A part of a configuration: unknown keys are refused, defaults are checked like everything else."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class ServerConfig(Model):
    """The ports of a service, and how it starts and stops."""

    host: str = "0.0.0.0"
    """Address to listen on, for both ports."""
    grpc_port: int = Field(8001, ge=0, le=65535)
    """Port of OIP, health and reflection; 0: any free one."""
    http_port: int = Field(8002, ge=0, le=65535)
    """Port of `/metrics`, `/live` and `/ready`; 0: any free one."""
    max_message: Size = Field("64MiB", ge=1, le=MAX_MESSAGE)  # type: ignore[assignment]  # checked like a file's
    """Largest message that is taken or sent."""
    max_in_flight: int = Field(4096, ge=1)
    """Calls that are worked on at a time; more are refused with RESOURCE_EXHAUSTED."""
    max_streams: int = Field(2048, ge=1)
    """ModelStreamInfer calls that are open at a time, idle ones too; more are refused with RESOURCE_EXHAUSTED."""
    max_connection_age: Duration = "0"  # type: ignore[assignment]
    """Connections are closed gently at this age, so that clients find new replicas; 0: never."""
    drain: Duration = "2s"  # type: ignore[assignment]
    """After SIGTERM: how long calls are still accepted while load balancers learn that this replica goes."""
    grace: Duration = "20s"  # type: ignore[assignment]
    """After the drain: how long calls that were accepted may still run."""


class TelemetryConfig(Model):
    """What a service tells about itself."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is less than this is not logged."""
    log_format: Literal["json", "text"] = "json"
    """`json`: an object a line, for machines; `text`: for people."""
    otlp_endpoint: str = ""
    """OTLP gRPC endpoint for spans, such as `http://collector:4317`; empty: no spans, at no cost."""
    trace_share: float = Field(1.0, ge=0, le=1)
    """Share of traces that start here and are recorded; a caller's own decision is kept."""


class BackendConfig(Model):
    """Where another service of the mesh is."""

    target: str | list[str]
    """`host:port`, resolved by DNS and balanced over all its addresses, or a list of `IPv4 address:port`."""
    max_message: Size = Field("64MiB", ge=1, le=MAX_MESSAGE)  # type: ignore[assignment]
    """Largest message that is sent or taken."""
    margin: Duration = "2ms"  # type: ignore[assignment]
    """What is kept back of the remaining deadline for the way home."""

    @field_validator("target")
    @classmethod
    def _has_ports(cls, target: str | list[str]) -> str | list[str]:
        several = isinstance(target, list)
        for each in target if isinstance(target, list) else [target]:
            host, _, port = each.rpartition(":")
            if not host or not port.isdecimal() or (several and not _IPV4.fullmatch(host)):
                raise ValueError(f"expected {'IPv4 addresses with ports' if several else 'host:port'}")
        if not target:
            raise ValueError("expected at least one address")
        return target


class ServiceConfig(Model):
    """The configuration of one service; each service adds its own parts. Made by `infermesh.config.load`."""

    model_config = SettingsConfigDict(env_nested_delimiter="__")  # read by `load`, which alone looks at the environment

    server: ServerConfig = ServerConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
