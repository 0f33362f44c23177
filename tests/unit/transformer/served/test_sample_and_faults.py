"""Which requests are logged, and what becomes of those that can't be."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from infermesh.call import Call
from infermesh.config import ConfigError
from infermesh.line_writer import Sink
from infermesh.telemetry import Metrics
from services.transformer.served import line as line_module
from services.transformer.served.log import ServedLog, served_log
from services.transformer.served.settings import ServedLogConfig
from tests.unit.transformer.served.conftest import row

ROWS = {"c-1": row(1.5, 2, "x", [1, 2, 3])}


class Disk(Sink):
    """Takes everything when it is let, or refuses."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.go = threading.Event()
        self.lines = b""

    def write(self, data):
        self.go.wait()
        if self.error is not None:
            raise self.error
        self.lines += bytes(data)
        return len(data)


def config(folder: Path, **settings) -> ServedLogConfig:
    return ServedLogConfig.model_validate({"mode": "file", "folder": str(folder), **settings})


def test_the_share_is_that_of_the_model(tmp_path):
    """By request id; an exact name before a pattern; neither shadows nor explanations."""
    log = ServedLog(config(tmp_path, share=0.25, models={"m*": 0.0, "mine": 1.0}), Disk())
    calls = [Call(request_id=str(number)) for number in range(4000)]

    assert sum(log.wants("fraud", call) for call in calls) == pytest.approx(1000, abs=150)
    assert all(log.wants("mine", call) for call in calls)
    assert not any(log.wants("model", call) for call in calls)
    assert not log.wants("mine-explainer", calls[0])
    assert not log.wants("mine", Call(request_id="1", shadow=True))
    assert ServedLog(config(tmp_path, share=1, shadows=True), Disk()).wants("m", Call(request_id="1", shadow=True))


async def test_off_is_no_log(tmp_path):
    async with served_log(ServedLogConfig(), Metrics("transformer")) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_can_t_be_written_to_is_told_at_start(tmp_path):
    with pytest.raises(ConfigError, match=r"served_log\.folder: it can't be written to"):
        async with served_log(config(tmp_path / "nowhere"), Metrics("transformer")):
            pass


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "file"}, "expected `folder` with mode file"),
        ({"max_total": "1MiB", "max_bytes": "1MiB"}, "expected at least twice max_bytes"),
        ({"share": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_can_t_be(settings, text):
    with pytest.raises(ValueError, match=text):
        ServedLogConfig.model_validate(settings)


async def test_large_requests_and_what_waits_too_long_are_counted(logging, asking, tmp_path):
    """Nothing of them is kept, and the call is answered as ever."""
    async with logging(ROWS, max_request="1KiB") as mesh:
        await mesh.ask(asking(*["c-1"] * 100))
        assert mesh.log.counts == {"written": 0, "failed": 0, "dropped": 0, "too_large": 1}

    disk = Disk()
    log = ServedLog(config(tmp_path, share=1, max_waiting="64KiB"), disk)
    log.writer.start()
    async with logging(ROWS) as mesh:
        taken = []
        mesh.log.take = taken.append
        await mesh.ask(asking(*["c-1"] * 100))
    entries = 0
    while not log.counts["dropped"]:
        log.take(taken[0])
        entries += 1
    disk.go.set()
    await asyncio.to_thread(log.writer.close, 20)

    assert entries * taken[0].size_bytes > 2**16
    assert log.counts["written"] == entries - 1
    assert disk.lines.count(b"\n") == entries - 1


async def test_a_full_disk_costs_no_call(logging, asking, tmp_path, monkeypatch):
    """What can't be written is counted as failed."""
    monkeypatch.setattr("services.transformer.served.log.GIVE_UP_S", 0.0)
    disk = Disk(OSError(errno.ENOSPC, "No space left on device"))
    disk.go.set()
    async with logging(ROWS) as mesh:
        taken = []
        mesh.log.take = taken.append
        await mesh.ask(asking("c-1"))
    log = ServedLog(config(tmp_path, share=1), disk)
    log.writer.start()
    log.take(taken[0])
    await asyncio.to_thread(log.writer.close, 20)

    assert log.counts == {"written": 0, "failed": 1, "dropped": 0, "too_large": 0}


async def test_an_entry_that_can_t_be_made_a_line_of_costs_no_other(logging, asking, monkeypatch):
    """A fault of ours, in the thread, is counted and logged."""
    made = line_module.line_of
    faults = iter([RuntimeError("a fault")])

    def failing(served):
        for fault in faults:
            raise fault
        return made(served)

    monkeypatch.setattr("services.transformer.served.log.line_of", failing)
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
        await mesh.ask(asking("c-1"))
        log = mesh.log

    assert log.counts == {"written": 1, "failed": 1, "dropped": 0, "too_large": 0}


async def test_a_file_that_was_removed_is_begun_anew(logging, asking, tmp_path):
    """Another transformer deletes the oldest files for want of room, one that is still written to may be among them."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
        async with asyncio.timeout(20):
            while mesh.log.counts["written"] < 1:
                await asyncio.sleep(0)
        (file,) = tmp_path.glob("served-*.jsonl")
        file.unlink()
        await mesh.ask(asking("c-1"), request_id="r-2")
        log = mesh.log

    (file,) = tmp_path.glob("served-*.jsonl")
    assert '"request_id":"r-2"' in file.read_text()
    assert log.counts == {"written": 2, "failed": 0, "dropped": 0, "too_large": 0}
