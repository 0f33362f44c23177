"""What the engine is told: the part of a service's configuration that Envoy and the supervisor carry out."""

from __future__ import annotations

from dataclasses import dataclass, field

from infermesh.config import ServerConfig, TelemetryConfig

__all__ = ["Settings"]

MAX_PROCESSES = 64


@dataclass(frozen=True)
class Settings:
    """Times are seconds, sizes bytes."""

    service: str
    host: str
    grpc_port: int
    """0: any free one, the same for all processes."""
    http_port: int
    processes: int = 1
    max_streams: int = 1024
    """Calls that one connection may have open; HTTP/2 tells the client, who waits."""
    max_connections: int = 10_000
    """Connections of one process; more are closed before they are read."""
    max_connection_age_s: float = 0.0
    """0: never."""
    drain_s: float = 2.0
    grace_s: float = 20.0
    tls: bool = False
    mutual: bool = False
    """Clients show certificates; only with `tls`."""
    access_log: bool = False
    log_level: str = "info"
    log_json: bool = True
    # Of these a configuration says nothing: they bound what a caller can do without harm.
    headers_within_s: float = 10.0
    """Until TLS is made, until HTTP/2 has begun, and from a call's first byte to the end of its headers."""
    unread_s: float = 60.0
    """How long the rest of an answer waits in Envoy for a caller who does not take it; up to 1 MiB."""
    idle_s: float = 3600.0
    """A connection without a call for so long is closed gently."""
    ping_every_s: float = 60.0
    ping_within_s: float = 20.0
    """A connection whose ping is not answered in time is closed, with its calls."""
    start_within_s: float = field(default=30.0)
    """Until the program in Envoy answers at all; building the service may take longer."""

    @classmethod
    def of(
        cls,
        service: str,
        server: ServerConfig,
        telemetry: TelemetryConfig,
        *,
        processes: int = 1,
        max_connections: int = 10_000,
        access_log: bool = False,
    ) -> Settings:
        """From the configuration that both engines share, and what is this engine's alone."""
        return cls(
            service=service,
            host=server.host,
            grpc_port=server.grpc_port,
            http_port=server.http_port,
            processes=processes,
            max_connections=max_connections,
            max_connection_age_s=server.max_connection_age,
            drain_s=server.drain,
            grace_s=server.grace,
            tls=server.tls is not None,
            mutual=server.tls is not None and server.tls.client_ca is not None,
            access_log=access_log,
            log_level=telemetry.log_level,
            log_json=telemetry.log_format == "json",
        )
