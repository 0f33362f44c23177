"""Logs that grow, that end in a torn line, and that hold what a table has no usual column for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from typer.testing import CliRunner

from infermesh.cli.features import app
from services.transformer.served import parts
from services.transformer.served.parts import Chosen, write_file
from services.transformer.served.records import files_of
from tests.unit.transformer.served.conftest import row

ROWS = {"c-1": row(1.5, 2, "x", [1, 2, 3])}


def made(folder: Path, target: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["log", str(folder), "--out", str(target), *options])


def rewritten(file: Path, change: Any) -> bytes:
    """The first line of a file of the log, changed."""
    fields = json.loads(file.read_bytes().splitlines()[0])
    change(fields)
    return json.dumps(fields).encode() + b"\n"


async def test_an_input_without_elements_is_an_empty_list(logging, asking, tmp_path):
    """A tensor [N, 0] is one that a model may get; the request is in the file like any other."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1", inputs={"nothing": np.zeros((1, 0), np.float32)}))

    done = made(tmp_path, tmp_path / "log.parquet")
    (kept,) = pq.read_table(tmp_path / "log.parquet").to_pylist()

    assert done.exit_code == 0
    assert kept["input.nothing"] == []
    assert kept["feature.card.limit"] == 1.5


async def test_a_record_that_is_no_table_costs_itself_alone(logging, asking, tmp_path):
    """Its line is JSON and has every field, and says a status that there is not: it is told, and the others are written."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    good = file.read_bytes()
    bad = rewritten(file, lambda fields: fields["statuses"].update(data="yMjIyA=="))
    file.write_bytes(bad + good)

    done = made(tmp_path, tmp_path / "out")
    single = made(tmp_path, tmp_path / "log.parquet")

    for each in (done, single):
        assert each.exit_code == 0
        assert each.output.splitlines()[0] == "m: 1 row of 1 request"
        assert "1 line could not be read and is passed over:" in each.output
        assert f"{file.name}, byte 0" in each.output.replace("\n", "")


async def test_a_line_without_its_end_is_told_with_its_place(logging, asking, tmp_path):
    """It is being written, or its process was killed; it is no damage, for its end may come."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    line = file.read_bytes()
    file.write_bytes(line + line[:-20])

    done = made(tmp_path, tmp_path / "out")

    assert done.output.splitlines()[0] == "m: 1 row of 1 request"
    assert "1 line has no end" in done.output
    assert f"{file.name}, byte {len(line)}" in done.output.replace("\n", "")
    assert "could not be read" not in done.output


async def test_what_comes_while_a_file_is_made_waits_for_the_next_one(logging, asking, tmp_path, monkeypatch):
    """Columns are told before rows are written: a record that comes between would lose those that only it has."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    late = rewritten(file, lambda fields: fields["inputs"].update(late=fields["inputs"]["declines"]))
    begun = parts._Part.__init__

    def growing(self: Any, *args: Any) -> None:
        with file.open("ab") as log:
            log.write(late)
        begun(self, *args)

    monkeypatch.setattr(parts._Part, "__init__", growing)
    summary = write_file(files_of([tmp_path]), tmp_path / "log.parquet", Chosen())
    monkeypatch.undo()
    again = write_file(files_of([tmp_path]), tmp_path / "again.parquet", Chosen())

    assert summary.rows == {"m": 1}
    assert pq.read_table(tmp_path / "log.parquet").num_rows == 1
    assert again.rows == {"m": 2}
    assert pq.read_table(tmp_path / "again.parquet")["input.late"].to_pylist() == [None, 2]


async def test_files_that_go_while_they_are_read_are_passed_over(logging, asking, tmp_path):
    """The transformer deletes the oldest for want of room."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    gone = tmp_path / "served-19700101T000000.000000Z-1.jsonl"
    files = [gone, *files_of([tmp_path])]

    summary = write_file(files, tmp_path / "log.parquet", Chosen())

    assert summary.rows == {"m": 1}


async def test_columns_are_shown_without_writing(logging, asking, tmp_path):
    """Those of each model, and what they became; nothing is written, and one of --schema and --out is needed."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    file.write_bytes(
        file.read_bytes() + rewritten(file, lambda fields: fields["inputs"].update(late=fields["inputs"]["declines"]))
    )

    done = CliRunner().invoke(app, ["log", str(tmp_path), "--schema"])
    wrong = [CliRunner().invoke(app, ["log", str(tmp_path), *more]) for more in ([], ["--schema", "--out", "x"])]

    first, second = done.output.split("as they became (2 of 2)")
    assert done.exit_code == 0
    assert "feature.card.spent" in first
    assert "fixed_size_list<item: float>[3]" in first
    assert ("input.late" in first, "input.late" in second) == (False, True)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    assert [str(each.exception) for each in wrong] == [
        "expected --out or --schema",
        "expected --out or --schema, not both",
    ]
