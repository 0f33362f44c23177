"""ERR: what is wrong with the tensors, outputs and parameters of a request; all INVALID_ARGUMENT.

The first input of the subject has two rows of some columns in FP32. At an explainer the cases that need another datatype
are a wrong datatype besides, which is INVALID_ARGUMENT too.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from conformance_cases import Refuse, Subject, case, named
from conformance_wire import TYPED_TYPES, Client, Value, bytes_raw, fp32, infer, typed_contents
from grpc import StatusCode

from infermesh.protocol import open_inference_pb2 as pb

INVALID = StatusCode.INVALID_ARGUMENT

# Two elements were said to come.
BYTES_FAULTS = {
    "truncated-element": bytes_raw([b"one", b"two"])[:-1],
    "truncated-prefix": bytes_raw([b"one"]) + b"\x03\x00",
    "bad-prefix": bytes_raw([b"one"]) + struct.pack("<I", 0xFFFFFFFF) + b"two",
    "too-few": bytes_raw([b"one"]),
    "too-many": bytes_raw([b"one", b"two", b"three"]),
    "nothing": b"",
}

OUT_OF_RANGE = {
    "INT8": ("int_contents", (128, -129)),
    "INT16": ("int_contents", (1 << 15, -(1 << 15) - 1)),
    "UINT8": ("uint_contents", (256,)),
    "UINT16": ("uint_contents", (1 << 16,)),
}


def echo_of(subject: Subject, datatype: str) -> tuple[str, str]:
    """The model that takes one input `x` of `datatype`, and the name that a refusal gives it; else the subject."""
    if subject.model != "conf-sum":
        return subject.model, subject.backend
    return (f"conf-echo-{datatype.lower()}",) * 2


@case("ERR-raw-count", each={"entries": ("one-less", "one-more")})
def test_raw_entries_are_as_many_as_inputs(subject: Subject, refuse: Refuse, entries: str) -> None:
    """A raw request with more or fewer raw entries than inputs is refused."""
    request = subject.request()
    request.raw_input_contents.append(request.raw_input_contents[0])
    if entries == "one-less":
        request = subject.request()
        request.inputs.add().CopyFrom(request.inputs[0])
        request.inputs[-1].name = "another"

    refuse(request, INVALID, subject.backend, len(request.inputs), len(request.raw_input_contents))


@case("ERR-raw-and-contents", each={"contents": ("full", "empty")})
def test_raw_and_contents_exclude_each_other(subject: Subject, refuse: Refuse, contents: str) -> None:
    """A request with raw contents and typed contents is refused, even if the latter are empty: presence counts."""
    request = subject.request()
    request.inputs[0].contents.SetInParent()
    if contents == "full":
        request.inputs[0].contents.CopyFrom(typed_contents("FP32", request.raw_input_contents[0]))

    refuse(request, INVALID, subject.backend, subject.inputs[0], "raw", "contents")


@case("ERR-raw-beside-typed")
def test_a_request_has_one_mode_for_all_inputs(client: Client, refuse: Refuse) -> None:
    """A request with one input raw and another typed is refused, though each has its contents once."""
    request = infer(named(client, "conf-sum"), fp32("a", [[1, 2, 3, 4]]), fp32("b", [[1, 2, 3, 4]]))
    request.inputs[1].contents.CopyFrom(typed_contents("FP32", request.raw_input_contents.pop()))

    refuse(request, INVALID, "conf-sum", "raw")


@case("ERR-no-contents", each={"contents": ("unset", "empty")})
def test_elements_need_contents(subject: Subject, refuse: Refuse, contents: str) -> None:
    """An input that has elements by its shape, and neither raw nor typed contents, is refused."""
    request = subject.request()
    request.ClearField("raw_input_contents")
    if contents == "empty":
        request.inputs[0].contents.SetInParent()

    refuse(request, INVALID, subject.backend, subject.inputs[0], "contents")


@case("ERR-raw-length", each={"change": (-1, 1, -4, 4)})
def test_raw_bytes_fit_the_shape(subject: Subject, refuse: Refuse, change: int) -> None:
    """A raw entry that is shorter or longer than its shape and datatype say is refused, with both lengths."""
    good = fp32(subject.inputs[0], [[0.0] * subject.columns] * 2)
    length = len(good.raw) + change

    refuse(
        subject.with_first(replace(good, raw=(good.raw + bytes(4))[:length])),
        INVALID,
        subject.backend,
        subject.inputs[0],
        len(good.raw),
        length,
    )


@case("ERR-typed-count", each={"change": (-1, 1)})
def test_typed_elements_fit_the_shape(subject: Subject, refuse: Refuse, change: int) -> None:
    """Typed contents with fewer or more elements than the shape says are refused, with both numbers."""
    good = fp32(subject.inputs[0], [[0.0] * subject.columns] * 2)
    elements = 2 * subject.columns + change

    refuse(
        subject.with_first(replace(good, raw=bytes(4 * elements)), mode="typed"),
        INVALID,
        subject.backend,
        subject.inputs[0],
        2 * subject.columns,
        elements,
    )


@case("ERR-typed-field")
def test_typed_contents_are_in_the_field_of_the_datatype(subject: Subject, refuse: Refuse) -> None:
    """Typed contents in the field of another datatype are refused, with both fields named."""
    request = subject.request(mode="typed")
    request.inputs[0].contents.Clear()
    request.inputs[0].contents.fp64_contents.extend([0.0] * (2 * subject.columns))

    refuse(request, INVALID, subject.backend, subject.inputs[0], "fp32_contents", "fp64_contents")


@case("ERR-typed-second-field")
def test_typed_contents_are_in_one_field(subject: Subject, refuse: Refuse) -> None:
    """Typed contents with a second field beside the right one are refused, with the second field named."""
    request = subject.request(mode="typed")
    request.inputs[0].contents.bytes_contents.append(b"second")

    refuse(request, INVALID, subject.backend, subject.inputs[0], "bytes_contents")


@case("ERR-typed-half", each={"datatype": ("FP16", "BF16")})
def test_half_precision_travels_only_raw(subject: Subject, refuse: Refuse, datatype: str) -> None:
    """FP16 and BF16 in typed contents are refused: no field is theirs."""
    model, named = echo_of(subject, datatype)
    request = infer(model)
    request.inputs.add(name="x", datatype=datatype, shape=[2]).contents.fp32_contents.extend([1.0, 2.0])

    refuse(request, INVALID, named, "x", datatype)


@case("ERR-datatype-unknown", each={"datatype": ("FP99", "", "STRING", "fp32", "Fp32")})
def test_an_unknown_datatype_is_refused(subject: Subject, refuse: Refuse, datatype: str) -> None:
    """A datatype that the protocol does not have is refused, and so is one in lower case."""
    good = fp32(subject.inputs[0], [[0.0] * subject.columns] * 2)

    refuse(subject.with_first(replace(good, datatype=datatype)), INVALID, subject.backend, subject.inputs[0], datatype)


@case("ERR-datatype", each={"datatype": ("INT32", "UINT32", "FP64", "BYTES")})
def test_a_datatype_other_than_the_models_is_refused(subject: Subject, refuse: Refuse, datatype: str) -> None:
    """A datatype that is not the model's is refused, also one of the same size, with both datatypes."""
    elements = 2 * subject.columns
    raw = bytes_raw([b"0"] * elements) if datatype == "BYTES" else bytes(elements * (8 if "64" in datatype else 4))

    refuse(
        subject.with_first(Value(subject.inputs[0], datatype, (2, subject.columns), raw)),
        INVALID,
        subject.backend,
        subject.inputs[0],
        "FP32",
        datatype,
    )


