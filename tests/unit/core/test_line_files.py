"""Files that are bounded, and together too."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infermesh.line_files import LineFiles

ROOT = Path(__file__).parents[3]
BEGAN = datetime(2025, 1, 31, 12, tzinfo=UTC)


def ticking():
    """A clock that goes on by a second whenever it is looked at."""
    times = (BEGAN + timedelta(seconds=each) for each in range(1_000_000))
    return lambda: next(times)


def written(folder):
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def test_files_together_stay_within_the_bound_at_every_moment(tmp_path):
    """The oldest go first, and what is left is the end of what was written."""
    files = LineFiles(tmp_path, prefix="payload", max_bytes=100, max_total=350, now=ticking())
    lines = [b"%07d\n" % number for number in range(500)]

    for line in lines:
        files.append(line)
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 350
        assert all(each.stat().st_size <= 100 for each in tmp_path.iterdir())

    kept = written(tmp_path).splitlines(keepends=True)
    assert kept == lines[-len(kept) :]
    assert len(kept) >= 24
    assert files.deleted >= 30


def test_what_others_left_counts_and_goes_first(tmp_path):
    (tmp_path / "payload-20240101T000000.000000Z-1.jsonl").write_bytes(b"x" * 300)
    (tmp_path / "something-else").write_bytes(b"x" * 300)

    LineFiles(tmp_path, prefix="payload", max_bytes=100, max_total=350, now=ticking()).append(b"new\n")

    assert sorted(each.name for each in tmp_path.iterdir()) == [
        f"payload-20250131T120000.000000Z-{os.getpid()}.jsonl",
        "something-else",
    ]


def test_a_folder_that_is_removed_fails_until_it_is_back(tmp_path):
    folder = tmp_path / "payloads"
    folder.mkdir()
    files = LineFiles(folder, prefix="payload", max_bytes=100, max_total=350, now=ticking())
    files.append(b"one\n")
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    files.look()

    with pytest.raises(FileNotFoundError):
        files.append(b"two\n")
    folder.mkdir()
    files.append(b"three\n")

    assert written(folder) == b"three\n"


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path):
    """RLIMIT_FSIZE of a process of its own cuts a line in two: it is taken back, and a shorter one has its place."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from infermesh.line_files import LineFiles
signal.signal({int(signal.SIGXFSZ)}, signal.SIG_IGN)
resource.setrlimit({resource.RLIMIT_FSIZE}, (100, 100))
files = LineFiles(Path(sys.argv[1]), 10_000, 30_000, prefix="payload")
files.append(b"x" * 89 + b"\\n")
try:
    files.append(b"y" * 49 + b"\\n")
except OSError as error:
    print(error.strerror)
files.append(b"z" * 9 + b"\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "File too large\n"
    assert written(tmp_path) == b"x" * 89 + b"\n" + b"z" * 9 + b"\n"
