"""Estimates by sampling, until they are good enough or the time is over."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, quoted
from services.explainer.config import DeadlineConfig
from services.explainer.estimate import Estimate, Floats
from services.explainer.methods.choose import Chosen
from services.explainer.methods.kernel import kernel
from services.explainer.methods.pace import Plan
from services.explainer.methods.permutation import permutation
from services.explainer.parameters import Parameters
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["sampled"]


async def sampled(
    chosen: Chosen,
    value: Value,
    base: Floats,
    predictions: Floats,
    players: int,
    parameters: Parameters,
    model: str,
    deadline: Deadline,
    config: DeadlineConfig,
    threads: Threads,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Estimate, None]:
    """Better and better estimates by `permutation` or `kernel`, at least one. Raises DeadlineExceeded when there was no time for
    one, and what the model raises."""
    reserve = min(config.reserve, deadline.remaining() / 5)
    plan = Plan(chosen.pairs, parameters.seed, deadline.less(reserve), parameters.tolerance)
    method = kernel if chosen.method == "kernel" else permutation
    told = False
    async with aclosing(method(value, base, predictions, players, plan, threads, clock)) as estimates:
        async for estimate in estimates:
            told = True
            yield estimate
    if not told:
        rows = len(predictions)
        fewest = "the fewest coalitions" if chosen.method == "kernel" else "one pair of permutations"
        raise DeadlineExceeded(
            f"model {quoted(model)}: the time was not enough for {fewest} of {players} features for {rows} "
            f"row{'s' * (rows != 1)} against {value.rows.backgrounds} background rows; ask with more time or fewer rows"
        )
