"""Instances whose runs wait until a test lets them go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.unit.predictor.scheduling.gated import Gated


@pytest.fixture
async def gated() -> AsyncIterator[Callable[..., Gated]]:
    """`gated(batching={…})`: a model behind a gate, whose instances are ended with the test."""
    made: list[Gated] = []

    def make(**settings: Any) -> Gated:
        made.append(Gated(**settings))
        return made[-1]

    yield make
    for model in made:
        model.gate.set()
        model.instances.close(end_runs=True)
