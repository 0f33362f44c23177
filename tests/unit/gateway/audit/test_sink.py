"""Files that are bounded."""

from __future__ import annotations

import errno
import os

import pytest

from services.gateway.audit.sink import FileSink


def put(sink, data):
    sink.prepare(len(data))
    assert sink.write(data) == len(data)


def test_a_full_file_becomes_the_first_of_the_earlier_ones(tmp_path):
    """Three of ten bytes, and of what was before them two files are kept."""
    sink = FileSink(tmp_path / "audit.jsonl", max_bytes=10, keep=2)

    for number in range(7):
        put(sink, f"line{number}\n".encode())  # 6 bytes: two do not fit

    files = {each.name: each.read_text() for each in tmp_path.iterdir()}
    assert files == {"audit.jsonl": "line6\n", "audit.jsonl.1": "line5\n", "audit.jsonl.2": "line4\n"}


def test_what_was_there_before_counts(tmp_path):
    """A gateway that starts again goes on with the file, and knows its size."""
    (tmp_path / "audit.jsonl").write_text("12345678\n")
    sink = FileSink(tmp_path / "audit.jsonl", max_bytes=10, keep=0)

    put(sink, b"new\n")

    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"audit.jsonl": "new\n"}


def test_a_line_that_was_cut_off_stays_a_line(tmp_path):
    """By a crash: the next one is not glued to it, and counts as what it is."""
    (tmp_path / "audit.jsonl").write_text('{"whole":1}\n{"torn":')
    sink = FileSink(tmp_path / "audit.jsonl", max_bytes=1000, keep=0)

    put(sink, b'{"next":1}\n')

    assert (tmp_path / "audit.jsonl").read_text() == '{"whole":1}\n{"torn":\n{"next":1}\n'


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path):
    """As logrotate does it, without a signal: no line goes to the file that was moved."""
    file = tmp_path / "audit.jsonl"
    sink = FileSink(file, max_bytes=1000, keep=1)
    put(sink, b"one\n")

    file.rename(tmp_path / "away")
    put(sink, b"two\n")

    assert ((tmp_path / "away").read_text(), file.read_text()) == ("one\n", "two\n")


def test_a_folder_that_is_removed_fails_until_it_is_back(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = FileSink(folder / "audit.jsonl", max_bytes=1000, keep=1)
    put(sink, b"one\n")
    (folder / "audit.jsonl").unlink()
    folder.rmdir()

    with pytest.raises(FileNotFoundError):
        sink.prepare(4)
    folder.mkdir()
    put(sink, b"two\n")

    assert (folder / "audit.jsonl").read_text() == "two\n"


def test_a_pipe_without_a_reader_fails_instead_of_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sink = FileSink(tmp_path / "pipe", max_bytes=1000, keep=1)

    with pytest.raises(OSError) as failed:
        sink.prepare(4)

    assert failed.value.errno == errno.ENXIO


def test_a_pipe_that_is_full_fails_instead_of_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(tmp_path / "pipe", max_bytes=1000, keep=1)
    try:
        with pytest.raises(BlockingIOError):
            for _ in range(1000):
                sink.prepare(4096)
                sink.write(b"x" * 4096)
    finally:
        sink.close()
        os.close(reader)


def test_who_may_read_it_are_operators(tmp_path):
    old = os.umask(0)
    try:
        FileSink(tmp_path / "audit.jsonl", max_bytes=1000, keep=1).prepare(0)
    finally:
        os.umask(old)

    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o640
