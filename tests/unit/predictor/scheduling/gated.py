"""A model that runs when a test lets it, and instances before it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from infermesh.call import Call
from infermesh.deadline import NO_DEADLINE, Deadline
from infermesh.errors import Unavailable
from services.predictor.config import BatchingConfig, QueueConfig
from services.predictor.scheduling.instances import Instances

BAD = -1.0  # a value that makes a run fail
PATIENCE_S = 20.0


class Gated:
    """y = 10·x, row by row. Runs wait at `gate` while it is shut, and end when they are told to; `runs` has the rows of each."""

    def __init__(self, **settings: Any) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[list[float]] = []
        self.devices: list[int] = []
        self.executed: list[tuple[int, int]] = []
        self.waited: list[float] = []
        self.now = 0.0
        self.takes_s: Callable[[int], float] = lambda rows: 0.0  # by the clock of `deadline`
        self.extra_rows = 0
        batching = {"enabled": True, **settings.pop("batching", {})}
        names = settings.pop("names", ["x"])
        instances = {"instances": 1, "devices": 1} | {
            key: settings.pop(key) for key in ("instances", "devices") if key in settings
        }
        self.instances = Instances(
            "m",
            self._run,
            names=names,
            queue=QueueConfig(**settings),
            batching=BatchingConfig(**batching),
            waited=self.waited.append,
            executed=lambda requests, rows, seconds: self.executed.append((requests, rows)),
            **instances,
        )

    def _run(
        self, arrays: Any, outputs: list[str], options: Any = None, device: int = 0, requests: int = 1
    ) -> list[Any]:
        x = arrays["x"]
        self.devices.append(device)
        while not self.gate.wait(0.001):
            if options.terminate:
                raise Unavailable("ended")
        self.runs.append(x.reshape(len(x), -1)[:, 0].tolist())
        self.now += self.takes_s(len(x))
        if (x == BAD).any():
            raise ValueError(f"bad among {len(x)}")
        y = 10 * x
        return [np.concatenate([y, y[:1]]) if self.extra_rows and len(y) > 1 else y for _ in outputs]

    def deadline(self, seconds: float) -> Deadline:
        """By a clock that only `takes_s` moves."""
        return Deadline(self.now + seconds, lambda: self.now)

    def ask(
        self,
        *values: float,
        level: int = 1,
        deadline: Deadline = NO_DEADLINE,
        outputs: tuple[str, ...] = ("y",),
        x: Any = None,
        **others: Any,
    ) -> asyncio.Task[list[Any]]:
        """A request of one row for each value, begun."""
        array = np.array(values, np.float32) if x is None else x

        async def run() -> list[Any]:
            async with asyncio.timeout(PATIENCE_S):
                inputs = {"x": array, **others}
                return await self.instances.run(inputs, list(outputs), len(array), level, Call(deadline=deadline))

        return asyncio.ensure_future(run())

    async def hold(self, *values: float) -> asyncio.Task[list[Any]]:
        """A run that has begun and waits at the gate."""
        self.gate.clear()
        held = self.ask(*(values or (0.0,)))
        await turn()
        assert self.instances.busy
        return held


async def turn() -> None:
    """Let tasks that were just made, or cancelled, come to where they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)
