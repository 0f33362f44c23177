"""Where backgrounds come from: Parquet, CSV, JSON, as the settings say; and what is said of a source that can't be used."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from infermesh.call import Call
from infermesh.errors import FailedPrecondition
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError, read_background, written_background
from services.explainer.background_sets import make_background
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import BackgroundsConfig, BackgroundSet
from services.explainer.signature import Signature


def made(model: str = "m", signature: Signature | None = None, **declared: Any) -> Background:
    return make_background(model, "b", BackgroundSet(**declared), signature)


def refusal(**declared: Any) -> str:
    with pytest.raises(BackgroundError) as refused:
        made(**declared)
    return str(refused.value)


def signature_of(inputs: Mapping[str, tuple[str, list[int]]], **properties: list[str]) -> Signature:
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return Signature.of(
        "m",
        pb.ModelMetadataResponse(
            name="m",
            inputs=[tensor(name=n, datatype=d, shape=s) for n, (d, s) in inputs.items()],
            properties={f"infermesh.columns.{name}": json.dumps(names) for name, names in properties.items()},
        ),
    )


# ---- Parquet


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)
    return path


def test_what_was_served_is_a_background(tmp_path: Path) -> None:
    """Columns `input.<name>` are the inputs: numbers, texts, lists of one length; all other columns are none."""
    file = parquet(
        tmp_path / "served.parquet",
        {
            "request_id": pa.array(["r1", "r2", "r3"]),
            "model": pa.array(["m", "other", "m"]).dictionary_encode(),
            "input.amount": pa.array([1.5, 2.5, 3.5], pa.float32()),
            "input.card": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
            "input.tags": pa.array([["a"], ["b"], ["ä"]], pa.list_(pa.string())),
            "input.flag": pa.array([True, False, False]),
            "input.count": pa.array([1, 2, 3], pa.int64()),
            "input.raw": pa.array([b"\xff", b"", b"x"]).dictionary_encode(),
            "card.limit": pa.array([1.0, None, 3.0]),
        },
    )

    background = made(parquet=file)

    assert {name: array.tolist() for name, array in background.arrays.items()} == {
        "amount": [1.5, 3.5], "card": [[1, 2], [5, 6]], "tags": [[b"a"], ["ä".encode()]], "flag": [True, False],
        "count": [1, 3], "raw": [b"\xff", b"x"],
    }  # fmt: skip
    assert background.datatypes == {
        "amount": "FP32", "card": "FP32", "tags": "BYTES", "flag": "BOOL", "count": "INT64", "raw": "BYTES",
    }  # fmt: skip


def test_a_folder_of_parquet_is_one_source(tmp_path: Path) -> None:
    """Part files in order; one of an older schema that lacks a column is passed over, and so are rows with a null."""
    parquet(tmp_path / "day=1" / "a.parquet", {"input.x": [1.0, 2.0]})
    parquet(tmp_path / "day=2" / "a.parquet", {"input.x": [3.0, 4.0], "input.y": [1, None]})
    parquet(tmp_path / "day=3" / "a.parquet", {"input.x": [5.0, None], "input.y": [1, 2], "output.p": [0.1, 0.2]})

    background = made(parquet=tmp_path)

    assert background.arrays["x"].tolist() == [3.0, 5.0]
    assert background.arrays["y"].tolist() == [1, 1]


def test_a_large_table_is_sampled_by_seed(tmp_path: Path) -> None:
    """20,000 rows, 50 of them: evenly, the same by the same seed; strata by a column that is no input."""
    rows = np.arange(20_000.0)
    file = parquet(tmp_path / "t.parquet", {"input.x": rows, "age": rows[::-1]})

    few, again = (made(parquet=file, rows=50, seed=4) for _ in range(2))
    strata = made(parquet=file, rows=10, from_rows=20_000, summary="stratified", by="age")

    assert few.arrays["x"].tolist() == again.arrays["x"].tolist()
    assert len(few) == 50
    assert sorted((strata.arrays["x"] // 2000).astype(int).tolist()) == list(range(10))


def test_columns_become_inputs_as_declared_or_by_the_models_features(tmp_path: Path) -> None:
    """Several columns side by side are one input; numbers become the model's datatype, and one column a column."""
    file = parquet(tmp_path / "t.parquet", {"age": [30, 40], "income": [1.5, 2.5], "city": ["a", "b"], "label": [0, 1]})
    inputs = {"who": ("FP32", [-1, 2]), "city": ("BYTES", [-1, 1])}
    signature = signature_of(inputs, who=["age", "income"])

    declared = made(parquet=file, inputs={"who": ["age", "income"], "city": "city"})
    known = made(parquet=file, signature=signature)

    assert declared.arrays["who"].tolist() == known.arrays["who"].tolist() == [[30, 1.5], [40, 2.5]]
    assert (declared.datatypes["who"], known.datatypes["who"]) == ("FP64", "FP32")
    assert known.arrays["city"].tolist() == [[b"a"], [b"b"]]


