"""Logs: one JSON object a line, or text."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from infermesh.config import TelemetryConfig
from infermesh.telemetry import set_up_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger is the process's; a test gives it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_object_with_its_fields(capfd: pytest.CaptureFixture[str]) -> None:
    """Time, level, service, logger, message and what was passed as extra; a line break in a message makes no second line."""
    set_up_logs("gateway", TelemetryConfig())

    logging.getLogger("a.b").info("hello\n%s", "world", extra={"request_id": "r1", "odd": {1, 2}})

    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    fields = json.loads(lines[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields == {
        "level": "info",
        "service": "gateway",
        "logger": "a.b",
        "message": "hello\nworld",
        "request_id": "r1",
        "odd": "{1, 2}",
    }


def test_an_exception_is_in_the_line_of_its_message(capfd: pytest.CaptureFixture[str]) -> None:
    """With its traceback, as one field."""
    set_up_logs("gateway", TelemetryConfig())

    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("a").exception("failed")

    fields = json.loads(capfd.readouterr().err)
    assert fields["level"] == "error"
    assert "Traceback" in fields["error"] and "KeyError: 'x'" in fields["error"]


def test_the_level_is_a_bound(capfd: pytest.CaptureFixture[str]) -> None:
    """What is below it is not written, and libraries that talk much are kept at warnings."""
    set_up_logs("gateway", TelemetryConfig(log_level="info"))

    logging.getLogger("a").debug("no")
    logging.getLogger("grpc.x").info("no")
    logging.getLogger("grpc.x").warning("yes")

    assert [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()] == ["yes"]


def test_text_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    """Level, service and message."""
    set_up_logs("gateway", TelemetryConfig(log_format="text"))

    logging.getLogger("a").warning("careful")

    assert capfd.readouterr().err == "WARNING gateway: careful\n"
