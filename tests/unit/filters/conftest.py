"""A request, and a clock that a test moves."""

from __future__ import annotations

import pytest

from infermesh.protocol.open_inference_pb2 import ModelInferRequest


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def request_() -> ModelInferRequest:
    return ModelInferRequest(model_name="m", model_version="2", id="1")
