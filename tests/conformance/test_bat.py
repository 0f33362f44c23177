"""BAT: calls that a server may merge into one batch, seen from outside. None sees or harms another."""

from __future__ import annotations

import statistics
import time
from typing import Any

import grpc
import numpy as np
from conformance_cases import Subject, case, check_refusal, waited
from conformance_models import FAIL_TABLE, MODELS
from conformance_wire import Client, Value, answer, fp32, infer, int64

from infermesh.protocol import open_inference_pb2 as pb

MEMBERS = 120  # at once: far more than any server has cores, so that calls meet in its queue
EVERY = 3  # the share of members that are bad, failing, cancelled or expired

# A lone call takes a little longer than the question whether its model is ready, which nobody makes a batch of. Both are
# measured in turn, so that they share what else the machine does, and a wait of a few milliseconds shows on any.
LONE_SAMPLES = 41
LONE_MOST = 5


@case("BAT-rows")
def test_every_member_gets_its_own_rows(client: Client) -> None:
    """Each of many concurrent requests gets the results of its own rows, in their order, and no others."""
    outcomes = waited([client.start("ModelInfer", _member(at)) for at in range(MEMBERS)])

    for at, outcome in enumerate(outcomes):
        _check_member(at, outcome)


@case("BAT-modes")
def test_every_member_gets_its_own_mode(client: Client) -> None:
    """Typed and raw requests at the same time get their own rows, each in its own mode."""
    outcomes = waited(
        [client.start("ModelInfer", _member(at, mode="raw" if at % 2 else "typed")) for at in range(MEMBERS)]
    )

    for at, outcome in enumerate(outcomes):
        _check_member(at, outcome)
        assert bool(outcome.raw_output_contents) == (at % 2 == 1)


