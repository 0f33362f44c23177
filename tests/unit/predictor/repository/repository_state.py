"""What the tests of the repository look at: its index, its answers, and something that becomes true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from infermesh.call import Call
from infermesh.tensors import read_outputs

__all__ = ["answered", "index", "until"]


def index(predictor: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason by model and version."""
    return {(m.name, m.version): (m.state, m.reason) for m in predictor.repository.index().models}


async def answered(predictor: Any, request: Any) -> tuple[str, list[float]]:
    """The version that answered, and its output `y`."""
    response = await predictor.infer(request, Call())
    return response.model_version, read_outputs(response)["y"].tolist()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)
