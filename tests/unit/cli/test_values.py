"""What a person types becomes tensors."""

from __future__ import annotations

import numpy as np
import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.values import InputSpec, array_of, arrays_of, bfloat16, input_specs, pairs
from infermesh.protocol.open_inference_pb2 import ModelMetadataResponse

AMOUNT = InputSpec("amount", "FP32", (-1, 1))
CATEGORY = InputSpec("category", "BYTES", (-1, 1))
LENGTHS = InputSpec("lengths", "FP32", (-1, 3), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("datatype", "text", "value"),
    [
        ("BOOL", "true", True),
        ("BOOL", "0", False),
        ("INT8", "-128", -128),
        ("UINT64", "18446744073709551615", 2**64 - 1),
        ("INT64", "0x10", 16),
        ("FP16", "1.5", 1.5),
        ("FP32", "-2.5e3", -2500.0),
        ("FP64", "0.1", 0.1),
        ("BYTES", "a,b=c", b"a,b=c"),
    ],
)
def test_datatypes(datatype, text, value):
    """One value becomes an element of the input's datatype; a text of one column keeps its commas."""
    array = array_of(InputSpec("x", datatype, (-1, 1)), [text])

    assert array.shape == (1, 1)
    assert array[0, 0] == value


def test_rows_and_columns():
    """Semicolons and repetition part rows, commas columns."""
    array = array_of(LENGTHS, ["1,2,3; 4,5,6", "7,8,9"])

    np.testing.assert_array_equal(array, np.arange(1, 10, dtype=np.float32).reshape(3, 3))


def test_text_rows():
    """A column of texts has a row for each text."""
    array = array_of(CATEGORY, ["fuel;grocery"])

    assert array.tolist() == [[b"fuel"], [b"grocery"]]


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ((), ["3"], ()),
        ((-1,), ["1,2;3"], (3,)),
        ((-1, -1), ["1,2,3,4;5,6,7,8"], (2, 4)),
        ((-1, 2, 2), ["1,2,3,4"], (1, 2, 2)),
        ((-1, 2, -1), ["1,2,3,4,5,6"], (1, 2, 3)),
    ],
)
def test_shapes(shape, values, expected):
    """The shape follows the metadata; one free dimension beside the rows takes what is given."""
    assert array_of(InputSpec("x", "INT32", shape), values).shape == expected


def test_columns_by_name():
    """An input may be given by the names of its columns, in any order."""
    arrays = arrays_of({"c": ["3"], "a": ["1"], "b": ["2"], "amount": ["5"]}, {"lengths": LENGTHS, "amount": AMOUNT})

    assert arrays["lengths"].tolist() == [[1, 2, 3]]
    assert arrays["amount"].tolist() == [[5]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lengths": ["1,2"]}, r"input lengths FP32 \[-1, 3\]: row 1: expected 3 values \(a, b, c\), got 2"),
        ({"lengths": ["1,2,3;1"]}, r"row 2: expected 3 values"),
        ({"amount": ["much"]}, r"input amount FP32 \[-1, 1\]: expected FP32: could not convert string"),
        ({"nothing": ["1"]}, r"input 'nothing': no such input; the model takes lengths FP32"),
        ({"a": ["1"]}, r"input lengths FP32 \[-1, 3\]: columns b, c missing"),
        ({"a": ["1"], "lengths": ["1,2,3"]}, r"given whole and by its column 'a'"),
        ({"a": ["1;2"], "b": ["1"], "c": ["1"]}, r"expected as many rows for each column"),
    ],
)
def test_mistakes(given, said):
    """A mistake names the input, what was expected and what came."""
    with pytest.raises(Failure, match=said):
        arrays_of(given, {"lengths": LENGTHS, "amount": AMOUNT})


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (
            [LENGTHS, InputSpec("widths", "FP32", (-1, 2), ("c", "d"))],
            r"2 columns have that name, of lengths and of widths",
        ),
        ([InputSpec("x", "FP32", (-1, 3), ("c", "d", "c"))], r"2 columns have that name, of x"),
    ],
)
def test_a_name_of_several_columns_is_refused(specs, said):
    """It is not guessed which one is meant, nor are both filled."""
    with pytest.raises(Failure, match=said) as failure:
        arrays_of({"c": ["1"]}, {spec.name: spec for spec in specs})

    assert f"give the input whole: {specs[0].name}=" in str(failure.value.hint)


@pytest.mark.parametrize(("datatype", "text"), [("INT8", "128"), ("UINT8", "-1"), ("INT32", "1.5"), ("BOOL", "maybe")])
def test_values_out_of_range(datatype, text):
    """A value that the datatype can't hold is refused, never wrapped round."""
    with pytest.raises(Failure, match=f"expected {datatype}"):
        array_of(InputSpec("x", datatype, (-1,)), [text])


def test_several_free_dimensions():
    """A shape that text can't tell is refused with the way that can."""
    with pytest.raises(Failure, match="can't be typed in this form") as refused:
        array_of(InputSpec("x", "FP32", (-1, -1, -1)), ["1,2"])

    assert "--json" in refused.value.hint


def test_pairs_keep_equal_signs():
    """Only the first = parts name and value; a name may be repeated."""
    assert pairs(["a=b=c", "a=d"]) == {"a": ["b=c", "d"]}
    with pytest.raises(Failure, match="expected name=value"):
        pairs(["=b"])


def test_bfloat16_rounds_to_nearest_even():
    """BF16 bits are those of the nearest number, ties to even; NaN and infinities stay what they are."""
    values = np.array([1.0, 1.00390625, 1.01171875, -2.0, np.inf, np.nan], np.float32)

    assert bfloat16(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC000, 0x7F80, 0x7FC0]


def test_columns_that_are_no_list_are_ignored():
    """A property of the model maker that is no list of names costs the names, not the call."""
    metadata = ModelMetadataResponse(properties={"infermesh.columns.x": '{"a": 1}', "infermesh.columns.y": "nonsense"})
    metadata.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
    metadata.inputs.add(name="y", datatype="FP32", shape=[-1, 2])

    assert [spec.columns for spec in input_specs(metadata).values()] == [(), ()]
