"""One loaded version of a model: its session, its instances, its statistics."""

from __future__ import annotations

from pathlib import Path

from infermesh.call import Call
from infermesh.errors import quoted
from infermesh.tensors import Array
from services.predictor.model_config import ModelSettings
from services.predictor.session import Session
from services.predictor.statistics import Statistics
from services.predictor.threads import Threads
from services.predictor.warm_up import timed_inline

__all__ = ["ModelVersion"]


class ModelVersion:
    """Runs one version. Made in a thread, warm when it is made; `close` when nobody will call `run` again: what runs is finished.

    Runs happen in threads of this version's own, so that a model that hangs holds up no other. A version that its warm-up
    showed to be tiny runs on the event loop, for inputs no larger than those of the warm-up, until runs take longer.
    """

    def __init__(self, model: str, version: int, path: Path, settings: ModelSettings) -> None:
        self.model = model
        self.version = version
        self.version_text = str(version)
        self.settings = settings
        self.statistics = Statistics()
        self.session = Session(model, version, path, settings.execution)
        self.signature = self.session.signature
        self.size_bytes = self.session.size_bytes
        self._inline = timed_inline(self.session, path, settings.execution.inline_below)
        self._threads = Threads(
            f"model {quoted(model)} version {version}", settings.execution.instances, settings.queue.max_requests
        )

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._threads.waiting

    @property
    def runs_inline(self) -> bool:
        """Whether small requests run on the event loop."""
        return self._inline is not None and not self._inline.stopped

    async def run(
        self, arrays: dict[str, Array], outputs: list[str], call: Call, *, rows: int = 1, priority: int = 0
    ) -> list[tuple[str, str, Array]]:
        """The outputs as (name, datatype, array). Cancelling drops the run, or ends it if it has begun in a thread."""
        inline = self._inline
        if inline is not None and inline.fits(arrays):
            values, took = inline.run(lambda: self.session.run(arrays, outputs))
            waited = 0.0
        else:
            values, waited, took = await self._threads.run(
                lambda options: self.session.run(arrays, outputs, options), call
            )
        self.statistics.waited(waited)
        self.statistics.executed(1, rows, took)
        specs = self.signature.output_by_name
        return [(name, specs[name].datatype, value) for name, value in zip(outputs, values, strict=True)]

    def close(self, *, end_runs: bool = False) -> None:
        """Take no more runs; the session goes when the last one is done, or has been told to end."""
        self._threads.close(end_runs=end_runs)
