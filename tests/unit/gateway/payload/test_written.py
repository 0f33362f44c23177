"""From the filter through the process that writes to the reader."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infermesh.call import Call
from infermesh.config import ConfigError
from infermesh.payloads import Payloads
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.gateway.payload import start
from services.gateway.payload.settings import PayloadLogConfig

RULES = [{"name": "amount", "how": "keep"}, {"name": "user", "how": "hash"}, {"name": "secret*", "how": "mask"}]


@asynccontextmanager
async def logging_to(folder, monkeypatch, **settings):
    """The filter as the gateway makes it, its feed, and its metrics."""
    feeds = []

    class Kept(start.Feed):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, pause_s=0.01, **options)
            feeds.append(self)

    monkeypatch.setattr(start, "Feed", Kept)
    given = {"mode": "file", "folder": str(folder), "share": 1.0, "redact": RULES, "salt": "0123456789abcdef"}
    config = PayloadLogConfig.model_validate({**given, **settings})
    metrics = Metrics("gateway")
    async with start.payload_logged(config, metrics, lambda model: model) as log:
        yield log, feeds[0], metrics


async def ask(log, request_id, user=b"42", secret="hide me", amount=12.5):
    request = pb.ModelInferRequest(model_name="fraud")
    request.inputs.add(name="amount", datatype="FP32", shape=[1]).contents.fp32_contents.append(amount)
    request.inputs.add(name="user", datatype="BYTES", shape=[1]).contents.bytes_contents.append(user)
    request.inputs.add(name="secret_note", datatype="BYTES", shape=[1]).contents.bytes_contents.append(secret.encode())

    async def answering(request, call):
        response = pb.ModelInferResponse(model_name="fraud", model_version="3")
        response.outputs.add(name="score", datatype="FP64", shape=[1]).contents.fp64_contents.append(0.25)
        return response

    await log(request, Call(request_id=request_id), answering)
    await asyncio.sleep(0)


def counted(metrics, outcome):
    return metrics.registry.get_sample_value(
        "infermesh_payload_records_total", {"service": "gateway", "outcome": outcome}
    )


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_written_is_read(tmp_path, monkeypatch):
    """All calls before the end, side by side with their answers; what is hidden is nowhere in the file."""
    async with logging_to(tmp_path, monkeypatch) as (log, _, _):
        for number in range(200):
            await ask(log, f"r{number}", amount=number / 4)

    payloads = Payloads(tmp_path, route="fraud", version="3")
    records = list(payloads)
    assert [each.request_id for each in records] == [f"r{number}" for number in range(200)]
    assert [each.inputs["amount"].values() for each in records] == [[number / 4] for number in range(200)]
    assert records[0].outputs["score"].values() == [0.25]
    assert len({each.inputs["user"].data[0] for each in records}) == 1
    with pytest.raises(ValueError, match="secret_note: its values are not in the log"):
        records[0].inputs["secret_note"].values()
    assert payloads.skipped == 0
    text = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"hide me" not in text and b"0123456789abcdef" not in text
    assert list(Payloads(tmp_path, route="iris")) == []


async def test_a_process_that_is_killed_costs_what_it_had(tmp_path, monkeypatch):
    """It is started again; its file is read up to where it was torn, and then the next one."""
    async with logging_to(tmp_path, monkeypatch) as (log, feed, metrics):
        await ask(log, "before")
        await until(lambda: counted(metrics, "written") == 1)
        os.kill(feed.pid, signal.SIGKILL)
        await until(lambda: feed.restarts == 1)
        (torn,) = tmp_path.iterdir()
        with torn.open("ab") as file:
            file.write(b'{"schema":1,"time":"2025-01-31T12:00:00Z","request_id":"to')
        await ask(log, "after")

    payloads = Payloads(tmp_path)
    assert [each.request_id for each in payloads] == ["before", "after"]
    assert payloads.skipped == 1
    assert len(list(tmp_path.iterdir())) == 2


async def test_a_folder_that_goes_is_counted_and_one_that_comes_back_used(tmp_path, monkeypatch):
    folder = tmp_path / "payloads"
    folder.mkdir()
    async with logging_to(folder, monkeypatch) as (log, _, metrics):
        folder.rmdir()
        await ask(log, "lost")
        await until(lambda: counted(metrics, "failed") == 1)
        folder.mkdir()
        await ask(log, "kept")

    assert [each.request_id for each in Payloads(folder)] == ["kept"]


async def test_past_the_bound_calls_are_dropped_and_nobody_waits(tmp_path, monkeypatch):
    """The process is stopped in its tracks (SIGSTOP): what does not fit any more is counted, and what fitted is written later."""
    async with logging_to(tmp_path, monkeypatch, max_waiting="64KiB") as (log, feed, metrics):
        await ask(log, "first")
        await until(lambda: counted(metrics, "written") == 1)
        os.kill(feed.pid, signal.SIGSTOP)
        try:
            number = 0
            while not counted(metrics, "dropped"):
                await ask(log, f"r{number}", secret="s" * 10_000)
                number += 1
                assert number < 10_000
            assert feed.waiting_bytes < 64 * 1024 + 20_000
        finally:
            os.kill(feed.pid, signal.SIGCONT)

    assert len(list(Payloads(tmp_path))) == 1 + number - 1


@pytest.mark.parametrize("missing", [True, False])
async def test_a_folder_that_can_not_be_written_to_is_refused_at_start(tmp_path, monkeypatch, missing):
    place = tmp_path / "there"
    if not missing:
        place.write_text("a file")

    with pytest.raises(ConfigError, match=r"payload_log\.folder: it can't be written to"):
        async with logging_to(place, monkeypatch):
            pass


def test_a_reader_needs_nothing_but_python(tmp_path):
    """Imported with none of the installed packages: whoever has the files can read them."""
    root = Path(__file__).parents[4]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from infermesh.payloads import Payloads; print('fine')"

    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"mode": "file"}, "expected `folder` with mode file"),
        ({"max_bytes": "1GiB", "max_total": "1GiB"}, "max_total: expected at least twice max_bytes"),
        ({"redact": [{"name": "id", "how": "hash"}], "salt": "short"}, "salt: expected at least 16 characters"),
        ({"share": 1.5}, "share"),
    ],
)
def test_settings_that_can_not_be_met_are_refused(settings, fault):
    with pytest.raises(ValueError, match=fault):
        PayloadLogConfig.model_validate(settings)
