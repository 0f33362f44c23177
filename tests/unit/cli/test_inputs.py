"""What a request says about the features of its explanation."""

from __future__ import annotations

import numpy as np

from infermesh.cli.inputs import known_values
from infermesh.cli.values import InputSpec
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import add_inputs

LENGTHS = InputSpec("lengths", "FP32", (-1, 2), ("a", "c"))
WIDTHS = InputSpec("widths", "FP32", (-1, 2), ("c", "d"))
AMOUNT = InputSpec("amount", "FP32", (-1, 1))
CITY = InputSpec("city", "BYTES", (-1, 1), ("town",))


def request(**inputs: np.ndarray) -> ModelInferRequest:
    made = ModelInferRequest(model_name="m")
    add_inputs(made, inputs, raw=True)
    return made


def test_values_go_by_the_names_of_explanations() -> None:
    """The input, its columns, or both where several inputs have a column of one name: none takes another's value."""
    specs = {spec.name: spec for spec in (LENGTHS, WIDTHS, AMOUNT, CITY)}
    asked = request(
        lengths=np.array([[1, 2], [3, 4]], "f4"),
        widths=np.array([[5, 6], [7, 8]], "f4"),
        amount=np.array([[9], [10]], "f4"),
        city=np.array([[b"Ulm"], [b"Bonn"]], "O"),
    )

    assert known_values(asked, specs) == [
        {"a": "1", "lengths.c": "2", "widths.c": "5", "d": "6", "amount": "9", "town": "Ulm"},
        {"a": "3", "lengths.c": "4", "widths.c": "7", "d": "8", "amount": "10", "town": "Bonn"},
    ]


def test_what_has_no_names_is_not_told() -> None:
    """Several columns that the metadata does not name; an input that the model does not have has its own."""
    asked = request(lengths=np.array([[1, 2]], "f4"), more=np.array([[3]], "f4"))

    assert known_values(asked, {"lengths": InputSpec("lengths", "FP32", (-1, 2))}) == [{"more": "3"}]
