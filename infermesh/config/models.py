"""What the configuration of every service has in common."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from infermesh.breaker import BreakerLimits
from infermesh.config.types import ConfigPath, Duration, Mode, Size

__all__ = [
    "BackendConfig",
    "BackendTlsConfig",
    "BreakerConfig",
    "Identity",
    "Model",
    "PortTaken",
    "ServerConfig",
    "ServerTlsConfig",
    "ServiceConfig",
    "TelemetryConfig",
]

MAX_MESSAGE = 2**31 - 1  # gRPC's own bound

Identity = Annotated[str, Field(pattern=r"^(uri|dns|cn):\S[\x20-\x7e]*$", max_length=512)]
"""A name in a client's certificate: `uri:` or `dns:` and a subject alternative name, or `cn:` and the subject's common name."""

_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


class PortTaken(OSError):
    """A port that is configured can't be listened on."""


class Model(BaseModel):
    """A part of a configuration: unknown keys are refused, defaults are checked like everything else."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class ServerTlsConfig(Model):
    """What a server shows to its clients, and which clients it takes. Files that change are read anew while it runs."""

    cert: ConfigPath
    """PEM file: the server's certificate, and after it those between it and the root."""
    key: ConfigPath
    """PEM file: the private key of that certificate, not encrypted."""
    client_ca: ConfigPath | None = None
    """PEM file of roots for clients' certificates: mutual TLS, a client without a certificate of theirs does not
    get a connection; left out: clients show none."""
    look_every: Duration = Field("10s", gt=0)  # type: ignore[assignment]
    """How often the files are looked at."""


class BackendTlsConfig(Model):
    """What a server must show to us, and what we show to it. Files that change are read anew while it runs."""

    ca: ConfigPath | None = None
    """PEM file of roots for the server's certificate; left out: those that the system trusts."""
    cert: ConfigPath | None = None
    """PEM file: our certificate, for a server with mutual TLS."""
    key: ConfigPath | None = None
    """PEM file: the private key of our certificate, not encrypted."""
    server_name: str = ""
    """Name that the server's certificate must have; left out: the host of `target`."""
    look_every: Duration = Field("10s", gt=0)  # type: ignore[assignment]
    """How often the files are looked at."""

    @model_validator(mode="after")
    def _pair(self) -> BackendTlsConfig:
        if (self.cert is None) != (self.key is None):
            raise ValueError("expected both `cert` and `key`, or neither")
        return self


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
    engine: Literal["grpcio", "envoy"] = "grpcio"
    """What carries the calls: gRPC for Python, or Envoy (extra `envoy`), which costs less where many are under way at a time."""
    processes: int = Field(1, ge=1, le=64)
    """With `engine: envoy`: processes on the one port, each for one core with a copy of the service in it."""
    max_connections: int = Field(10_000, ge=1)
    """With `engine: envoy`: connections that a process takes; one more is closed."""
    access_log: bool = False
    """With `engine: envoy`: a log line for each call."""
    tls: ServerTlsConfig | None = None
    """TLS of the gRPC port; left out: plain text. The HTTP port has metrics and probes, and stays plain."""
    mesh_identities: list[Identity] = []
    """With `tls.client_ca`: who is a hop of the mesh, as in `dns:gateway.infermesh.svc` or `uri:spiffe://mesh/*`.
    What others send in `x-infermesh-*` metadata (tenant, variant, shadow) is dropped; with an empty list, what anybody sends.
    A `*` stands for one part of a name: what is between dots, or between slashes of a URI."""

    @model_validator(mode="after")
    def _engine_can(self) -> ServerConfig:
        only = {"processes": self.processes > 1, "access_log": self.access_log}
        if self.engine != "envoy" and (given := [name for name, wanted in only.items() if wanted]):
            raise ValueError(f"{', '.join(given)}: expected `engine: envoy` with it")
        return self

    @model_validator(mode="after")
    def _identities_are_shown(self) -> ServerConfig:
        if self.mesh_identities and (self.tls is None or self.tls.client_ca is None):
            raise ValueError("mesh_identities: clients show who they are with `tls.client_ca` alone; expected it too")
        return self


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


