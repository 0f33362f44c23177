"""INF: shapes, modes, outputs, ids, versions and parameters of a good request."""

from __future__ import annotations

import grpc
import numpy as np
from conformance_cases import Refuse, Subject, case, named, waited
from conformance_models import LABELS, MODELS
from conformance_wire import MODES, Client, Value, answer, bytes_raw, fp32, infer, int64

from infermesh.protocol import open_inference_pb2 as pb

PARAMETERS = {
    "bool_param": pb.InferParameter(bool_param=False),
    "int64_param": pb.InferParameter(int64_param=-(1 << 63)),
    "string_param": pb.InferParameter(string_param=""),
    "double_param": pb.InferParameter(double_param=float("-inf")),
    "uint64_param": pb.InferParameter(uint64_param=(1 << 64) - 1),
}

RESERVED = {
    "priority-uint64": ("priority", pb.InferParameter(uint64_param=1)),
    "priority-int64": ("priority", pb.InferParameter(int64_param=0)),
    "timeout": ("timeout", pb.InferParameter(int64_param=30_000_000)),
}


@case("INF-S-scalar", each={"mode": MODES})
def test_a_scalar_has_an_empty_shape(client: Client, mode: str) -> None:
    """A tensor of shape [] is one element, and comes back with shape []."""
    response = client.infer(infer("conf-echo-fp32-scalar", fp32("x", 1.5), mode=mode))

    assert answer(response)["y"] == fp32("y", 1.5)


@case("INF-S-zero", each={"mode": MODES})
def test_a_tensor_may_have_no_elements(client: Client, mode: str) -> None:
    """A zero-size dimension is legal in a vector, in a matrix and for BYTES, and comes back as it was."""
    for model, sent in {
        "conf-echo-fp32": Value("x", "FP32", (0,), b""),
        "conf-echo-fp32-r2": Value("x", "FP32", (3, 0), b""),
        "conf-echo-fp32-r4": Value("x", "FP32", (2, 0, 1, 3), b""),
        "conf-echo-bytes": Value("x", "BYTES", (0,), b""),
    }.items():
        response = client.infer(infer(model, sent, mode=mode))

        assert answer(response)["y"] == Value("y", sent.datatype, sent.shape, b"")


@case("INF-S-zero-contents")
def test_zero_elements_may_come_with_empty_contents(client: Client) -> None:
    """Typed contents that are present and empty are as good for zero elements as none."""
    request = infer("conf-echo-fp32", Value("x", "FP32", (0,), b""), mode="typed")
    request.inputs[0].contents.SetInParent()

    assert answer(client.infer(request))["y"].shape == (0,)


