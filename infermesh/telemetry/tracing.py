"""Spans by OpenTelemetry, when an endpoint is set; without one there is no tracer and no filter that would ask it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from infermesh.call import Call
from infermesh.config import TelemetryConfig
from infermesh.errors import MeshError

__all__ = ["Tracing"]

CLOSE_S = 3.0  # of a stop, which has what the orchestrator leaves after drain and grace
EXPORT_TIMEOUT_S = 2.0  # for one batch with its retries; more would outlast the close


class Tracing:
    """The tracer of one service. `enabled` says whether a `Traced` filter is worth its place in the stack."""

    def __init__(self, service: str, config: TelemetryConfig) -> None:
        self.enabled = bool(config.otlp_endpoint)
        if not self.enabled:
            return
        # Imported here: the SDK takes 150 ms to import, and most runs have no endpoint.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": f"infermesh-{service}"})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(config.trace_share)))
        exporter = OTLPSpanExporter(
            endpoint=config.otlp_endpoint,
            insecure=not config.otlp_endpoint.startswith("https"),
            timeout=EXPORT_TIMEOUT_S,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("infermesh")
        self._propagator = TraceContextTextMapPropagator()
        self._name = f"{service} ModelInfer"
        self._kind = SpanKind.SERVER
        self._failed: Callable[[str], Status] = lambda what: Status(StatusCode.ERROR, what)
        self._in_context = set_span_in_context

    @contextmanager
    def span(self, model: str, version: str, call: Call) -> Iterator[Mapping[str, str]]:
        """A span round one call; yields the trace metadata for the hops below. An error is recorded and passes."""
        parent = self._propagator.extract(dict(call.trace))
        attributes: dict[str, str | bool] = {
            "rpc.system": "grpc",
            "infermesh.model": model,
            "infermesh.version": version,
            "infermesh.variant": call.variant,
            "infermesh.request_id": call.request_id,
            "infermesh.shadow": call.shadow,
        }
        span = self._tracer.start_span(self._name, parent, self._kind, attributes)
        below = dict(call.trace)
        self._propagator.inject(below, self._in_context(span))
        try:
            yield below
        except MeshError as error:
            span.set_status(self._failed(error.code))
            raise
        except BaseException as error:
            span.set_status(self._failed(type(error).__name__))
            raise
        finally:
            span.end()

    def close(self, within_s: float = CLOSE_S) -> None:
        """Send what is waiting; what can't be sent within the time is lost. Blocks the thread until then."""
        if not self.enabled:
            return
        # The SDK has no bound of its own: force_flush ignores its timeout (open-telemetry/opentelemetry-python#4568), and
        # shutdown waits half a minute for a collector that is away.
        closing = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        closing.start()
        closing.join(within_s)