@case("BAT-bad-member")
def test_a_bad_member_harms_nobody(client: Client) -> None:
    """Requests with a wrong shape, datatype or length are refused, and those beside them get their own rows."""
    bad = [
        infer("conf-batch", fp32("x", np.zeros((2, 4)))),
        infer("conf-batch", Value("x", "FP64", (1, 3), bytes(24))),
        infer("conf-batch", Value("x", "FP32", (1, 3), bytes(11))),
    ]
    requests = [bad[at // EVERY % 3] if at % EVERY == 0 else _member(at) for at in range(MEMBERS)]

    outcomes = waited([client.start("ModelInfer", request) for request in requests])

    for at, outcome in enumerate(outcomes):
        if at % EVERY == 0:
            check_refusal(outcome, grpc.StatusCode.INVALID_ARGUMENT, "conf-batch", "x")
        else:
            _check_member(at, outcome)


@case("BAT-failing-member")
def test_a_failing_member_harms_nobody(client: Client) -> None:
    """A request that makes the model fail is INTERNAL by itself, and those beside it get their own rows."""
    indices = [[99] if at % EVERY == 0 else [at % 4] * (1 + at % 2) for at in range(MEMBERS)]

    outcomes = waited([client.start("ModelInfer", infer("conf-fail", int64("index", one))) for one in indices])

    for index, outcome in zip(indices, outcomes, strict=True):
        if index == [99]:
            check_refusal(outcome, grpc.StatusCode.INTERNAL)
        else:
            assert answer(_served(outcome))["y"] == fp32("y", [FAIL_TABLE[one] for one in index])


@case("BAT-cancelled-member")
def test_a_cancelled_member_harms_nobody(client: Client) -> None:
    """Requests that are cancelled while they wait or run leave those beside them with their own rows."""
    calls = [client.start("ModelInfer", _member(at)) for at in range(MEMBERS)]
    for call in calls[::EVERY]:
        call.cancel()

    outcomes = waited(calls)

    for at, outcome in enumerate(outcomes):
        if at % EVERY or isinstance(outcome, pb.ModelInferResponse):
            _check_member(at, outcome)


@case("BAT-expired-member")
def test_an_expired_member_harms_nobody(client: Client) -> None:
    """Requests whose deadline passes while they wait or run leave those beside them with their own rows."""
    calls = [
        client.start("ModelInfer", _member(at), **({"timeout": 0.001 * (1 + at % 5)} if at % EVERY == 0 else {}))
        for at in range(MEMBERS)
    ]

    outcomes = waited(calls)

    for at, outcome in enumerate(outcomes):
        if at % EVERY or isinstance(outcome, pb.ModelInferResponse):
            _check_member(at, outcome)
        else:  # a server that knows how long its runs take may refuse at once what it can't answer in time
            assert outcome.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


@case("BAT-shapes")
def test_different_shapes_are_never_merged(client: Client) -> None:
    """Concurrent requests whose other dimensions differ each come back with their own shape and content."""
    sent = [np.full((1 + at % 3, 1 + at % 5), at, np.float32) for at in range(MEMBERS)]

    outcomes = waited([client.start("ModelInfer", infer("conf-echo-fp32-r2", fp32("x", one))) for one in sent])

    for one, outcome in zip(sent, outcomes, strict=True):
        assert answer(_served(outcome))["y"] == fp32("y", one)


@case("BAT-outputs")
def test_different_outputs_are_never_merged(client: Client, subject: Subject) -> None:
    """Concurrent requests for different outputs each get those that they asked for, in their order."""
    choices: list[tuple[str, ...]] = [(), ("sum",), ("difference",), ("difference", "sum")]
    asked = [choices[at % 4] for at in range(MEMBERS)]
    values = [fp32("a", [[at, 1, 2, 3]]) for at in range(MEMBERS)]

    outcomes = waited(
        [
            client.start("ModelInfer", infer("conf-sum", a, fp32("b", [[1, 1, 1, 1]]), outputs=outputs))
            for a, outputs in zip(values, asked, strict=True)
        ]
    )

    for at, (outputs, outcome) in enumerate(zip(asked, outcomes, strict=True)):
        came = answer(_served(outcome))
        all_of_them = {
            "sum": fp32("sum", [[at + 1, 2, 3, 4]]),
            "difference": fp32("difference", [[at - 1, 0, 1, 2]]),
        }
        assert tuple(came) == (outputs or subject.outputs)
        assert came == {name: all_of_them[name] for name in came}


@case("BAT-parameters")
def test_different_parameters_are_never_merged(client: Client) -> None:
    """Concurrent requests with different ids, priorities, timeouts and unknown parameters get their own answers."""
    parameters = [
        {},
        {"priority": pb.InferParameter(uint64_param=1)},
        {"timeout": pb.InferParameter(int64_param=20_000_000)},
        {"of one caller": pb.InferParameter(string_param="and of no other")},
    ]

    outcomes = waited(
        [
            client.start("ModelInfer", _member(at, request_id=str(at), parameters=parameters[at % 4]))
            for at in range(MEMBERS)
        ]
    )

    for at, outcome in enumerate(outcomes):
        _check_member(at, outcome)
        assert outcome.id == str(at)
        if at % 4 != 3:
            assert "of one caller" not in outcome.parameters


@case("BAT-versions")
def test_different_versions_are_never_merged(client: Client) -> None:
    """Concurrent requests for different versions of a model are each computed by their own."""
    versions = [MODELS["conf-versions"].versions[at % 3] for at in range(MEMBERS)]

    outcomes = waited(
        [
            client.start("ModelInfer", infer("conf-versions", fp32("x", [at]), version=str(version)))
            for at, version in enumerate(versions)
        ]
    )

    for at, (version, outcome) in enumerate(zip(versions, outcomes, strict=True)):
        assert _served(outcome).model_version == str(version)
        assert answer(outcome)["y"] == fp32("y", [at + version])


@case("BAT-large-member")
def test_a_member_may_be_larger_than_any_batch(client: Client) -> None:
    """A request with more rows than a batch takes is served among small ones."""
    sizes = [5000 if at % 40 == 0 else 1 for at in range(MEMBERS)]
    sent = [np.full((rows, 3), at, np.float32) for at, rows in enumerate(sizes)]

    outcomes = waited([client.start("ModelInfer", infer("conf-batch", fp32("x", one))) for one in sent])

    for one, outcome in zip(sent, outcomes, strict=True):
        assert answer(_served(outcome))["y"] == fp32("y", one.sum(axis=1, keepdims=True))


@case("BAT-lone")
def test_a_lone_request_does_not_wait(client: Client) -> None:
    """A request that comes alone takes at most 5 times as long as ModelReady (medians of 41, by turns)."""
    asked = pb.ModelReadyRequest(name="conf-batch")
    client.infer(_member(0))  # both are warm then
    client.call("ModelReady", asked)
    lone_s, ready_s = [], []
    for at in range(LONE_SAMPLES):
        begin = time.perf_counter()
        outcome = client.infer(_member(at))
        between = time.perf_counter()
        client.call("ModelReady", asked)
        lone_s.append(between - begin)
        ready_s.append(time.perf_counter() - between)
        _check_member(at, outcome)

    assert statistics.median(lone_s) < LONE_MOST * statistics.median(ready_s)


@case("BAT-batched")
def test_what_is_batched_harms_nobody(client: Client) -> None:
    """Where batching is on, failing, bad, cancelled and expired calls among others of all kinds harm nobody.

    The others, of many rows, outputs and modes, get their own rows; those that fail do so as they would alone.
    """
    kinds = ["good", "good", "typed", "outputs", "fails", "bad", "cancelled", "expired", "large"]
    calls = [
        client.start(
            "ModelInfer", _batched(at, kinds[at % 9]), **({"timeout": 0.002} if kinds[at % 9] == "expired" else {})
        )
        for at in range(2 * MEMBERS)
    ]
    for call in calls[kinds.index("cancelled") :: 9]:
        call.cancel()

    outcomes = waited(calls)

    for at, outcome in enumerate(outcomes):
        kind = kinds[at % 9]
        if kind == "fails":
            check_refusal(outcome, grpc.StatusCode.INTERNAL)
        elif kind == "bad":
            check_refusal(outcome, grpc.StatusCode.INVALID_ARGUMENT, "conf-batched", "x")
        elif isinstance(outcome, pb.ModelInferResponse):
            expected = _batched_answer(at, kind)
            assert answer(outcome) == expected
            assert list(answer(outcome)) == list(expected)
            assert bool(outcome.raw_output_contents) == (kind != "typed")
        elif kind == "expired":
            assert outcome.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        else:
            assert kind == "cancelled", outcome


@case("BAT-merged", hops=("predictor",))
def test_what_waits_is_run_together(client: Client) -> None:
    """Where batching is on, calls that meet in the queue share runs, as the statistics tell."""
    before = _runs(client)

    outcomes = waited([client.start("ModelInfer", _batched(at, "good")) for at in range(MEMBERS)])

    for at, outcome in enumerate(outcomes):
        assert answer(_served(outcome)) == _batched_answer(at, "good")
    assert _runs(client) - before < MEMBERS


def _batched(at: int, kind: str) -> pb.ModelInferRequest:
    x = _batched_rows(at, kind)
    index = [99 if kind == "fails" else at % 4] * len(x)
    return infer(
        "conf-batched",
        fp32("x", np.zeros((len(x), 4)) if kind == "bad" else x),
        int64("index", index),
        mode="typed" if kind == "typed" else "raw",
        outputs=("z", "y") if kind == "outputs" else (),
    )


def _batched_rows(at: int, kind: str) -> np.ndarray:
    return np.full((100, 3), at, np.float32) if kind == "large" else _rows(at)


def _batched_answer(at: int, kind: str) -> dict[str, Value]:
    x = _batched_rows(at, kind)
    y, z = fp32("y", x.sum(axis=1, keepdims=True)), fp32("z", [FAIL_TABLE[at % 4]] * len(x))
    return {"z": z, "y": y} if kind == "outputs" else {"y": y, "z": z}


def _runs(client: Client) -> int:
    (of_model,) = client.call("ModelStatistics", pb.ModelStatisticsRequest(name="conf-batched")).model_stats
    return int(of_model.execution_count)


def _rows(at: int) -> np.ndarray:
    """One to five rows that no other member has, and whose sums are exact."""
    return np.arange(3 * (1 + at % 5), dtype=np.float32).reshape(-1, 3) + 100 * at


def _member(at: int, **rest: Any) -> pb.ModelInferRequest:
    return infer("conf-batch", fp32("x", _rows(at)), **rest)


def _check_member(at: int, outcome: object) -> None:
    assert answer(_served(outcome))["y"] == fp32("y", _rows(at).sum(axis=1, keepdims=True))


def _served(outcome: object) -> pb.ModelInferResponse:
    assert isinstance(outcome, pb.ModelInferResponse), outcome
    return outcome