@case("ERR-rank", each={"rank": (0, 1, 3)})
def test_a_rank_other_than_the_models_is_refused(subject: Subject, refuse: Refuse, rank: int) -> None:
    """A scalar, a vector or a tensor of rank 3 is refused by a model of matrices, with the shape that is right."""
    shape = {0: (), 1: (subject.columns,), 3: (1, 2, subject.columns)}[rank]
    raw = bytes(4 * (1 if rank == 0 else subject.columns * (1 if rank == 1 else 2)))

    refuse(
        subject.with_first(Value(subject.inputs[0], "FP32", shape, raw)),
        INVALID,
        subject.backend,
        subject.inputs[0],
        f"[-1, {subject.columns}]",
    )


@case("ERR-rank-scalar")
def test_a_vector_is_no_scalar(subject: Subject, refuse: Refuse) -> None:
    """A vector is refused by a model of scalars, though it has one element."""
    model, named = ("conf-echo-fp32-scalar",) * 2 if subject.model == "conf-sum" else (subject.model, subject.backend)

    refuse(infer(model, fp32("x", [1.0])), INVALID, named, "x", "[1]")


@case("ERR-dimension", each={"change": (-1, 1)})
def test_a_fixed_dimension_other_than_the_models_is_refused(subject: Subject, refuse: Refuse, change: int) -> None:
    """A fixed dimension of another size is refused, with the shape that is right and the one that came."""
    columns = subject.columns + change

    refuse(
        subject.with_first(fp32(subject.inputs[0], [[0.0] * columns] * 2)),
        INVALID,
        subject.backend,
        subject.inputs[0],
        f"[-1, {subject.columns}]",
        f"[2, {columns}]",
    )


@case("ERR-negative-dimension", each={"shape": ((-1, None), (-2, None), (-2, -1))})
def test_a_negative_dimension_is_refused(subject: Subject, refuse: Refuse, shape: tuple[int, int | None]) -> None:
    """A negative dimension is refused, also -1, and also where two of them make a positive product."""
    dimensions = tuple(subject.columns if size is None else size for size in shape)

    refuse(
        subject.with_first(Value(subject.inputs[0], "FP32", dimensions, bytes(8 * subject.columns))),
        INVALID,
        subject.backend,
        subject.inputs[0],
        dimensions[0],
    )


