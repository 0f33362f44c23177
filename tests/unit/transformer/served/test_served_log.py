"""What was served, in the log and as Parquet: values, statuses, times, and what training can make of them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infermesh.cli.features import app
from infermesh.errors import Unavailable
from tests.unit.transformer.served.conftest import FORMAT, NOW_S, row

ROWS = {
    "c-1": row(1.5, 2, "Köln", [0.5, math.nan, -0.0]),
    "c-2": row(7.0, None, "", [1, 2, 3], ages_s=(7200.0, 60.0)),  # the batch is too old, declines are null
    "c-3": row(3.0, 4, "x", [0, 0, 0], ages_s=(1.0, None)),
}


def made(folder: Path, target: Path, *options: str) -> Any:
    """The command's result."""
    return CliRunner().invoke(app, ["log", str(folder), "--out", str(target), *options])


def read(target: Path) -> list[dict[str, Any]]:
    return pq.read_table(target).to_pylist()


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_row_of_the_file_is_what_the_model_got(logging, asking, tmp_path, raw):
    """Values as they were served, each with its status; event times where there are any; the model's inputs to the bit."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1", "c-2", "nobody", raw=raw), variant="canary")
        (inputs,) = mesh.inputs

    done = made(tmp_path, tmp_path / "log.parquet")
    rows = read(tmp_path / "log.parquet")

    assert (done.exit_code, done.output.splitlines()[0]) == (0, "m: 3 rows of 1 request")
    assert [each["entity.card_id"] for each in rows] == ["c-1", "c-2", "nobody"]
    assert [each["row"] for each in rows] == [0, 1, 2]
    assert {(each["request_id"], each["model"], each["variant"], each["status"]) for each in rows} == {
        ("r-1", "m", "canary", "OK")
    }
    assert rows[0]["served_at"] == datetime.fromtimestamp(NOW_S, UTC)
    assert [each["feature.card.limit"] for each in rows] == [1.5, 100.0, 100.0]
    assert [each["status.card.limit"] for each in rows] == ["present", "defaulted", "missing"]
    assert [each["feature.card.declines"] for each in rows] == [2, 1, 1]
    assert [each["status.card.declines"] for each in rows] == ["present", "null", "missing"]
    assert [each["feature.card.home"] for each in rows] == ["Köln", "", "?"]
    assert str(rows[0]["feature.card.spent"]) == "[0.5, nan, -0.0]"
    assert [each["event_time.card.batch"] for each in rows] == [datetime.fromtimestamp(NOW_S - 1, UTC), None, None]
    assert rows[1]["event_time.card.live"] == datetime.fromtimestamp(NOW_S - 60, UTC)
    assert {each["schema.card"] for each in rows} == {f"{FORMAT.fingerprint:08x}"}
    assert [each["request.amount"] for each in rows] == [10.0, 11.0, 12.0]
    for name in ("x", "spent", "declines"):
        kept = np.array([each[f"input.{name}"] for each in rows], inputs[name].dtype).reshape(inputs[name].shape)
        assert kept.tobytes() == inputs[name].tobytes()
    assert [each["input.home"].encode() for each in rows] == inputs["home"].ravel().tolist()


async def test_what_was_logged_gives_the_models_inputs_again(logging, asking, tmp_path):
    """The features and fields of a row, put through the same service by overrides, make the same inputs to the bit."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
        (before,) = mesh.inputs
    made(tmp_path, tmp_path / "log.parquet")
    (kept,) = read(tmp_path / "log.parquet")

    given = {
        "infermesh_feature.card.limit": np.array([[kept["feature.card.limit"]]], np.float64),
        "infermesh_feature.card.declines": np.array([[kept["feature.card.declines"]]], np.int64),
        "infermesh_feature.card.home": [kept["feature.card.home"].encode()],
        "infermesh_feature.card.spent": np.array([kept["feature.card.spent"]], np.float32),
        "amount": np.array([[kept["request.amount"]]], np.float64),
    }
    async with logging({}, folder=tmp_path) as mesh:
        await mesh.ask(asking(kept["entity.card_id"], inputs=given))
        (after,) = mesh.inputs
    made(tmp_path, tmp_path / "again.parquet")

    assert {name: array.tobytes() if array.dtype != object else array.tolist() for name, array in after.items()} == {
        name: array.tobytes() if array.dtype != object else array.tolist() for name, array in before.items()
    }
    assert {value for name, value in read(tmp_path / "again.parquet")[1].items() if name.startswith("status.")} == {
        "overridden"
    }


async def test_what_is_served_without_the_store_says_so(logging, asking, tmp_path):
    """Defaults are rows like others, and their statuses tell."""
    async with logging(None) as mesh:
        await mesh.ask(asking("c-1"))

    made(tmp_path, tmp_path / "log.parquet")
    (kept,) = read(tmp_path / "log.parquet")

    assert (kept["feature.card.limit"], kept["status.card.limit"]) == (100.0, "defaulted")
    assert kept["event_time.card.batch"] is None


async def test_calls_that_failed_are_there_with_their_status(logging, asking, tmp_path):
    """What a model did not answer was looked up all the same; training may leave it out."""
    async with logging(ROWS, error=Unavailable("the model is away")) as mesh:
        with pytest.raises(Unavailable):
            await mesh.ask(asking("c-1"))

    made(tmp_path, tmp_path / "log.parquet")

    assert [(each["status"], each["version"]) for each in read(tmp_path / "log.parquet")] == [("UNAVAILABLE", "")]


