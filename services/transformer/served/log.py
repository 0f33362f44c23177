"""Hands what was served to a thread that writes it down, and never waits for that."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.call import Call
from infermesh.config import ConfigError
from infermesh.line_files import LineFiles
from infermesh.line_writer import LineWriter, Sink
from infermesh.names import explained_model
from infermesh.sample import is_sampled
from infermesh.telemetry import Metrics
from services.transformer.served.line import ServedEntry, line_of
from services.transformer.served.settings import ServedLogConfig

__all__ = ["PREFIX", "ServedLog", "served_log"]

PREFIX = "served"  # of the files' names
GIVE_UP_S = 5.0
MAX_ENTRIES = 100_000  # that wait; their bytes are bounded before
MAX_KNOWN = 10_000  # models whose share is kept in mind


class ServedLog:
    """Chooses the requests of the sample, and takes them. A request that is not chosen costs one comparison.

    Each one that was chosen is counted once: `written`, `failed` (a full disk), `dropped` when too much waited for the thread, or
    `too_large`.
    """

    def __init__(self, config: ServedLogConfig, sink: Sink) -> None:
        self._config = config
        self._shares: dict[str, float] = {}
        self._taken_bytes = 0  # by the loop alone, as `_done_bytes` is by the thread: no counter needs a lock
        self._done_bytes = 0
        self._dropped = 0
        self._too_large = 0
        self.writer = LineWriter(
            "log of served features", sink, max_waiting=MAX_ENTRIES, give_up_s=GIVE_UP_S, line=self._line, lines=2
        )

    @property
    def counts(self) -> dict[str, int]:
        """Requests of the sample by what became of them."""
        writer = self.writer
        return {
            "written": writer.written,
            "failed": writer.failed,
            "dropped": writer.dropped + self._dropped,
            "too_large": self._too_large,
        }

    def wants(self, model: str, call: Call) -> bool:
        """Whether this request is in the sample. Explanations are in none: nobody decides by what they look up."""
        share = self._shares.get(model)
        if share is None:
            if len(self._shares) >= MAX_KNOWN:
                self._shares.clear()
            share = self._shares[model] = self._configured(model)
        return share > 0 and (self._config.shadows or not call.shadow) and is_sampled(call.request_id, share)

    def take(self, served: ServedEntry) -> None:
        """Have it written, or count it as not."""
        size = served.size_bytes
        if size > self._config.max_request:
            self._too_large += 1
        elif self._taken_bytes - self._done_bytes + size > self._config.max_waiting:
            self._dropped += 1
        else:
            self._taken_bytes += size
            self.writer.write(served)

    def _configured(self, model: str) -> float:
        if explained_model(model):
            return 0.0
        models = self._config.models
        if model in models:
            return models[model]
        return next((share for name, share in models.items() if fnmatchcase(model, name)), self._config.share)

    def _line(self, served: ServedEntry) -> bytes:
        self._done_bytes += served.size_bytes
        return line_of(served)

    def __repr__(self) -> str:
        return f"ServedLog({self._config.share:g})"


class _Files(LineFiles):
    """Looks before each batch whether its file is still there: transformers that share a folder delete the oldest files of it,
    and what is written to one that was deleted is lost, though no write fails."""

    def prepare(self, size_bytes: int) -> None:
        self.look()
        super().prepare(size_bytes)


class ServedMetrics(Collector):
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_transformer_served_records_total` | service, outcome | requests of the sample by what became of them |
    """

    def __init__(self, metrics: Metrics, log: ServedLog) -> None:
        self._service = metrics.service
        self._log = log
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        name, text = "infermesh_transformer_served_records", "Requests of the log of served features."
        family = CounterMetricFamily(name, text, labels=("service", "outcome"))
        for outcome, count in self._log.counts.items():
            family.add_metric((self._service, outcome), count)
        yield family


@asynccontextmanager
async def served_log(config: ServedLogConfig, metrics: Metrics) -> AsyncIterator[ServedLog | None]:
    """A log that writes until this is left, which waits for what was taken; None where there is to be none.

    Raises ConfigError for a folder that can't be written to.
    """
    if config.mode == "off" or config.folder is None:
        yield None
        return
    await asyncio.to_thread(_check, config)
    log = ServedLog(config, _Files(config.folder, config.max_bytes, config.max_total, prefix=PREFIX))
    ServedMetrics(metrics, log)
    log.writer.start()
    try:
        yield log
    finally:
        await asyncio.to_thread(log.writer.close)


def _check(config: ServedLogConfig) -> None:
    try:
        with tempfile.TemporaryFile(dir=config.folder):
            return
    except OSError as error:
        raise ConfigError(
            str(config.folder), [f"served_log.folder: it can't be written to: {error.strerror}"]
        ) from None
