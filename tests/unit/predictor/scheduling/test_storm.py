"""Thousands of requests with everything at random, against the promises that hold for each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import numpy as np
import pytest

from infermesh.deadline import NO_DEADLINE
from infermesh.errors import DeadlineExceeded, ResourceExhausted
from tests.unit.predictor.scheduling.gated import BAD, Gated

REQUESTS = 2000


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_in_a_storm_every_promise_holds(seed: int) -> None:
    """Random rows, levels, shapes, deadlines, cancellations and bad members: who is answered gets its own rows, in time; bad ones
    fail alone; nothing is left in the queue."""
    draw = random.Random(seed)
    model = Gated(max_requests=200, batching={"max_rows": 32})
    ended: dict[float, float] = {}
    seen = 0

    def executed(requests: int, rows: int, seconds: float) -> None:
        nonlocal seen
        model.now += draw.uniform(0, 0.01)  # on the loop and nowhere else, so that a deadline is kept or not
        for run in model.runs[seen:]:
            ended.update(dict.fromkeys(run, model.now))
        seen = len(model.runs)

    model.instances._executed = executed
    calls, sent = [], []
    for at in range(1, REQUESTS + 1):
        bad = draw.random() < 0.02
        width = draw.choice([1, 1, 1, 2])
        x = np.full((draw.choice([1, 1, 2, 3, 8, 40]), width), BAD if bad else at, np.float32)
        deadline = NO_DEADLINE if draw.random() < 0.3 else model.deadline(draw.uniform(0.001, 0.2))
        outputs = draw.choice([("y",), ("y",), ("y", "w")])
        calls.append(model.ask(x=x, level=draw.randrange(3), deadline=deadline, outputs=outputs))
        sent.append((x, deadline, outputs))
        if draw.random() < 0.2:
            draw.choice(calls).cancel()
        if draw.random() < 0.1:
            await asyncio.sleep(0)
        if draw.random() < 0.02:
            await asyncio.sleep(0.001)
    results = await asyncio.gather(*calls, return_exceptions=True)

    outcomes: Counter[str] = Counter()
    for (x, deadline, outputs), result in zip(sent, results, strict=True):
        outcomes[type(result).__name__] += 1
        if isinstance(result, list):
            assert len(result) == len(outputs)
            assert all(np.array_equal(y, 10 * x) for y in result)
            assert ended[float(x.flat[0])] <= deadline.at
            assert x.flat[0] != BAD
        elif isinstance(result, ValueError):
            assert x.flat[0] == BAD
        else:
            assert isinstance(result, asyncio.CancelledError | DeadlineExceeded | ResourceExhausted), result
    assert outcomes["list"] > 100
    assert {"CancelledError", "ValueError", "DeadlineExceeded", "ResourceExhausted"} <= set(outcomes), outcomes
    assert (model.instances.waiting, model.instances.running, model.instances.busy) == (0, 0, 0)
    assert model.instances._queue.ahead(2) == (0, 0, 0)
    assert len(model.executed) < sum(map(len, model.runs))
    model.instances.close()
