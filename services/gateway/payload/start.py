"""The payload log as the settings want it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.config import ConfigError
from infermesh.telemetry import Metrics
from services.gateway.payload.frames import SETTINGS
from services.gateway.payload.logged import PayloadLogged
from services.gateway.payload.settings import PayloadLogConfig
from services.gateway.worker import Feed

__all__ = ["PayloadMetrics", "payload_logged"]

MODULE = "services.gateway.payload"


@asynccontextmanager
async def payload_logged(
    config: PayloadLogConfig, metrics: Metrics, label: Callable[[str], str]
) -> AsyncIterator[PayloadLogged]:
    """The filter over a process that writes; what it was sent is written when this is left. Raises ConfigError for a folder that
    can't be written to. `label` gives a model as its route names it."""
    await asyncio.to_thread(_check, config)
    counts = PayloadMetrics(metrics)
    feed = Feed(
        "payload log",
        MODULE,
        max_bytes=config.max_waiting,
        observe=counts.observe,
        environment={SETTINGS: _settings(config)},
    )
    counts.read = lambda: feed.counters
    await feed.start()
    try:
        yield PayloadLogged(
            offer=feed.offer,
            label=label,
            share=config.share,
            models=config.models,
            max_call=config.max_call,
        )
    finally:
        await feed.close()


class PayloadMetrics(Collector):
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_payload_records_total` | service, outcome | calls of the payload log (below) |

    A call was `written`, or `failed` to be (a full disk), `dropped` when too much waited for the process that writes, or `lost`
    with one that ended. `written` and `failed` begin anew with that process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._counts = {"dropped": 0, "lost": 0}
        self.read: Callable[[], dict[str, float]] = dict
        metrics.registry.register(self)

    def observe(self, outcome: str, count: int) -> None:
        if outcome in self._counts:
            self._counts[outcome] += count

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("infermesh_payload_records", "Payloads.", labels=("service", "outcome"))
        told = self.read()
        outcomes = {each: told.get(each, 0.0) for each in ("written", "failed")}
        for outcome, count in {**outcomes, **self._counts}.items():
            family.add_metric((self._service, outcome), count)
        yield family


def _check(config: PayloadLogConfig) -> None:
    try:
        with tempfile.TemporaryFile(dir=config.folder):
            return
    except OSError as error:
        raise ConfigError(
            str(config.folder), [f"payload_log.folder: it can't be written to: {error.strerror}"]
        ) from None


def _settings(config: PayloadLogConfig) -> str:
    return json.dumps(
        {
            "folder": str(config.folder),
            "max_bytes": config.max_bytes,
            "max_total": config.max_total,
            "redact": [{"name": each.name, "how": each.how} for each in config.redact],
            "salt": config.salt.get_secret_value(),
        }
    )
