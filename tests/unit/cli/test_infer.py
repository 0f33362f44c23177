"""`infermesh infer` against a real predictor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infermesh.cli.processes import samples_folder


def test_pairs(infermesh, predictor):
    """name=value pairs get datatype and shape from the metadata; the answer names classes, version and latency."""
    result = infermesh("infer", "iris", "features=5.9,3.0,5.1,1.8", "--target", predictor)

    assert result.status == 0
    assert "version 2" in result.out
    assert "ms" in result.out
    assert "virginica" in result.out
    assert "0.95" in result.out


def test_columns_and_rows(infermesh, predictor):
    """An input may be given column by column, each with a value for every row."""
    columns = ["sepal_length_cm=5.9;4.9", "sepal_width_cm=3.0;3.1", "petal_length_cm=5.1;1.5", "petal_width_cm=1.8;0.1"]

    result = infermesh("infer", "iris", *columns, "--target", predictor, "--raw-json")

    assert json.loads(result.out)["outputs"][0] == {
        "name": "label",
        "datatype": "INT64",
        "shape": [2],
        "data": [2, 0],
    }


def test_oip_json_from_a_file(infermesh, predictor):
    """A file in OIP's REST form is sent as it is, and --raw-json answers in the same form."""
    file = samples_folder() / "requests" / "iris.json"

    result = infermesh("infer", "iris", "--file", file, "--raw-json", "--version", "1", "--target", predictor)

    answer = json.loads(result.out)
    assert answer["model_version"] == "1"
    assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]


def test_short_json_and_one_output(infermesh, predictor):
    """{"name": value} takes a row without its first dimension; --output names what is wanted."""
    result = infermesh(
        "infer", "iris", "--json", '{"features": [5.9, 3, 5.1, 1.8]}', "--output", "label", "--raw-json",
        "--target", predictor,
    )  # fmt: skip

    assert json.loads(result.out)["outputs"] == [{"name": "label", "datatype": "INT64", "shape": [1], "data": [2]}]


def test_stdin(infermesh, predictor):
    """--file - reads standard input."""
    result = infermesh(
        "infer", "iris", "--file", "-", "--raw-json", "--target", predictor, stdin='{"features": [[1, 2, 3, 4]]}'
    )

    assert result.status == 0
    assert json.loads(result.out)["model_name"] == "iris"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["iris"], 2, "no inputs are given; iris takes features FP32 [-1, 4] (sepal_length_cm"),
        (["iris", "features=1,2"], 2, "row 1: expected 4 values"),
        (["iris", "features=1,2,3,x"], 2, "input features FP32 [-1, 4]: expected FP32"),
        (["iris", "petals=1"], 2, "input 'petals': no such input; the model takes features"),
        (["iris", "features"], 2, "'features': expected name=value"),
        (["iris", "features=1,2,3,4", "--json", "{}"], 2, "given twice, by name=value and by --json"),
        (["iris", "--json", "{"], 2, "--json: no valid JSON"),
        (["iris", "--file", "/nowhere.json"], 2, "/nowhere.json: can't be read: No such file"),
        (["iris", "features=1,2,3,4", "--param", "x"], 2, "--param 'x': expected name=value"),
        (["nobody", "a=1"], 1, 'NOT_FOUND: model "nobody"'),
        (["iris", "features=1,2,3,4", "--version", "9"], 1, "NOT_FOUND"),
        (["iris", "features=1,2,3,4", "--output", "zzz"], 1, 'INVALID_ARGUMENT: model "iris": output "zzz"'),
    ],
)
def test_mistakes(infermesh, predictor, words, status, said):
    """A mistake is one line that says what was wrong, without a traceback; 2: on the line, 1: the server refused."""
    result = infermesh("infer", *words, "--target", predictor)

    assert result.status == status
    assert result.err.startswith("error: ")
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_nobody_there(infermesh):
    """A target where nobody listens is UNAVAILABLE, with the hint how to start a mesh."""
    result = infermesh("infer", "iris", "features=1,2,3,4", "--target", "127.0.0.1:1")

    assert result.status == 1
    assert "UNAVAILABLE" in result.err
    assert "infermesh up" in result.err


def test_target_without_a_port(infermesh):
    """A target is HOST:PORT."""
    result = infermesh("infer", "iris", "features=1,2,3,4", "--target", "localhost")

    assert result.status == 2
    assert "expected HOST:PORT" in result.err


def test_models_ls_and_load(infermesh, predictor):
    """The index lists every version with its state; a model can be loaded anew."""
    loaded = infermesh("models", "load", "iris", "--target", predictor)
    listed = infermesh("models", "ls", "--target", predictor)

    assert loaded.out == "iris is loaded\n"
    assert [line.split()[:3] for line in listed.out.splitlines() if "fraud" in line] == [
        ["fraud-detector", version, "READY"] for version in "123"
    ]


def test_ready(infermesh, predictor):
    """`ready` exits with 0 for a service that serves, and with 1 where nobody does."""
    assert infermesh("ready", predictor).status == 0
    assert infermesh("ready", "127.0.0.1:1").status == 1


def test_file_is_a_path(infermesh, predictor, tmp_path: Path):
    """A file that is no UTF-8 is refused by name."""
    file = tmp_path / "request.json"
    file.write_bytes(b"\xff\xfe")

    result = infermesh("infer", "iris", "--file", file, "--target", predictor)

    assert result.status == 2
    assert str(file) in result.err
