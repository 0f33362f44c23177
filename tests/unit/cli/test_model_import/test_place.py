"""Where models are written, files that are no models, and ONNX files."""

from __future__ import annotations

import errno
import os
import sys
import zipfile

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.place import write_version


def graph(kind=TensorProto.FLOAT, weights=None):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    inits = []
    if weights is not None:
        nodes, inits = [helper.make_node("Add", ["x", "w"], ["y"])], [numpy_helper.from_array(weights, "w")]
    shape = ["rows", 2]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        inits,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture
def model(data):
    return LogisticRegression().fit(data.rows, data.classes)


@pytest.mark.parametrize(
    "name", ["../m", "a/b", "..", ".m", "_m", "", "a\\b", "a\0b", "a\nb", "m-explainer", "x" * 300]
)
def test_names(imports, model, data, name, repository):
    """A name that leads elsewhere, is hidden, or is an explainer's, is refused before the file is read."""
    result = imports(model, data.rows, name=name)

    assert result.status == 2
    assert "--name" in result.err
    assert not list(repository.iterdir())
    assert not (repository.parent / "m").exists()


def test_versions(imports, model, data, repository):
    """Left out, the version is one past the newest by number; one that exists is kept, unless it is to be replaced."""
    (repository / "m" / "9").mkdir(parents=True)
    (repository / "m" / "10").mkdir()

    assert "version 11" in imports(model, data.rows).out
    before = (repository / "m" / "11" / "model.onnx").read_bytes()
    kept = imports(LogisticRegression(C=0.1).fit(data.rows, data.classes), data.rows, "--version", "11")
    assert kept.status == 1
    assert "this version exists" in kept.err
    assert (repository / "m" / "11" / "model.onnx").read_bytes() == before
    other = LogisticRegression(C=0.1).fit(data.rows, data.classes)
    assert imports(other, data.rows, "--version", "11", "--force").status == 0
    assert (repository / "m" / "11" / "model.onnx").read_bytes() != before
    assert sorted(p.name for p in (repository / "m").iterdir()) == ["10", "11", "9"]


def test_dry_run(imports, model, data, nothing_written):
    """--dry-run does everything but write."""
    result = imports(model, data.rows, "--dry-run")

    assert result.status == 0
    assert "same" in result.out
    assert nothing_written()


def test_rows_are_asked_for(imports, model, nothing_written):
    """Without rows there is no check, so there is no import."""
    result = imports(model)

    assert result.status == 2
    assert "--rows is missing" in result.err
    assert nothing_written()


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_folder_that_can_not_be_written(imports, model, data, nothing_written, monkeypatch, number):
    """No right to write, a full disk, or a read-only one is a line, and leaves nothing."""

    def fails(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("infermesh.cli.model_import.place.os.fsync", fails)

    result = imports(model, data.rows)

    assert result.status == 1
    assert f"can't be written: {os.strerror(number)}" in result.err
    assert nothing_written()


def test_model_folder_that_is_a_file(imports, model, data, repository):
    """What stands in the way is not removed."""
    (repository / "m").write_text("mine")

    result = imports(model, data.rows)

    assert result.status == 1
    assert "can't be written" in result.err
    assert (repository / "m").read_text() == "mine"


def test_nothing_is_left_when_writing_fails(repository):
    """A copy that fails half way leaves no folder, hidden or not."""
    with pytest.raises(Failure, match="can't be written"):
        write_version(repository, "m", None, {"model.onnx": b"x", "weights": repository / "gone"})

    assert not list(repository.iterdir())


def test_next_version_that_somebody_else_takes(repository, monkeypatch):
    """Of two imports at a time each gets a version of its own."""
    from infermesh.cli.model_import import place

    numbers = iter([1, 2])
    monkeypatch.setattr(place, "_next", lambda folder: next(numbers))
    (repository / "m" / "1").mkdir(parents=True)

    assert write_version(repository, "m", None, {"model.onnx": b"x"}).name == "2"


@pytest.mark.parametrize("words", [["s3://bucket/models"], ["/no/such/folder"]])
def test_repositories(infermesh, tmp_path, words):
    """A bucket, or a folder that is not there, is refused with what to do."""
    result = infermesh("models", "import", tmp_path / "x", "--name", "m", "--repository", *words)

    assert result.status == 2
    assert "--repository" in result.err
    assert "hint" in result.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"binf....", "old binary form"),
        (b"CBM1....", "CatBoost"),
        (b'{"a": 1}', "no XGBoost model"),
        (b'{"name": "tree", "num_tree_per_iteration": 1}', "dump_model"),
        (b"PK\x03\x04....", "a damaged archive"),
        (b"hello", "of no format that can be imported"),
        (b"\x08nonsense that is no protobuf", "no ONNX model"),
        (b"tree\nversion=v4\nend of trees\n", "LightGBM can't read it"),
        (b'{"learner": {}}', "XGBoost can't read it"),
    ],
)
def test_files_that_are_no_models(imports, data, tmp_path, content, said, nothing_written):
    """A file is told by its content, and what is none of the formats is refused by what it is."""
    (tmp_path / "model.bin").write_bytes(content)

    result = imports(tmp_path / "model.bin", data.rows)

    assert result.status == 1
    assert said in result.err
    assert nothing_written()


