"""One loaded version of a model: its session, its instances, its statistics."""

from __future__ import annotations

import functools
from pathlib import Path

from infermesh.call import Call
from infermesh.errors import quoted
from infermesh.tensors import Array
from services.predictor.answers import Answers
from services.predictor.execution.session import Session
from services.predictor.execution.warm_up import timed_inline, warm_up
from services.predictor.known_inputs import KnownInputs
from services.predictor.model_config import ModelSettings
from services.predictor.response_cache import ResponseCache
from services.predictor.scheduling.batching import check_batchable
from services.predictor.scheduling.instances import Instances
from services.predictor.scheduling.row_independence import check_rows_independent, rows_are_independent
from services.predictor.scheduling.slices import Slices
from services.predictor.statistics import Statistics

__all__ = ["ModelVersion"]


class ModelVersion:
    """Runs one version. Made in a thread, warm when it is made; `close` when nobody will call `run` again: what runs is finished.

    `beside` is the folder with the files of warm-ups, which for a URL is elsewhere than that of the version.
    Runs happen in threads of this version's own, so that a model that hangs holds up no other. A version that its warm-up
    showed to be tiny runs on the event loop, for inputs no larger than those of the warm-up, until runs take longer.
    """

    def __init__(
        self, model: str, version: int, path: Path, settings: ModelSettings, beside: Path | None = None
    ) -> None:
        self.model = model
        self.version = version
        self.version_text = str(version)
        self.settings = settings
        self.statistics = Statistics()
        cache = settings.response_cache
        self.response_cache = ResponseCache(cache.max_bytes) if cache.enabled else None
        self.session = Session(model, version, path, settings.execution)
        self.signature = self.session.signature
        self.known_inputs, self.answers = KnownInputs(), Answers(self.version_text)
        self.size_bytes = self.session.size_bytes
        files = beside or path.parent.parent
        warm_up(self.session, settings.warm_up, files)
        self._datatypes = {spec.name: spec.datatype for spec in self.signature.outputs}
        if settings.batching.enabled:
            check_batchable(self.signature, unchecked=settings.batching.unchecked)
            check_rows_independent(self.session, model, version, settings, files)
        self._inline = timed_inline(self.session, path, settings.execution.inline_below)
        what = f"model {quoted(model)} version {version}"
        names = [name for name in self.signature.input_by_name if name not in self.signature.optional]
        self._instances = Instances(
            what,
            self.session.run,
            names=names,
            instances=settings.execution.instances,
            devices=len(self.session.devices),
            queue=settings.queue,
            batching=settings.batching,
            waited=self.statistics.waited,
            executed=self.statistics.executed,
        )
        checked = functools.partial(rows_are_independent, self.session, model, version, settings, files)
        independent = (lambda: True) if settings.batching.enabled else checked
        self._slices = Slices(what, self._instances, names, settings.execution.slice_rows, independent)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._instances.waiting

    @property
    def running(self) -> int:
        """Requests that are run in threads now."""
        return self._instances.running

    @property
    def runs_inline(self) -> bool:
        """Whether small requests run on the event loop."""
        return self._inline is not None and not self._inline.stopped

    async def run(
        self, arrays: dict[str, Array], outputs: list[str], call: Call, *, rows: int = 1, priority: int = 0
    ) -> list[tuple[str, str, Array]]:
        """The outputs as (name, datatype, array). Cancelling drops the run, or ends it if it has begun in a thread.

        What fits runs on the event loop, whatever the threads do, but not before one of its level or a higher one that waits for
        them: then it waits too, so that no request starts after a later one of its level.
        """
        instances = self._instances
        inline = self._inline
        level = instances.level(priority, shadow=call.shadow)
        if inline is not None and inline.fits(arrays) and not instances.is_waited_for(level):
            values, took_s = inline.run(self.session.run, arrays, outputs)
            self.statistics.waited(0.0)
            self.statistics.executed(1, rows, took_s)
        elif rows > self._slices.above:
            values = await self._slices.run(arrays, outputs, rows, level, call)
        else:
            values = await instances.run(arrays, outputs, rows, level, call)
        datatypes = self._datatypes
        return [(name, datatypes[name], value) for name, value in zip(outputs, values, strict=True)]

    def close(self, *, end_runs: bool = False) -> None:
        """Take no more runs; the session goes when the last one is done, or has been told to end."""
        self._instances.close(end_runs=end_runs)
        self.session.end_profile()
