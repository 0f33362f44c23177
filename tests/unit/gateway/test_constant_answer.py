"""An answer that is always the same: in the request's form, and never larger than the request can ask for."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from infermesh.call import Call
from services.gateway.fallback_config import ConstantConfig
from tests.unit.gateway.fallback_parts import constant, request


@pytest.mark.parametrize("raw", [False, True])
async def test_a_constant_has_the_form_and_the_rows_of_the_request(raw: bool) -> None:
    """Typed to typed, raw to raw; outputs by row once for each row."""
    response = await constant().answer(request(rows=3, raw=raw), Call())

    assert response is not None
    assert [list(each.shape) for each in response.outputs] == [[3], [3, 2], [1]]
    if raw:
        labels, shares, why = response.raw_output_contents
        assert struct.unpack("<3q", labels) == (7, 7, 7)
        assert struct.unpack("<6f", shares) == (0.25, 0.75) * 3
        assert why == b"\x07\0\0\0default"
    else:
        assert list(response.outputs[0].contents.int64_contents) == [7, 7, 7]
        assert list(response.outputs[1].contents.fp32_contents) == [0.25, 0.75] * 3
        assert list(response.outputs[2].contents.bytes_contents) == [b"default"]


async def test_a_constant_answers_what_it_is_asked_for_or_not_at_all() -> None:
    """Outputs in the order asked; an unknown one, negative rows, and rows that nobody has sent are no answer."""
    response = await constant().answer(request(outputs=("why", "label", "why")), Call())
    assert response is not None
    assert [each.name for each in response.outputs] == ["why", "label"]

    forged = request()
    for rows in (-1, 2**40):
        forged.inputs[0].shape[0] = rows
        assert await constant().answer(forged, Call()) is None
    assert await constant().answer(request(outputs=("no-such",)), Call()) is None


@pytest.mark.parametrize("raw", [False, True])
async def test_rows_that_nobody_has_sent_make_no_answer(raw: bool) -> None:
    """A shape is a claim: without the elements of it, or with rows of nothing, a few bytes would ask for megabytes."""
    for shape in ([4 << 20], [2, 1], [4 << 20, 0], [1, 1 << 40]):
        asked = request(raw=raw)
        asked.inputs[0].shape[:] = shape
        assert await constant().answer(asked, Call()) is None


@pytest.mark.parametrize("raw", [False, True])
async def test_a_constant_is_bounded_over_all_its_outputs(raw: bool) -> None:
    """256 outputs of one byte a row are 256 bytes a row: an answer of more than 4 MiB, or 262,144 typed elements, is none."""
    outputs = [{"name": f"o{at}", "datatype": "INT8", "shape": [-1], "data": [1]} for at in range(256)]
    many = constant(outputs=outputs)
    most = (4 << 20) // 256 if raw else (1 << 18) // 256

    assert await many.answer(request(rows=most, raw=raw), Call()) is not None
    assert await many.answer(request(rows=most + 1, raw=raw), Call()) is None


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"name": "y", "datatype": "FP16", "shape": [1], "data": [1]}, "datatype"),
        ({"name": "y", "datatype": "INT8", "shape": [1], "data": [128]}, "whole numbers from -128 to 127"),
        ({"name": "y", "datatype": "INT8", "shape": [1], "data": [True]}, "whole numbers"),
        ({"name": "y", "datatype": "FP32", "shape": [1], "data": ["a"]}, "expected numbers"),
        ({"name": "y", "datatype": "BOOL", "shape": [1], "data": [1]}, "true or false"),
        ({"name": "y", "datatype": "FP32", "shape": [-1, 2], "data": [1]}, "expected 2 elements"),
        ({"name": "y", "datatype": "FP32", "shape": [2, -1], "data": []}, "first dimension alone"),
        ({"name": "y", "datatype": "FP32", "shape": [1], "data": [1e300]}, "fit in four bytes"),
        ({"name": "y", "datatype": "FP64", "shape": [1], "data": [10**400]}, "fit in eight bytes"),
        ({"name": "y", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]}, "text that UTF-8 can carry"),
        ({"name": "y\0", "datatype": "FP32", "shape": [1], "data": [1]}, "printable"),
    ],
)
def test_a_constant_that_no_client_could_read_is_refused_at_start(output: Any, words: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=words):
        ConstantConfig.model_validate({"outputs": [output]})