@pytest.mark.parametrize(("member", "said"), [("m/data.pkl", "PyTorch"), ("x", "no schema.json")])
def test_archives(imports, data, tmp_path, member, said):
    """Archives are told apart."""
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(member, "x")

    assert said in imports(tmp_path / "model.zip", data.rows).err


@pytest.mark.parametrize("tolerance", ["x", "1e-5", "-1/0", "nan/0", "0/inf", "2/0"])
def test_tolerances(imports, model, data, tolerance):
    """A tolerance is two numbers that bound something."""
    result = imports(model, data.rows, "--tolerance", tolerance)

    assert result.status == 2
    assert "expected REL/ABS" in result.err


def test_library_that_is_missing(imports, model, data, monkeypatch):
    """A library that is not installed is named, with what installs it."""
    monkeypatch.setitem(sys.modules, "skl2onnx", None)

    result = imports(model, data.rows)

    assert result.status == 1
    assert "skl2onnx is needed" in result.err
    assert "pip install 'infermesh[import]'" in result.err


def test_onnx_is_copied(imports, tmp_path, repository):
    """An ONNX file is copied byte for byte, with its external data; rows are optional, and answered when they are given."""
    proto = graph(weights=np.array([1.0, 2.0], np.float32))
    external_data_helper.convert_model_to_external_data(proto, location="data/weights.bin", size_threshold=0)
    (tmp_path / "data").mkdir()
    external_data_helper.write_external_data_tensors(proto, str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())

    assert imports(tmp_path / "model.onnx").status == 0
    assert imports(tmp_path / "model.onnx", np.ones((3, 2))).status == 0
    wrong = imports(tmp_path / "model.onnx", np.ones((3, 5)))
    assert wrong.status == 1
    assert "fails on the rows" in wrong.err
    assert (repository / "m/1/model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert (repository / "m/2/data/weights.bin").read_bytes() == (tmp_path / "data/weights.bin").read_bytes()


@pytest.mark.parametrize(("location", "said"), [("../secret", "lies outside its folder"), ("gone", "is missing")])
def test_external_data_elsewhere(imports, tmp_path, location, said, nothing_written):
    """External data is not taken from outside the model's folder."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    proto = graph(weights=np.array([1.0, 2.0], np.float32))
    external_data_helper.set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "in/model.onnx").write_bytes(proto.SerializeToString())

    result = imports(tmp_path / "in/model.onnx")

    assert result.status == 1
    assert said in result.err
    assert nothing_written()


def test_onnx_with_an_unknown_operator(imports, tmp_path):
    """What ONNX's checker or ONNX Runtime refuses is refused in their words."""
    proto = graph()
    proto.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())

    result = imports(tmp_path / "model.onnx")

    assert result.status == 1
    assert "NoSuchOperator" in result.err
