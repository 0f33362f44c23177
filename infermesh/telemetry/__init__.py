"""What a service tells about itself: metrics, logs and spans; their schema is here and nowhere else."""

from typing import TYPE_CHECKING

from infermesh.lazy import lazily

if TYPE_CHECKING:
    from infermesh.telemetry.endpoints import EndpointMetrics
    from infermesh.telemetry.http import TelemetryServer
    from infermesh.telemetry.logs import set_up_logs
    from infermesh.telemetry.metrics import Metrics
    from infermesh.telemetry.tracing import Tracing

__all__ = ["EndpointMetrics", "Metrics", "TelemetryServer", "Tracing", "set_up_logs"]

__getattr__ = lazily(
    __name__,
    {
        "EndpointMetrics": "infermesh.telemetry.endpoints",
        "Metrics": "infermesh.telemetry.metrics",
        "TelemetryServer": "infermesh.telemetry.http",
        "Tracing": "infermesh.telemetry.tracing",
        "set_up_logs": "infermesh.telemetry.logs",
    },
)
