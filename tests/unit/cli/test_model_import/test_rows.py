"""Files of rows."""

from __future__ import annotations

import numpy as np
import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.model_import import rows_file as module
from infermesh.cli.model_import.rows_file import read_rows


def test_csv(tmp_path):
    """Numbers are numbers, an empty cell is missing among numbers and empty among texts, and quotes part cells from commas."""
    file = tmp_path / "rows.csv"
    file.write_text('\ufeffage,city,score\n41,"Bern, CH",0.5\n,,NA\n', encoding="utf-8")

    rows = read_rows(file)

    assert rows.names == ("age", "city", "score")
    assert np.array_equal(rows.columns[0], [41, np.nan], equal_nan=True)
    assert rows.columns[1].tolist() == ["Bern, CH", ""]
    assert np.array_equal(rows.columns[2], [0.5, np.nan], equal_nan=True)
    assert rows.texts == (1,)


def test_texts_that_look_like_numbers(tmp_path):
    """--text keeps post codes as they are written."""
    file = tmp_path / "rows.csv"
    file.write_text("code,x\n0012,1\n1200,2\n")

    assert read_rows(file, ["code"]).columns[0].tolist() == ["0012", "1200"]


@pytest.mark.parametrize("text", ["1,2\n3,4\n", "1;2\n3;4\n", "1\t2\n3\t4\n\n"])
def test_csv_without_a_header(tmp_path, text):
    """A first line of numbers is a row; semicolons and tabs part cells too."""
    file = tmp_path / "rows.csv"
    file.write_text(text)

    rows = read_rows(file)

    assert rows.names == ()
    assert rows.matrix().tolist() == [[1, 2], [3, 4]]


def test_csv_with_the_header_of_columns_without_names(tmp_path):
    """`0,1` is what pandas writes above them, and no row."""
    file = tmp_path / "rows.csv"
    file.write_text("0,1\n3,4\n")

    rows = read_rows(file)

    assert (rows.names, rows.matrix().tolist()) == ((), [[3, 4]])


@pytest.mark.parametrize("text", ['[{"a": 1, "b": "x"}, {"b": null, "a": null}]', '[[1, "x"], [null, null]]'])
def test_json(tmp_path, text):
    """Objects or lists; null is a missing number, or an empty text."""
    file = tmp_path / "rows.json"
    file.write_text(text)

    rows = read_rows(file)

    assert np.array_equal(rows.columns[0], [1, np.nan], equal_nan=True)
    assert rows.columns[1].tolist() == ["x", ""]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "no rows"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3: expected 2 cells, got 1"),
        ("a.csv", b'a,b\n1,"2\n', "line "),
        ("a.csv", b"\xff\xfe\x00", "no UTF-8 text"),
        ("a.csv", b"a,a\n1,2\n", "two columns of one name"),
        ("a.json", b"[]", "no rows"),
        ("a.json", b"{", "no JSON"),
        ("a.json", b'{"a": 1}', "expected a list of objects, or of lists"),
        ("a.json", b'[{"a": 1}, {"b": 1}]', "row 2: expected the columns a"),
        ("a.json", b"[[1, 2], [1]]", "row 2: expected 2 values, got 1"),
        ("a.json", b'[[1], ["x"]]', "column number 1: expected numbers, or texts"),
        ("a.json", b"[[[1]]]", "column number 1: expected numbers, or texts"),
        ("a.json", b"[[1" + b"0" * 400 + b"]]", "column number 1: an integer is too large"),
        ("a.npy", b"\x93NUMPY", "no .npy file of numbers"),
        ("a.npy", b"", "no .npy file of numbers"),
    ],
)
def test_faults(tmp_path, name, content, said):
    """What is wrong is said with the file and the place in it."""
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(Failure, match=said) as refused:
        read_rows(file)

    assert refused.value.status == 2
    assert name in refused.value.text


def test_pickled_objects_in_npy(tmp_path):
    """A .npy file of objects is a pickle, and is not read."""
    np.save(tmp_path / "rows.npy", np.array([[{}]], object), allow_pickle=True)

    with pytest.raises(Failure, match=r"no \.npy file of numbers"):
        read_rows(tmp_path / "rows.npy")


def test_bound(tmp_path, monkeypatch):
    """Past the bound the first rows are taken, and that is said."""
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    file = tmp_path / "rows.csv"
    file.write_text("a\n1\n2\n3\n4\n5\n")

    rows = read_rows(file)

    assert rows.columns[0].tolist() == [1, 2]
    assert "first 2 rows" in rows.notes[0]


def test_columns_of_the_model(tmp_path):
    """Columns are taken by name where both have names; missing ones are listed, others left out with a note."""
    file = tmp_path / "rows.csv"
    file.write_text("b,a,target\n1,2,3\n")
    rows = read_rows(file)

    assert rows.for_model(["a", "b"], 2).matrix().tolist() == [[2, 1]]
    assert rows.for_model(["a", "b"], 2).notes == ("columns that the model does not take were left out: target",)
    with pytest.raises(Failure, match="lack 1 of the model's 2 columns: c"):
        rows.for_model(["a", "c"], 2)
    with pytest.raises(Failure, match="3 columns: b, a, target; the model takes 2"):
        rows.for_model([], 2)
