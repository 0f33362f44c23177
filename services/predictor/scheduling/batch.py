"""Requests that are run together, in the thread of an instance."""

from __future__ import annotations

import math
import time
from typing import Protocol

import numpy as np
import onnxruntime as ort

from infermesh.tensors import Array
from services.predictor.scheduling.estimate import Estimate
from services.predictor.scheduling.part import Part
from services.predictor.scheduling.request import Request

__all__ = ["Batch", "Run"]


class Run(Protocol):
    """One run of the model, as `Session.run` does it; it blocks."""

    def __call__(
        self, arrays: dict[str, Array], outputs: list[str], options: ort.RunOptions, device: int, requests: int
    ) -> list[Array]: ...


class Batch:
    """One request, or several of equal keys, on one instance.

    `execute` happens in a thread and gives every member its own `values` or `error`, or none to those that went away or whose
    deadline passed before their turn. Everything else happens on the event loop, also while it executes: members go away at any
    time, and the last one to go ends the run.

    `runs` has requests (later slices of one not counted), rows, input bytes and seconds of each run that succeeded, `cut_short`
    input bytes and seconds of those that were told to end. `split` says that a run of several failed, `unsplittable` what made
    one useless for all of them.
    """

    __slots__ = ("_ended", "_part", "_rest", "cut_short", "members", "runs", "split", "unsplittable")

    def __init__(self, members: list[Request], began: float) -> None:
        self.members = members
        self.runs: list[tuple[int, int, int, float]] = []
        self.cut_short: list[tuple[int, float]] = []
        self.split = False
        self.unsplittable = ""
        self._ended = False
        self._rest: list[Part] = []  # to be run after the one that runs, last one first
        self._part = Part(members, began)
        for request in members:
            request.leave = self.leave
            request.began = began

    def leave(self, request: Request) -> None:
        """A member went away. Its answer is done before this is called, which `execute` relies on."""
        part = self._part
        if not part.is_waited_for():
            part.options.terminate = True  # ONNX Runtime looks at it before each operator

    def end(self) -> None:
        """End the run, for all members."""
        self._ended = True
        self._part.options.terminate = True

    def expected_s(self, estimate: Estimate, now: float) -> float:
        """Seconds until all of it is expected to be done, at `now` of `time.perf_counter`: what runs, and after a failure the
        parts that are left. A run that takes longer than expected is taken to end now."""
        part = self._part
        expected = max(0.0, part.began + estimate.seconds_as_seen(part.size_bytes) - now)
        if self.split:
            rest = list(self._rest)
            expected += sum(estimate.seconds_as_seen(each.size_bytes) for each in rest)
            # One of them is to fail again: two halves of it, two of the half that fails, and so on.
            largest = max([part, *rest], key=lambda each: len(each.members))
            halvings = math.ceil(math.log2(len(largest.members)))
            expected += 2 * sum(estimate.seconds_as_seen(largest.size_bytes / 2**at) for at in range(1, halvings + 1))
        return expected

    def execute(self, run: Run, device: int) -> None:
        """Run together; when that fails each half by itself, down to single members: one is failed by a run of its own and by no
        other. Raises nothing."""
        rest = self._rest
        rest.append(self._part)
        while rest:
            part = rest.pop()
            part.began = time.perf_counter()
            self._part = part  # before the next line: who goes away after it finds what to end
            members = [m for m in part.members if not m.answer.done() and not m.deadline.expired]
            if self._ended:
                part.options.terminate = True
            if members and not self._run_part(run, device, members, part.options):
                rest.extend(reversed(part.pieces(singly=self._ended or bool(self.unsplittable))))

    def _run_part(self, run: Run, device: int, members: list[Request], options: ort.RunOptions) -> bool:
        """Whether each of the members now has its values or its error."""
        first = members[0]
        alone = len(members) == 1
        started = time.perf_counter()
        try:
            arrays = first.arrays
            if not alone:
                arrays = {name: np.concatenate([m.arrays[name] for m in members]) for name in arrays}
                started = time.perf_counter()
            values = run(arrays, first.outputs, options, device, len(members))
            took_s = time.perf_counter() - started
        except (
            Exception
        ) as error:  # the caller's of a single request, who waits for it on the event loop; else nobody's yet
            if options.terminate:
                self.cut_short.append((sum(m.size_bytes for m in members), time.perf_counter() - started))
            elif not alone:
                self.split = True
            if alone:
                first.error = error
            return alone
        if alone:
            first.values = values
        elif not self._divided(members, values):
            return False
        begun = sum(not m.follows for m in members)
        self.runs.append((begun, sum(m.rows for m in members), sum(m.size_bytes for m in members), took_s))
        return True

    def _divided(self, members: list[Request], values: list[Array]) -> bool:
        """Whether every output had a row for each row that went in, so that each member got its own."""
        rows = sum(m.rows for m in members)
        for name, value in zip(members[0].outputs, values, strict=True):
            if not value.ndim or len(value) != rows:
                self.unsplittable = f"output {name}: {rows} rows in, shape {list(value.shape)} out"
                return False
        start = 0
        for member in members:
            end = start + member.rows
            member.values = [value[start:end] for value in values]
            start = end
        return True
