"""Logs: one JSON object a line on standard error, or text for people."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback

from infermesh.config import TelemetryConfig

__all__ = ["set_up_logs"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logs(service: str, config: TelemetryConfig) -> None:
    """Send the process's logs to standard error in the configured form. What is passed as `extra=` becomes a field."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Json(service) if config.log_format == "json" else logging.Formatter(f"%(levelname)-7s {service}: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    for noisy in ("grpc", "opentelemetry", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Json(logging.Formatter):
    """Fields: time (RFC 3339, UTC), level, service, logger, message, those of `extra`, and error with its traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            fields["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(fields, default=str)
