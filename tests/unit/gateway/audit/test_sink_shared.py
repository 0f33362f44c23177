"""One audit file of several processes: those of a service on the engine envoy, and the two of a rolling restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.gateway.audit.sink import FileSink

LINE = b"0123456789\n"


def write(sink: FileSink, line: bytes = LINE) -> None:
    sink.prepare(len(line))
    sink.write(line)


def test_the_bound_holds_for_what_all_have_written(tmp_path: Path) -> None:
    """Each knows what the others have added: the file is as large as one writer's would be."""
    file = tmp_path / "audit.jsonl"
    sinks = [FileSink(file, max_bytes=3 * len(LINE), keep=5) for _ in range(3)]

    for turn in range(9):
        write(sinks[turn % 3])

    sizes = [each.stat().st_size for each in (file, Path(f"{file}.1"), Path(f"{file}.2"))]
    assert sizes == [3 * len(LINE)] * 3
    assert len([*tmp_path.iterdir()]) == 3


def test_a_full_file_is_moved_by_one_of_those_who_find_it_full(tmp_path: Path, monkeypatch: Any) -> None:
    """The other one was about to: it goes on in the new file instead of moving that, which would drop the oldest for nothing."""
    file = tmp_path / "audit.jsonl"
    first, second = (FileSink(file, max_bytes=2 * len(LINE), keep=5) for _ in range(2))
    for sink in (first, second):
        write(sink)
    was_moved = second._was_moved
    looks: list[bool] = []

    def look_before_the_other_moves_it() -> bool:
        looks.append(was_moved())
        if len(looks) == 1:
            write(first)
        return looks[-1]

    monkeypatch.setattr(second, "_was_moved", look_before_the_other_moves_it)
    write(second)

    assert looks == [False, True]
    assert file.read_bytes() == 2 * LINE
    assert Path(f"{file}.1").read_bytes() == 2 * LINE
    assert not Path(f"{file}.2").exists()