@case("ERR-overflow", each={"rows": (1 << 62, (1 << 63) - 1)})
def test_a_product_of_dimensions_that_overflows_is_refused(subject: Subject, refuse: Refuse, rows: int) -> None:
    """A shape whose number of elements does not fit into an int64 is refused, and nothing of its size is allocated."""
    refuse(
        subject.with_first(Value(subject.inputs[0], "FP32", (rows, subject.columns), bytes(8 * subject.columns))),
        INVALID,
        subject.backend,
        subject.inputs[0],
        rows,
    )


@case("ERR-huge-shape")
def test_a_shape_that_promises_more_than_came_is_refused(subject: Subject, refuse: Refuse) -> None:
    """A shape of many terabytes over a few bytes is refused, and nothing of its size is allocated."""
    refuse(
        subject.with_first(Value(subject.inputs[0], "FP32", (1 << 40, subject.columns), bytes(8 * subject.columns))),
        INVALID,
        subject.backend,
        subject.inputs[0],
    )


@case("ERR-range", each={"datatype": OUT_OF_RANGE})
def test_a_value_out_of_range_is_refused(subject: Subject, refuse: Refuse, datatype: str) -> None:
    """A typed value that its datatype can't hold is refused, not wrapped around."""
    model, named = echo_of(subject, datatype)
    field, values = OUT_OF_RANGE[datatype]
    for value in values:
        request = infer(model)
        request.inputs.add(
            name="x", datatype=datatype, shape=[2], contents=pb.InferTensorContents(**{field: [0, value]})
        )

        refuse(request, INVALID, named, "x", datatype)


@case("ERR-range-bool")
def test_a_raw_bool_is_zero_or_one(subject: Subject, refuse: Refuse) -> None:
    """A raw BOOL that is neither 0x00 nor 0x01 is refused."""
    model, named = echo_of(subject, "BOOL")

    refuse(infer(model, Value("x", "BOOL", (3,), b"\x00\x01\x02")), INVALID, named, "x", "BOOL")


@case("ERR-bytes", each={"fault": BYTES_FAULTS})
def test_raw_bytes_are_framed(subject: Subject, refuse: Refuse, fault: str) -> None:
    """Raw BYTES that are cut off, that have a bad prefix or that hold too few or too many elements are refused."""
    model, named = echo_of(subject, "BYTES")

    refuse(infer(model, Value("x", "BYTES", (2,), BYTES_FAULTS[fault])), INVALID, named, "x", "BYTES")


@case("ERR-input-missing", each={"inputs": ("one", "all")})
def test_a_missing_input_is_refused(subject: Subject, refuse: Refuse, inputs: str) -> None:
    """A request without an input that the model needs is refused, with the input named."""
    request = subject.request()
    del request.inputs[-1 if inputs == "one" else 0 :]
    del request.raw_input_contents[-1 if inputs == "one" else 0 :]

    refuse(request, INVALID, subject.backend, subject.inputs[-1] if inputs == "one" else "input")


@case("ERR-input-unexpected")
def test_an_unexpected_input_is_refused(subject: Subject, refuse: Refuse) -> None:
    """A request with an input that the model does not have is refused, with the input named."""
    request = subject.request()
    request.inputs.add(name="surplus", datatype="FP32", shape=[1])
    request.raw_input_contents.append(bytes(4))

    refuse(request, INVALID, subject.backend, "surplus")


@case("ERR-input-duplicate")
def test_a_duplicate_input_is_refused(subject: Subject, refuse: Refuse) -> None:
    """A request with an input twice is refused, with the input named."""
    request = subject.request()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])

    refuse(request, INVALID, subject.backend, subject.inputs[0])


@case("ERR-output-unknown")
def test_an_unknown_output_is_refused(subject: Subject, refuse: Refuse) -> None:
    """A request for an output that the model does not have is refused, also beside one that it has."""
    refuse(subject.request(outputs=[subject.outputs[0], "no-such-output"]), INVALID, subject.backend, "no-such-output")


@case("ERR-parameter-unset", each={"carrier": ("request", "input", "output")})
def test_an_unset_parameter_is_refused(subject: Subject, refuse: Refuse, carrier: str) -> None:
    """A parameter without a value is refused on a request, on an input and on an output, with its key named."""
    request = subject.request(outputs=subject.outputs)
    message = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[carrier]
    message.parameters["unset-one"].SetInParent()

    refuse(request, INVALID, subject.backend, "unset-one")


@case("ERR-parameter-reserved", each={"key": ("priority", "timeout")})
def test_a_reserved_parameter_of_the_wrong_kind_is_refused(subject: Subject, refuse: Refuse, key: str) -> None:
    """A text for a priority or a timeout is refused, and so is a number below zero."""
    for parameter in (pb.InferParameter(string_param="soon"), pb.InferParameter(int64_param=-1)):
        refuse(subject.request(parameters={key: parameter}), INVALID, subject.backend, key)


@case("ERR-unused-types", each={"datatype": TYPED_TYPES})
def test_empty_contents_are_refused_for_every_datatype(subject: Subject, refuse: Refuse, datatype: str) -> None:
    """One element of any datatype with empty typed contents is refused: there is no default element."""
    model, named = echo_of(subject, datatype)
    request = infer(model)
    request.inputs.add(name="x", datatype=datatype, shape=[1]).contents.SetInParent()

    refuse(request, INVALID, named, "x")
