"""The audit as the settings want it."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from infermesh.config import ConfigError
from infermesh.line_writer import LineWriter, Sink
from infermesh.telemetry import Metrics
from services.gateway.audit.audited import Audited
from services.gateway.audit.line import line_of
from services.gateway.audit.metrics import AuditMetrics
from services.gateway.audit.settings import AuditConfig
from services.gateway.audit.sink import DescriptorSink, FileSink

__all__ = ["audited"]


@asynccontextmanager
async def audited(config: AuditConfig, metrics: Metrics, label: Callable[[str], str]) -> AsyncIterator[Audited]:
    """The filter over a writer that has begun; what waits when it is left is written. Raises ConfigError for a file that can't be
    appended to. `label` gives a model as its route names it."""
    writer = LineWriter(
        "audit",
        await asyncio.to_thread(_sink, config),
        max_waiting=config.max_waiting,
        give_up_s=config.give_up_after,
        line=line_of,
    )
    AuditMetrics(metrics, writer)
    writer.start()
    try:
        yield Audited(
            write=writer.write,
            label=label,
            sample=config.sample,
            failures=config.failures == "always",
            peer=config.peer,
        )
    finally:
        await asyncio.to_thread(writer.close)


def _sink(config: AuditConfig) -> Sink:
    if config.file is None or config.mode != "file":
        return DescriptorSink(sys.stdout.fileno())
    sink = FileSink(config.file, config.max_bytes, config.keep)
    try:
        sink.prepare(0)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe whose reader may come later
            raise ConfigError(str(config.file), [f"audit.file: it can't be appended to: {error.strerror}"]) from None
    return sink