class BreakerConfig(Model):
    """When something that keeps failing is left alone: a circuit breaker with two signals."""

    mode: Mode = "enforce"
    """`observe` counts when it would open, and goes on asking."""
    failures: int = Field(5, ge=1, le=1000)
    """Failures in a row that open it: no connection, no answer in time, an answer that is none."""
    success_ratio: float = Field(0.5, ge=0, le=1)
    """The other signal: a smaller share of successes among the calls of the window; 0: never."""
    min_calls: int = Field(20, ge=1, le=1_000_000)
    """Calls in the window before their ratio says anything."""
    window: Duration = Field("10s", gt=0)  # type: ignore[assignment]
    """How far back the ratio looks."""
    backoff: Duration = Field("500ms", gt=0)  # type: ignore[assignment]
    """How long it stays open before health is asked, and one call may try; doubles each time that such a call fails, and up
    to 2 s while health says no."""
    max_backoff: Duration = Field("10s", gt=0)  # type: ignore[assignment]
    """The longest of these pauses, but for jitter of a half."""
    patience: Duration = "100ms"  # type: ignore[assignment]
    """A call that ends at its deadline counts as a failure when it had this long, and nothing else was answered meanwhile."""

    def limits(self) -> BreakerLimits:
        return BreakerLimits(
            self.failures,
            self.success_ratio,
            self.min_calls,
            self.window,
            self.backoff,
            self.max_backoff,
            self.patience,
        )


class BackendConfig(Model):
    """Where another service of the mesh is."""

    target: str | list[str]
    """`host:port`, resolved by DNS and balanced over all its addresses, or a list of `IPv4 address:port`."""
    balance: Literal["round_robin", "p2c"] = "round_robin"
    """`round_robin`: each address in turn; `p2c`: of two that are drawn the one with fewer calls under way."""
    resolve_every: Duration = Field("5s", gt=0)  # type: ignore[assignment]
    """How often a name is looked up again; also at once, and at most every second, when an address fails."""
    breaker: BreakerConfig = BreakerConfig()
    """Leaves out an address that keeps failing, unless it is the last one."""
    keepalive: Duration = Field("30s", ge=10)  # type: ignore[assignment]
    """How often a connection without traffic is asked for a sign of life; one that gives none within 5 s is closed.
    A server of the mesh puts up with one each 10 s."""
    max_message: Size = Field("64MiB", ge=1, le=MAX_MESSAGE)  # type: ignore[assignment]
    """Largest message that is sent or taken."""
    margin: Duration = "2ms"  # type: ignore[assignment]
    """What is kept back of the remaining deadline for the way home."""
    tls: BackendTlsConfig | None = None
    """TLS to this service; left out: plain text."""
    via: Literal["grpc", "http2"] = "grpc"
    """`http2`: inferences in plain text go over a connection of their own that costs a third of grpc's; all else is as it is."""

    @field_validator("target")
    @classmethod
    def _has_ports(cls, target: str | list[str]) -> str | list[str]:
        several = isinstance(target, list)
        for each in target if isinstance(target, list) else [target]:
            host, _, port = each.rpartition(":")
            if not host or "/" in host or not port.isdecimal() or (several and not _IPV4.fullmatch(host)):
                raise ValueError(f"expected {'IPv4 addresses with ports' if several else 'host:port'}")
        if not target:
            raise ValueError("expected at least one address")
        return target

    @model_validator(mode="after")
    def _named(self) -> BackendConfig:
        if self.tls is not None and not self.tls.server_name and not isinstance(self.target, str):
            raise ValueError("tls: with a list of addresses expected `server_name`, the name in their certificate")
        return self


class ServiceConfig(Model):
    """The configuration of one service; each service adds its own parts. Made by `infermesh.config.load`."""

    model_config = SettingsConfigDict(env_nested_delimiter="__")  # read by `load`, which alone looks at the environment

    server: ServerConfig = ServerConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