@case("INF-S-rank", each={"shape": ((1, 1), (2, 3), (7, 1), (1, 9), (2, 1, 3, 2), (1, 1, 1, 1))})
def test_dimensions_of_any_size_keep_their_order(client: Client, shape: tuple[int, ...]) -> None:
    """A matrix and a tensor of rank 4 come back row-major with the shape that was sent."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    response = client.infer(infer(f"conf-echo-fp32-r{len(shape)}", fp32("x", values)))

    assert answer(response)["y"] == fp32("y", values)


@case("INF-S-batch", each={"rows": (1, 2, 3, 17, 64, 1000)})
def test_a_batch_may_have_any_number_of_rows(client: Client, rows: int) -> None:
    """Each row of a batch gets its own result, whatever the number of rows."""
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)

    response = client.infer(infer("conf-batch", fp32("x", values)))

    assert answer(response)["y"] == fp32("y", values.sum(axis=1, keepdims=True))


@case("INF-MIX-order", each={"mode": MODES})
def test_inputs_are_matched_by_name(client: Client, mode: str) -> None:
    """Inputs may come in any order; raw contents follow the order of the request, not that of the model."""
    a, b = fp32("a", [[1, 2, 3, 4]]), fp32("b", [[10, 20, 30, 40]])

    response = client.infer(infer("conf-sum", b, a, mode=mode))

    assert answer(response)["difference"] == fp32("difference", [[-9, -18, -27, -36]])


@case("INF-MIX-datatypes", each={"mode": MODES})
def test_inputs_may_have_different_datatypes(client: Client, mode: str) -> None:
    """Inputs of different datatypes and sizes in one request keep to themselves, texts among them."""
    number, count, text = _mixed_inputs()
    asked = ("text_out", "number_out", "count_out")

    outputs = answer(client.infer(infer("conf-mixed", count, text, number, outputs=asked, mode=mode)))

    assert [outputs[name].raw for name in asked] == [text.raw, number.raw, count.raw]


@case("INF-REP-typed")
def test_a_typed_request_gets_a_typed_response(client: Client) -> None:
    """Typed in, typed out: every output has contents, and there is no raw entry."""
    asked = ("number_out", "count_out", "text_out")

    response = client.infer(infer("conf-mixed", *_mixed_inputs(), outputs=asked, mode="typed"))

    assert not response.raw_output_contents
    assert [output.HasField("contents") for output in response.outputs] == [True, True, True]


@case("INF-REP-raw")
def test_a_raw_request_gets_a_raw_response(client: Client) -> None:
    """Raw in, raw out: one raw entry per output, and no output has contents."""
    response = client.infer(infer("conf-mixed", *_mixed_inputs()))

    assert len(response.raw_output_contents) == len(response.outputs) == 4
    assert not any(output.HasField("contents") for output in response.outputs)


@case("INF-REP-half")
def test_an_output_of_half_precision_makes_the_response_raw(client: Client) -> None:
    """A typed request gets all outputs raw when one of them is FP16: never a mix of both modes."""
    response = client.infer(infer("conf-mixed", *_mixed_inputs(), mode="typed"))

    assert len(response.raw_output_contents) == len(response.outputs) == 4
    assert answer(response)["half_out"].raw == np.array([1.5, -0.0], np.float16).tobytes()


@case("INF-OUT-all")
def test_no_outputs_asked_is_all(client: Client, subject: Subject) -> None:
    """A request that names no outputs gets all of them, in the order of the metadata."""
    assert tuple(answer(client.infer(subject.request()))) == subject.outputs


@case("INF-OUT-one", each={"mode": MODES})
def test_only_the_outputs_that_were_asked_for_come(client: Client, subject: Subject, mode: str) -> None:
    """A request that names one output gets this one, with the content that it has among all."""
    everything = answer(client.infer(subject.request(mode=mode)))

    for name in subject.outputs:
        assert answer(client.infer(subject.request(outputs=[name], mode=mode))) == {name: everything[name]}


@case("INF-OUT-order", each={"mode": MODES})
def test_outputs_come_in_the_order_asked(client: Client, subject: Subject, mode: str) -> None:
    """Outputs come in the order of the request, each with its own content."""
    everything = answer(client.infer(subject.request(mode=mode)))
    backwards = subject.outputs[::-1]

    outputs = answer(client.infer(subject.request(outputs=backwards, mode=mode)))

    assert tuple(outputs) == backwards
    assert outputs == everything


@case("INF-OUT-duplicate")
def test_an_output_asked_for_twice_comes_once(client: Client, subject: Subject) -> None:
    """Duplicates among the outputs are collapsed to the first."""
    first, second = subject.outputs[:2]

    response = client.infer(subject.request(outputs=[second, first, second, first]))

    assert tuple(answer(response)) == (second, first)


@case("INF-ID-echo", each={"text": ("", "7", "a request with spaces", "ünïcödé 🙂")})
def test_the_id_is_echoed(client: Client, subject: Subject, text: str) -> None:
    """The response has the id of the request, and an empty id stays empty."""
    assert client.infer(subject.request(request_id=text)).id == text


@case("INF-ID-name")
def test_the_model_name_is_echoed(client: Client, subject: Subject) -> None:
    """The response has the name that was asked for."""
    assert client.infer(subject.request()).model_name == subject.model


@case("INF-ID-concurrent")
def test_ids_never_cross(client: Client, subject: Subject) -> None:
    """Of 100 concurrent requests each gets its own id and its own rows."""
    sizes = [1 + number % 4 for number in range(100)]
    alone = {rows: answer(client.infer(subject.request(rows=rows))) for rows in set(sizes)}

    calls = [client.start("ModelInfer", subject.request(rows, request_id=str(at))) for at, rows in enumerate(sizes)]
    responses = waited(calls)

    assert [response.id for response in responses] == [str(at) for at in range(100)]
    for rows, response in zip(sizes, responses, strict=True):
        together = answer(response)
        assert {name: one.shape for name, one in together.items()} == {n: one.shape for n, one in alone[rows].items()}
        if subject.model == "conf-sum":  # an explanation may be drawn, and so differ in its last bits
            assert together == alone[rows]


@case("INF-VER-newest")
def test_no_version_is_the_newest_by_number(client: Client) -> None:
    """Without a version the newest answers, and versions are numbers: 10 is newer than 2."""
    response = client.infer(infer(named(client, "conf-versions"), fp32("x", [0.5])))

    assert response.model_version == "10"
    assert _answer_of_a_version(client, response) == 10.5


@case("INF-VER-each", each={"version": MODELS["conf-versions"].versions})
def test_the_version_that_was_asked_for_answers(client: Client, version: int) -> None:
    """A version that was asked for is the one that computes, and the response says so."""
    response = client.infer(infer(named(client, "conf-versions"), fp32("x", [0.5]), version=str(version)))

    assert response.model_version == str(version)
    assert _answer_of_a_version(client, response) == 0.5 + version


@case("INF-VER-label", each={"label": tuple(LABELS)})
def test_a_label_stands_for_its_version(client: Client, label: str) -> None:
    """A label that the model declares is taken for a version by infer, metadata and ready; the response carries the number."""
    name = named(client, "conf-versions")

    response = client.infer(infer(name, fp32("x", [0.5]), version=label))

    assert response.model_version == str(LABELS[label])
    assert _answer_of_a_version(client, response) == 0.5 + LABELS[label]
    assert client.call("ModelMetadata", pb.ModelMetadataRequest(name=name, version=label)).name == name
    assert client.call("ModelReady", pb.ModelReadyRequest(name=name, version=label)).ready


@case("INF-VER-label-unknown")
def test_a_label_that_is_not_declared_is_refused(refuse: Refuse, client: Client) -> None:
    """A label that the model does not declare is INVALID_ARGUMENT, and the refusal names those that it does."""
    request = infer(named(client, "conf-versions"), fp32("x", [0.5]), version="canary")

    refuse(request, grpc.StatusCode.INVALID_ARGUMENT, "canary", *LABELS)


@case("INF-VER-answered", each={"version": ("", "1")})
def test_the_response_has_the_version_that_answered(client: Client, subject: Subject, version: str) -> None:
    """The response carries the number of the version that answered, asked for or not."""
    assert client.infer(subject.request(version=version)).model_version == "1"


@case("INF-PAR-kinds", each={"kind": PARAMETERS})
def test_every_kind_of_parameter_is_accepted(client: Client, subject: Subject, kind: str) -> None:
    """A parameter of any kind with an unknown key is accepted on a request, an input and an output, at its extremes."""
    request = subject.request(outputs=subject.outputs)
    for carrier in (request, request.inputs[0], request.outputs[0]):
        carrier.parameters["an unknown key"].CopyFrom(PARAMETERS[kind])

    assert tuple(answer(client.infer(request))) == subject.outputs


@case("INF-PAR-reserved", each={"name": RESERVED})
def test_reserved_parameters_are_accepted_in_their_kinds(client: Client, subject: Subject, name: str) -> None:
    """A priority as uint64 or as a non-negative int64, and a timeout as int64 microseconds, are accepted."""
    key, parameter = RESERVED[name]

    assert tuple(answer(client.infer(subject.request(parameters={key: parameter})))) == subject.outputs


@case("INF-PAR-sequence")
def test_a_sequence_is_no_error(client: Client, subject: Subject) -> None:
    """The parameters of a sequence are accepted together, with an id that is a number or a text."""
    for sequence in (pb.InferParameter(uint64_param=42), pb.InferParameter(string_param="forty-two")):
        parameters = {
            "sequence_id": sequence,
            "sequence_start": pb.InferParameter(bool_param=True),
            "sequence_end": pb.InferParameter(bool_param=True),
        }

        assert tuple(answer(client.infer(subject.request(parameters=parameters)))) == subject.outputs


def _answer_of_a_version(client: Client, response: pb.ModelInferResponse) -> float:
    """What conf-versions computed; an explanation has it among its outputs."""
    value = answer(response)["predictions" if client.target.hop == "explainer" else "y"]
    (number,) = np.frombuffer(value.raw, {"FP32": "<f4", "FP64": "<f8"}[value.datatype])
    return float(number)


def _mixed_inputs() -> tuple[Value, Value, Value]:
    text = Value("text", "BYTES", (2,), bytes_raw([b"", b"two words"]))
    return fp32("number", [1.5, -0.0]), int64("count", [-1, 1 << 40]), text