def test_without_marks_every_column_is_an_input(tmp_path: Path) -> None:
    """But outputs, and what rows are told apart by."""
    file = parquet(tmp_path / "t.parquet", {"x": [1.0, 2.0], "output.p": [0.1, 0.9], "age": [1, 2]})

    assert list(made(parquet=file).arrays) == ["x", "age"]
    assert list(made(parquet=file, summary="stratified", by="age", rows=1).arrays) == ["x"]


@pytest.mark.parametrize(
    ("columns", "declared", "said"),
    [
        ({"x": [1]}, {"inputs": {"y": "z"}}, "t.parquet: no column 'z'; there are x"),
        ({"input.x": pa.nulls(2, pa.float32())}, {}, "t.parquet: no usable row"),
        ({"input.x": [[1, 2], [1]]}, {}, "column 'input.x': expected lists of one length, got [1, 2]"),
        ({"input.x": [[1, None]]}, {}, "column 'input.x': a null within a list"),
        ({"input.x": [{"a": 1}]}, {}, "column 'input.x': expected numbers, booleans, texts or lists of them, got struct"),
        ({"a": [1], "t": ["b"]}, {"inputs": {"x": ["a", "t"]}}, 'input "x": texts and numbers can\'t be one input'),
        ({"model": ["n"], "input.x": [1]}, {}, "t.parquet: no usable row"),
    ],
)  # fmt: skip
def test_parquet_that_is_no_background_says_why(tmp_path: Path, columns: Any, declared: Any, said: str) -> None:
    """Which file or column, and what was expected."""
    assert said in refusal(parquet=parquet(tmp_path / "t.parquet", columns), **declared)


def test_damaged_and_missing_parquet_is_told(tmp_path: Path) -> None:
    """A file that is none, one that is not there, and a folder without any."""
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()

    assert refusal(parquet=tmp_path / "bad.parquet").startswith("bad.parquet: ")
    assert refusal(parquet=tmp_path / "nowhere.parquet").startswith("nowhere.parquet: ")
    assert refusal(parquet=tmp_path / "empty") == "empty: no .parquet files in it"


def test_without_pyarrow_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that has it is named."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert refusal(parquet=tmp_path) == f"{tmp_path.name}: reading it needs pyarrow: pip install 'infermesh[parquet]'"


# ---- CSV and JSON


def test_a_csv_has_numbers_and_texts(tmp_path: Path) -> None:
    """A column of numbers alone is one of numbers; a row with an empty cell is left out."""
    file = tmp_path / "t.csv"
    file.write_text("id,x,city\n1,0.5,Zürich\n2,,b\n3,1e3,7\n", encoding="utf-8")

    background = made(file=file, inputs={"x": "x", "city": "city"})

    assert background.arrays["x"].tolist() == [0.5, 1000.0]
    assert background.arrays["city"].tolist() == ["Zürich".encode(), b"7"]
    assert background.datatypes == {"x": "FP64", "city": "BYTES"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.csv: no columns"),
        ("a,a\n1,2\n", "t.csv: two of its columns have one name"),
        ("a,b\n1,2\n3\n", "t.csv: row 3: expected 2 cells, got 1"),
        ("a,b\n1,\n", "t.csv: no usable row"),
    ],
)
def test_a_csv_that_is_no_background_says_why(tmp_path: Path, text: str, said: str) -> None:
    """Which file and row."""
    (tmp_path / "t.csv").write_text(text)

    assert refusal(file=tmp_path / "t.csv") == said


