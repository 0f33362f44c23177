"""A span round each call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from infermesh.call import Call
from infermesh.errors import NotFound
from infermesh.filters import Traced
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse


class Spans:
    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def span(self, model: str, version: str, call: Call) -> Iterator[Mapping[str, str]]:
        self.log.append(f"open {model} {version}")
        try:
            yield {**call.trace, "traceparent": "ours"}
        except NotFound:
            self.log.append("error")
            raise
        finally:
            self.log.append("close")


async def test_what_is_below_sees_the_span_as_its_parent(request_: ModelInferRequest) -> None:
    """The call that goes on carries the span's trace, the one that came keeps its own."""
    spans, call = Spans(), Call(trace={"traceparent": "theirs", "baggage": "b"})

    async def then(request: ModelInferRequest, below: Call) -> ModelInferResponse:
        spans.log.append(str(dict(below.trace)))
        return ModelInferResponse(id="answer")

    response = await Traced(spans.span)(request_, call, then)

    assert response.id == "answer"
    assert spans.log == ["open m 2", "{'traceparent': 'ours', 'baggage': 'b'}", "close"]
    assert call.trace["traceparent"] == "theirs"


async def test_an_error_passes_through_the_span(request_: ModelInferRequest) -> None:
    """The span sees what goes wrong below it, and changes nothing about it."""
    spans = Spans()

    async def then(request: ModelInferRequest, below: Call) -> ModelInferResponse:
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        await Traced(spans.span)(request_, Call(), then)

    assert spans.log[1:] == ["error", "close"]
