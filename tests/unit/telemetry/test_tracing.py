"""Spans, when an endpoint is set."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from infermesh.call import Call
from infermesh.config import TelemetryConfig
from infermesh.errors import NotFound
from infermesh.telemetry import Tracing
from infermesh.telemetry.tracing import CLOSE_S, EXPORT_TIMEOUT_S

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    kept = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def test_without_an_endpoint_there_is_nothing() -> None:
    """No tracer, no filter that would ask it, and closing does nothing."""
    tracing = Tracing("gateway", TelemetryConfig())

    assert not tracing.enabled
    tracing.close()


def test_a_span_continues_the_callers_trace(collector: tuple[Collector, str]) -> None:
    """Its parent is the caller's span, what is below gets the span as its parent, and state and baggage pass."""
    kept, endpoint = collector
    tracing = Tracing("gateway", TelemetryConfig(otlp_endpoint=endpoint))
    call = Call(
        trace={"traceparent": PARENT, "tracestate": "a=b", "baggage": "k=v"},
        request_id="r1",
        variant="canary",
        shadow=True,
    )

    with tracing.span("iris", "2", call) as below:
        pass
    tracing.close()

    (span,) = kept.spans
    assert span.trace_id.hex() == PARENT[3:35]
    assert span.parent_span_id.hex() == PARENT[36:52]
    assert below["traceparent"] == f"00-{PARENT[3:35]}-{span.span_id.hex()}-01"
    assert (below["tracestate"], below["baggage"]) == ("a=b", "k=v")
    assert dict(call.trace)["traceparent"] == PARENT
    attributes = {a.key: a.value.string_value or a.value.bool_value for a in span.attributes}
    assert attributes["infermesh.model"] == "iris"
    assert (attributes["infermesh.variant"], attributes["infermesh.request_id"], attributes["infermesh.shadow"]) == (
        "canary",
        "r1",
        True,
    )
    assert (span.name, kept.services) == ("gateway ModelInfer", {"infermesh-gateway"})


def test_errors_are_marked_and_pass(collector: tuple[Collector, str]) -> None:
    """Foreseen errors by their code, defects and cancellation by their class."""
    kept, endpoint = collector
    tracing = Tracing("gateway", TelemetryConfig(otlp_endpoint=endpoint))

    for error in (NotFound("gone"), KeyError("x"), asyncio.CancelledError()):
        with pytest.raises(type(error)), tracing.span("m", "", Call()):
            raise error
    tracing.close()

    assert [(s.status.code, s.status.message) for s in kept.spans] == [
        (2, "NOT_FOUND"),
        (2, "KeyError"),
        (2, "CancelledError"),
    ]


@pytest.mark.parametrize(("parent", "recorded"), [(None, 0), (PARENT, 1), (PARENT[:-2] + "00", 0)])
def test_a_callers_decision_is_kept(collector: tuple[Collector, str], parent: str | None, recorded: int) -> None:
    """The share holds for traces that start here; a trace that came in is recorded if its caller records it."""
    kept, endpoint = collector
    tracing = Tracing("gateway", TelemetryConfig(otlp_endpoint=endpoint, trace_share=0.0))

    with tracing.span("m", "", Call(trace={"traceparent": parent} if parent else {})) as below:
        pass
    tracing.close()

    assert len(kept.spans) == recorded
    assert int(below["traceparent"][-2:], 16) & 1 == recorded  # the sampled flag; another says how the id was made


def test_many_calls_at_once_keep_their_parents(collector: tuple[Collector, str]) -> None:
    """Spans of calls that overlap are siblings, not children of each other: nothing is kept per thread."""
    kept, endpoint = collector
    tracing = Tracing("gateway", TelemetryConfig(otlp_endpoint=endpoint))

    with tracing.span("a", "", Call()) as a, tracing.span("b", "", Call()) as b:
        assert a["traceparent"][3:35] != b["traceparent"][3:35]
    tracing.close()

    assert [s.parent_span_id for s in kept.spans] == [b"", b""]
    assert threading.current_thread() is threading.main_thread()


def test_the_sdk_is_not_loaded_for_nothing() -> None:
    """A run without an endpoint does not pay for importing it."""
    code = (
        "import sys, infermesh.telemetry as t, infermesh.config as c; t.Tracing('x', c.TelemetryConfig()); "
        "print('opentelemetry.sdk.trace' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert ended.stdout.strip() == "False"


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_collector_that_is_away_does_not_hold_the_exit(listening: bool) -> None:
    """What can't be sent within the bound is lost; closing waits no longer, whether nobody listens or nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        tracing = Tracing("gateway", TelemetryConfig(otlp_endpoint=endpoint))
        with tracing.span("m", "", Call()):
            pass

        started = time.monotonic()
        tracing.close(within_s=0.3)

        assert time.monotonic() - started < 0.8


def test_the_bounds_of_an_exit_are_short() -> None:
    """A pod that stops has seconds; the sending of a batch is over before the wait for it."""
    assert EXPORT_TIMEOUT_S < CLOSE_S <= 3
