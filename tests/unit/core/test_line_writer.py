"""The thread that writes: what it does when it can't."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infermesh import line_writer as writer_module
from infermesh.line_writer import LineWriter, Sink
from services.gateway.audit.sink import FileSink

ROOT = Path(__file__).parents[3]


class Disk(Sink):
    """Keeps what is written; each of `faults` is met once, by `write`: an error, or the number of bytes that it takes."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.data = b""
        self.let_go = threading.Event()
        self.let_go.set()
        self.entered = threading.Event()
        self.failed = threading.Semaphore(0)

    def write(self, data):
        self.entered.set()
        self.let_go.wait()
        fault = self.faults.pop(0) if self.faults else len(data)
        if isinstance(fault, OSError):
            self.failed.release()
            raise fault
        self.data += bytes(data[:fault])
        return min(fault, len(data))


def full():
    return OSError(errno.ENOSPC, "No space left on device")


def writing(sink, max_waiting=1000, give_up_s=60.0):
    return LineWriter(
        "audit", sink, max_waiting=max_waiting, give_up_s=give_up_s, line=lambda entry: f"{entry}\n".encode()
    )


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Tries come one after the other."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.001)


def test_what_waits_is_written_in_order_before_it_ends():
    """100,000 entries, the most of them while it writes."""
    disk = Disk()
    writer = writing(disk, max_waiting=100_000)
    writer.start()

    for number in range(100_000):
        writer.write(number)
    writer.close(60)

    assert disk.data.split() == [str(number).encode() for number in range(100_000)]
    assert (writer.written, writer.dropped, writer.failed) == (100_000, 0, 0)


def test_a_disk_that_hangs_holds_nobody_up():
    """Past the bound entries are dropped and counted, whoever writes is back at once, and closing has an end."""
    disk = Disk()
    disk.let_go.clear()
    writer = writing(disk, max_waiting=100)
    writer.start()
    writer.write(0)
    assert disk.entered.wait(20)

    for number in range(1, 100_001):
        writer.write(number)
    writer.close(0.01)

    assert writer.waiting == 100
    assert writer.dropped == 99_900
    disk.let_go.set()


def test_a_full_disk_is_tried_again_and_nothing_is_lost_or_written_twice():
    """It was full in the middle of a line: the line goes on where it was."""
    disk = Disk(3, full(), full(), 2, full())
    writer = writing(disk)
    writer.start()

    for number in range(10, 15):
        writer.write(number)
    for _ in range(3):
        assert disk.failed.acquire(timeout=20)
    writer.close(20)

    assert disk.data == b"10\n11\n12\n13\n14\n"
    assert (writer.written, writer.failed) == (5, 0)


def test_what_can_not_be_written_is_given_up_and_counted():
    """Without patience: whole lines that were written count, a torn one is ended before the next."""
    disk = Disk(4, full())  # "10\n1", then nothing more
    writer = writing(disk, give_up_s=0.0)
    writer.write(10)
    writer.write(11)
    writer.write(12)
    writer.start()
    assert disk.failed.acquire(timeout=20)
    writer.write(13)
    writer.close(20)

    assert disk.data == b"10\n1\n13\n"
    assert (writer.written, writer.failed, writer.dropped) == (2, 2, 0)


def test_an_entry_that_makes_no_line_is_one_entry():
    disk = Disk()

    def line(entry):
        if entry == 2:
            raise ValueError("as told")
        return f"{entry}\n".encode()

    writer = LineWriter("audit", disk, max_waiting=10, give_up_s=0, line=line)
    for number in (1, 2, 3):
        writer.write(number)
    writer.start()
    writer.close(20)

    assert disk.data == b"1\n3\n"
    assert (writer.written, writer.failed) == (2, 1)


def test_a_real_full_device(caplog):
    """/dev/full: every write is ENOSPC. It is told once, and closing gives up."""
    writer = writing(FileSink(Path("/dev/full"), 1 << 20, 1))
    for number in range(50):
        writer.write(number)
    writer.start()
    writer.close(0.2)

    assert (writer.written, writer.failed) == (0, 50)
    assert [each.message for each in caplog.records] == [
        "the audit can't be written: [Errno 28] No space left on device"
    ]


def test_a_real_pipe_that_nobody_reads(tmp_path):
    """The thread does not hang in it: what waits is given up at the end, and closing is over before its time."""
    os.mkfifo(tmp_path / "pipe")
    writer = writing(FileSink(tmp_path / "pipe", 1 << 20, 1), max_waiting=100)
    writer.start()
    for number in range(1000):
        writer.write(number)
    writer.close(2)

    assert writer.waiting == 0
    assert writer.written == 0
    assert writer.failed + writer.dropped == 1000


def test_a_file_past_the_limit_of_the_system(tmp_path):
    """RLIMIT_FSIZE of a process of its own: what did not fit is counted, and what is in the file are whole lines but the last."""
    script = """
import resource, signal, sys
from pathlib import Path
from infermesh.line_writer import LineWriter
from services.gateway.audit.sink import FileSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sink = FileSink(Path(sys.argv[1]), 1 << 20, 1)
writer = LineWriter("audit", sink, max_waiting=1000, give_up_s=0, line=lambda e: b"%08d\\n" % e)
for number in range(200):
    writer.write(number)
writer.start()
writer.close(20)
print(writer.written, writer.failed)
"""
    file = tmp_path / "audit.jsonl"

    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "111 89\n"
    assert file.read_bytes()[:999].splitlines() == [b"%08d" % number for number in range(111)]