async def test_ids_that_are_no_utf_8(logging, asking, tmp_path):
    """Ids may be any bytes; the file has a text for each."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking(b"\xff\x00a", "ü"))

    made(tmp_path, tmp_path / "log.parquet")

    assert [each["entity.card_id"] for each in read(tmp_path / "log.parquet")] == ["\\xff\x00a", "ü"]


async def test_a_folder_grows_by_what_is_new_and_by_nothing_twice(logging, asking, tmp_path):
    """Runs that overlap, and one that was interrupted before it was written down, add no row twice."""
    folder, target = tmp_path / "log", tmp_path / "out"
    folder.mkdir()
    async with logging(ROWS, folder=folder) as mesh:
        await mesh.ask(asking("c-1"))
    first = made(folder, target)
    state = (target / ".features-log.json").read_bytes()
    async with logging(ROWS, folder=folder) as mesh:
        await mesh.ask(asking("c-2"))
        await mesh.ask(asking("c-3"), request_id="r-2")
    made(folder, target)
    (target / ".features-log.json").write_bytes(state)

    again = made(folder, target)
    nothing = made(folder, target)

    assert first.output.splitlines()[0] == "m: 1 row of 1 request"
    assert again.output.splitlines()[0] == "m: 2 rows of 2 requests"
    assert nothing.output.splitlines()[0] == "nothing new"
    files = sorted((target / "m").glob("*.parquet"))
    assert sorted(each["entity.card_id"] for file in files for each in read(file)) == ["c-1", "c-2", "c-3"]
    assert not list(target.rglob(".*.parquet.*"))


async def test_lines_that_are_damaged_or_torn_cost_themselves_alone(logging, asking, tmp_path):
    """A line that is not JSON, one of another schema, and one without its end, which is read when it has come."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    line = file.read_bytes()
    file.write_bytes(b'{"schema": 1\n' + line.replace(b'"schema":1', b'"schema":9', 1) + line + line[:-20])

    done = made(tmp_path, tmp_path / "out")
    file.write_bytes(file.read_bytes() + line[-20:])
    later = made(tmp_path, tmp_path / "out")

    assert done.output.splitlines()[0] == "m: 1 row of 1 request"
    assert "2 lines could not be read and are passed over:" in done.output
    assert "byte 0" in done.output
    assert later.output.splitlines()[0] == "m: 1 row of 1 request"


async def test_records_are_chosen_by_model_and_time(logging, asking, tmp_path):
    """--since is the first moment that counts, --until the first that does not."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    at = datetime.fromtimestamp(NOW_S, UTC).isoformat()

    rows = [
        made(tmp_path, tmp_path / f"{number}.parquet", *options).output.splitlines()[0]
        for number, options in enumerate(
            [("--since", at), ("--until", at), ("--model", "m"), ("--model", "other"), ("--since", "2023-11-15")]
        )
    ]

    assert rows == ["m: 1 row of 1 request", "no rows were chosen"] + [
        "m: 1 row of 1 request",
        "no rows were chosen",
    ] * 1 + ["no rows were chosen"]


async def test_columns_that_changed_make_another_part_and_no_single_file(logging, asking, tmp_path):
    """As after a change of the feature file; a column that only some have is null in the others."""
    async with logging(ROWS) as mesh:
        await mesh.ask(asking("c-1"))
    (file,) = tmp_path.glob("served-*.jsonl")
    fields = json.loads(file.read_bytes())
    more = json.loads(json.dumps(fields))
    more["inputs"]["extra"] = more["inputs"]["declines"]
    other = json.loads(json.dumps(fields))
    other["request"]["amount"] = {"datatype": "INT64", "shape": [1, 1], "data": "CgAAAAAAAAA="}
    file.write_text("".join(f"{json.dumps(each)}\n" for each in (fields, more)))
    united = made(tmp_path, tmp_path / "log.parquet")
    kept = read(tmp_path / "log.parquet")
    file.write_text("".join(f"{json.dumps(each)}\n" for each in (fields, other, fields)))

    refused = made(tmp_path, tmp_path / "log.parquet")
    parts = made(tmp_path, tmp_path / "out")

    assert united.exit_code == 0
    assert [each["input.extra"] for each in kept] == [None, kept[0]["feature.card.declines"]]
    assert refused.exit_code == 1
    assert "request.amount" in str(refused.exception) + refused.output
    assert parts.exit_code == 0
    assert [len(read(each)) for each in sorted((tmp_path / "out" / "m").iterdir())] == [1, 1, 1]


def test_places_and_choices_that_can_not_be(tmp_path):
    """Each is told as what it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".features-log.json").write_text("[]")

    said = [
        made(tmp_path / "nowhere", tmp_path / "out"),
        made(tmp_path, tmp_path / "out"),
        made(tmp_path, tmp_path / "x.parquet", "--follow"),
        made(tmp_path, tmp_path / "out", "--since", "yesterday"),
    ]

    assert [each.exit_code for each in said] == [1, 1, 1, 1]
    texts = [str(each.exception) for each in said]
    assert "there is no such file or folder" in texts[0]
    assert "does not say how far the log was read" in texts[1]
    assert "made anew each time" in texts[2]
    assert "expected a time" in texts[3]
