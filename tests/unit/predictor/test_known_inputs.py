"""What was checked once is not checked again, and what was not is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_inputs, read_inputs
from services.predictor.known_inputs import MAX_KNOWN, KnownInputs


def request_of(*, raw: bool = True, **arrays: np.ndarray[Any, Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", id="1")
    add_inputs(request, arrays, raw=raw)
    return request


def learnt(*requests: pb.ModelInferRequest) -> KnownInputs:
    known = KnownInputs()
    for request in requests:
        known.learn(request, read_inputs(request))
    return known


def test_inputs_like_earlier_ones_are_read_as_the_checks_would_read_them() -> None:
    earlier = request_of(x=np.ones((2, 3), np.float32), n=np.ones(2, np.int64))
    request = request_of(x=np.arange(6, dtype=np.float32).reshape(2, 3), n=np.array([7, -8]))

    arrays = learnt(earlier).read(request)

    assert arrays is not None and list(arrays) == ["x", "n"]
    for name, expected in read_inputs(request).items():
        assert (arrays[name].dtype, arrays[name].shape) == (expected.dtype, expected.shape)
        assert arrays[name].tobytes() == expected.tobytes()
        assert not arrays[name].flags.writeable


@pytest.mark.parametrize(
    "request_",
    [
        request_of(x=np.ones((3, 3), np.float32)),  # another number of rows
        request_of(x=np.ones((2, 3), np.int32)),
        request_of(y=np.ones((2, 3), np.float32)),
        request_of(x=np.ones((2, 3), np.float32), y=np.ones(1, np.float32)),
        request_of(raw=False, x=np.ones((2, 3), np.float32)),
        pb.ModelInferRequest(model_name="m"),
    ],
)
def test_inputs_unlike_earlier_ones_are_to_be_checked(request_: pb.ModelInferRequest) -> None:
    known = learnt(request_of(x=np.ones((2, 3), np.float32)))

    assert known.read(request_) is None


@pytest.mark.parametrize("contents", [b"", b"\0" * 23, b"\0" * 25])
def test_contents_of_another_length_are_to_be_checked(contents: bytes) -> None:
    request = request_of(x=np.ones((2, 3), np.float32))
    known = learnt(request)
    request.raw_input_contents[0] = contents

    assert known.read(request) is None


def test_more_contents_than_inputs_are_to_be_checked() -> None:
    request = request_of(x=np.ones((2, 3), np.float32))
    known = learnt(request)
    request.raw_input_contents.append(b"\0" * 24)

    assert known.read(request) is None


def test_raw_and_typed_contents_together_are_to_be_checked() -> None:
    request = request_of(x=np.ones(2, np.float32))
    known = learnt(request)
    request.inputs[0].contents.fp32_contents.extend([1.0, 2.0])

    assert known.read(request) is None


def test_an_unset_parameter_of_an_input_is_to_be_checked() -> None:
    request = request_of(x=np.ones(2, np.float32))
    known = learnt(request)
    request.inputs[0].parameters["p"].SetInParent()

    assert known.read(request) is None


def test_two_inputs_are_not_one_whose_bytes_are_theirs() -> None:
    """Protobuf merges two messages that stand one behind the other; a description is known by itself."""
    two = request_of(x=np.ones(2, np.float32), y=np.ones(2, np.float32))
    known = learnt(two)
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=two.raw_input_contents)
    request.inputs.add().ParseFromString(b"".join(tensor.SerializeToString() for tensor in two.inputs))

    assert known.read(request) is None


@pytest.mark.parametrize(
    "array", [np.array([True, False]), np.array([b"a", b"b"], np.object_), np.empty((0, 3), np.float32)]
)
def test_contents_that_have_to_be_looked_at_are_never_known(array: np.ndarray[Any, Any]) -> None:
    request = request_of(x=array)

    assert learnt(request).read(request) is None


def test_what_is_known_has_a_bound() -> None:
    requests = [request_of(x=np.ones(rows, np.float32)) for rows in range(1, MAX_KNOWN + 2)]

    known = learnt(*requests)

    assert known.read(requests[-1]) is not None
    assert sum(known.read(request) is not None for request in requests) <= MAX_KNOWN


def test_a_long_description_is_not_kept() -> None:
    request = request_of(**{"x" * 5000: np.ones(1, np.float32)})

    assert learnt(request).read(request) is None