def test_the_sample_customers_are_rows_of_their_model(tmp_path: Path) -> None:
    """The feature table of credit-score, by the names of the model's features, in the model's datatypes."""
    table = Path(__file__).parents[3] / "samples" / "features" / "customers.csv"
    with table.open(newline="") as lines:
        header = next(csv.reader(lines))[1:]
    inputs = {"customer_features": ("FP32", [-1, 8]), "housing": ("BYTES", [-1, 1]), "region": ("BYTES", [-1, 1])}

    few = made(file=table, signature=signature_of(inputs, customer_features=header[:8]), summary="kmeans", rows=25)

    assert few.arrays["customer_features"].shape == (25, 8)
    assert few.arrays["customer_features"].dtype == np.float32
    assert few.arrays["housing"].shape == (25, 1)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The same numbers to the bit, texts, weights."""
    texts = np.empty((2, 1), object)
    texts[:, 0] = [b"", "ä\n".encode()]
    arrays = {
        "f": np.array([[0.1, np.nan], [-0.0, np.inf]], np.float32),
        "d": np.array([0.1, 1 / 3]),
        "t": texts,
        "b": np.array([[True], [False]]),
        "i": np.array([2**63 - 1, -(2**63)]),
    }
    datatypes = {"f": "FP32", "d": "FP64", "t": "BYTES", "b": "BOOL", "i": "INT64"}
    (tmp_path / "m.json").write_text(written_background(Background("b", arrays, datatypes, np.array([0.1, 0.9]))))

    again = read_background(tmp_path / "m.json", "b")

    assert again.datatypes == datatypes
    assert again.weights.tolist() == [0.1, 0.9]
    for name, array in arrays.items():
        assert again.arrays[name].dtype == array.dtype
        assert again.arrays[name].tobytes() == array.tobytes() if name != "t" else True
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_text_that_is_no_utf_8_can_not_be_written() -> None:
    """Rather than another text."""
    texts = np.empty(1, object)
    texts[:] = b"\xff"

    with pytest.raises(BackgroundError, match="t: a text of it is no UTF-8"):
        written_background(Background("b", {"t": texts}, {"t": "BYTES"}, np.ones(1)))


# ---- the settings


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({}, "expected one of file, parquet, payload_log, got none"),
        ({"file": "a", "parquet": "b"}, "expected one of file, parquet, payload_log, got file, parquet"),
        ({"payload_log": "a", "inputs": {"x": "y"}}, "inputs: a payload log names its inputs itself"),
        ({"file": "a", "summary": "stratified"}, "by: expected with summary: stratified, and only there"),
        ({"file": "a", "by": "x"}, "by: expected with summary: stratified, and only there"),
        ({"file": "a", "rows": 0}, "greater than or equal to 1"),
        ({"file": "a", "rosw": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(declared: dict[str, Any], said: str) -> None:
    """At start, with what would be right."""
    with pytest.raises(ValidationError) as refused:
        BackgroundSet(**declared)

    assert said in str(refused.value)


def test_the_example_in_the_documents_is_a_good_one() -> None:
    """docs/explanations.md shows settings that are taken."""
    text = (Path(__file__).parents[3] / "docs" / "explanations.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(backgrounds:\n.*?)```", text, re.DOTALL)

    config = BackgroundsConfig.model_validate(yaml.safe_load(example)["backgrounds"])

    assert {model: list(sets) for model, sets in config.sets.items()} == {
        "iris": ["default"],
        "credit-score": ["default", "applicants"],
    }


def sums(lab: SimpleNamespace) -> Any:
    return lab.FunctionModel(
        lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}, inputs=[("x", "FP64", (-1, 3))]
    )


async def test_a_declared_set_is_explained_against(lab: SimpleNamespace, tmp_path: Path) -> None:
    """Integers of a table become the model's FP64; a declared default wins over the file of the folder, and others stay."""
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n1,2,3\n1,2,3\n")
    sets = {"model": {"default": {"file": table, "inputs": {"x": ["a", "b", "c"]}}}}

    answer = await lab.explain(
        sums(lab), {"x": np.zeros((1, 3))}, {"x": np.full((1, 3), 5.0)}, {"backgrounds": {"sets": sets}}
    )

    assert answer.base_values.tolist() == [[6.0]]
    assert answer.attributions[0, :, 0].tolist() == pytest.approx([4, 3, 2])


async def test_a_broken_set_costs_its_own_model_alone(lab: SimpleNamespace, tmp_path: Path) -> None:
    """Who asks for it is told why; the model's other sets go on."""
    sets = {"model": {"night": {"parquet": tmp_path / "nowhere.parquet"}}}
    service = lab.explainer(sums(lab), {"x": np.zeros((1, 3))}, backgrounds={"sets": sets})
    rows = {"x": np.ones((1, 3))}

    await service.infer(lab.request_of(rows), Call())
    with pytest.raises(FailedPrecondition, match=r'background "night" can\'t be used: nowhere\.parquet: '):
        await service.infer(lab.request_of(rows, background="night"), Call())


async def test_a_table_that_does_not_fit_the_model_is_refused(lab: SimpleNamespace, tmp_path: Path) -> None:
    """No number becomes another one: a fraction is no integer, a text no number, two columns are not three."""
    model = lab.FunctionModel(lambda given: {"y": given["x"] * 1.0}, inputs=[("x", "INT64", (-1, 1))])
    for text, said in (
        ("x\n1.5\n", "it has FP64"),
        ("x\na\n", "it has BYTES"),
        ("x,z\n1,2\n", 'it has "z", the model has not'),
    ):
        (tmp_path / "t.csv").write_text(text)
        service = lab.explainer(model, backgrounds={"sets": {"model": {"default": {"file": tmp_path / "t.csv"}}}})

        with pytest.raises(FailedPrecondition, match=said):
            await service.infer(lab.request_of({"x": np.ones((1, 1), np.int64)}), Call())


async def test_sets_are_described(tmp_path: Path) -> None:
    """Name, rows, source and summary of each; read in a thread, the event loop stays free."""
    (tmp_path / "t.csv").write_text("x\n" + "\n".join(map(str, range(50))))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "m.json").write_text(
        '{"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}]}'
    )
    sets = {
        "m": {"few": {"file": tmp_path / "t.csv", "rows": 5, "summary": "kmeans"}, "gone": {"file": "nowhere.json"}}
    }

    backgrounds = await Backgrounds.read(BackgroundsConfig(root=tmp_path / "root", sets=sets))

    assert backgrounds.described("m") == [
        {"name": "default", "rows": 2, "source": "m.json", "summary": "none"},
        {"name": "few", "rows": 5, "source": "t.csv", "summary": "kmeans"},
    ]
    assert backgrounds.names("m") == ["default", "few", "zeros"]
    assert backgrounds.described("n") == []
