"""`infermesh backgrounds make`: a table or a log in, the explainer's file out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infermesh.cli.processes import samples_folder
from services.explainer.background_file import read_background

CUSTOMERS = samples_folder() / "features" / "customers.csv"


def table(path: Path, rows: int = 40) -> Path:
    lines = [f"{5 + row % 3},{3 + row % 2},{row % 7},{row % 2}" for row in range(rows)]
    path.write_text("sepal_length_cm,sepal_width_cm,petal_length_cm,petal_width_cm\n" + "\n".join(lines) + "\n")
    return path


def test_a_background_from_a_table(infermesh, predictor: str, tmp_path: Path):
    """Columns by the names of the model's features become its input, in its datatype; the same seed makes the same bytes."""
    place = tmp_path / "iris.json"
    words = ("backgrounds", "make", "iris", "--from", table(tmp_path / "t.csv"), "--rows", "6", "--target", predictor)

    done = infermesh(*words, "--out", place)
    again = infermesh(*words, "--out", "-")

    background = read_background(place, "default")
    assert (done.status, again.status) == (0, 0), done.err + again.err
    assert again.out == place.read_text(encoding="utf-8")
    assert background.arrays["features"].shape == (6, 4)
    assert background.datatypes == {"features": "FP32"}
    assert background.weights.sum() == pytest.approx(1)
    assert f"{place}: 6 rows from t.csv, summary kmeans, the heaviest stands for " in done.out


def test_a_background_of_a_background(infermesh, tmp_path: Path):
    """JSON needs no server: strata of a text, of equal weight."""
    source = samples_folder() / "backgrounds" / "fraud-detector.json"

    done = infermesh(
        "backgrounds", "make", "fraud-detector", "--from", source, "--rows", 10, "--summary", "stratified", "--by", "amount",
        "--out", "-",
    )  # fmt: skip

    assert done.status == 0, done.err
    amounts = json.loads(done.out)["inputs"][0]["data"]
    everything = sorted(json.loads(source.read_text(encoding="utf-8"))["inputs"][0]["data"])
    assert sorted(everything.index(amount) // 10 for amount in amounts) == list(range(10))
    assert "10 rows from fraud-detector.json, summary stratified by amount, of equal weight" in done.err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--from", "nowhere.csv"), 2, "error: nowhere.csv: no such file or folder"),
        (("--from", CUSTOMERS), 2, "customers.csv: a CSV has no datatypes\nhint: --target names a predictor"),
        (("--from", CUSTOMERS.parent), 1, "error: features: no .parquet files in it"),
        (("--from", samples_folder() / "metrics.json"), 1, 'error: metrics.json: expected an object with a list "inputs"'),
        (("--from", samples_folder() / "metrics.json", "--summary", "stratified"), 2, "by: expected with summary: stratified"),
        (("--from", samples_folder() / "metrics.json", "--summary", "mean"), 2, "error: --summary: Input should be 'none'"),
    ],
)  # fmt: skip
def test_what_can_not_be_made_is_told(infermesh, tmp_path: Path, words: tuple[str, ...], status: int, said: str):
    """One line, and the exit status of a wrong command line or of a source that is no good."""
    done = infermesh("backgrounds", "make", "iris", *words, "--out", tmp_path / "out.json")

    assert done.status == status
    assert said in done.err
    assert not (tmp_path / "out.json").exists()


def test_rows_of_another_model_are_refused(infermesh, predictor: str, tmp_path: Path):
    """With the column that is missing."""
    words = ("backgrounds", "make", "iris", "--from", CUSTOMERS, "--target", predictor, "--out", tmp_path / "out.json")

    done = infermesh(*words)

    assert done.status == 1
    assert "error: customers.csv: no column 'sepal_length_cm'; there are customer_id, income_monthly" in done.err


def test_a_file_that_can_not_be_written_is_told(infermesh, tmp_path: Path):
    """With the reason."""
    source = samples_folder() / "backgrounds" / "iris.json"

    done = infermesh("backgrounds", "make", "iris", "--from", source, "--out", tmp_path / "no" / "folder.json")

    assert done.status == 1
    assert "folder.json: No such file or directory" in done.err
