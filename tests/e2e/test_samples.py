"""The sample models through the public door: scikit-learn's own answers, with features from a real store."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from e2e_door import CALLER, VARIANT, Door, check_golden, golden, request_of

from infermesh.cli.processes import Mesh
from infermesh.cli.scrape import scrape
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs

NAMES = {
    ("iris", "1"): "previous", ("iris", "2"): "stable", ("breast-cancer", "1"): "stable",
    ("fraud-detector", "1"): "stable", ("fraud-detector", "2"): "canary", ("credit-score", "1"): "stable",
    ("credit-score", "2"): "canary",
}  # fmt: skip
MODELS = ("iris", "breast-cancer", "fraud-detector", "credit-score")
CASES = [(model, case) for model in MODELS for case in golden(model)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(("model", "case"), CASES, ids=[f"{m}-{c['version']}-{i}" for i, (m, c) in enumerate(CASES)])
def test_the_answer_is_scikit_learns_own(door: Door, model: str, case: dict[str, Any], raw: bool) -> None:
    """An entity id goes in at the gateway, and the answer is what scikit-learn predicts on that entity's features."""
    if model == "fraud-detector" and case["version"] == "3":
        version = ""  # the candidate is no version of the route: asked for by nobody but the shadow
        with pytest.raises(grpc.RpcError) as refused:
            door.infer(request_of(model, case["request"], "3", raw=raw))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        return
    version = case["version"]

    response = door.infer(request_of(model, case.get("request") or case["inputs"], version, raw=raw))

    assert response.model_version == version
    assert response.parameters[VARIANT].string_param == NAMES[model, version]
    assert bool(response.raw_output_contents) is raw
    check_golden(response, case)


def test_the_split_is_near_its_weights_and_a_card_stays(door: Door) -> None:
    """Cards meet stable and canary about 9 to 1, each card always the same one, and the response says which."""
    request = golden("fraud-detector")[1]["request"]
    met: dict[str, set[str]] = {}
    for number in range(1, 201):
        tensors = [t if t["name"] != "card_id" else {**t, "data": [f"c-{number:04d}"]} for t in request]
        for _ in range(2):
            response = door.infer(request_of("fraud-detector", tensors))
            variant = response.parameters[VARIANT].string_param
            assert response.model_version == {"stable": "1", "canary": "2"}[variant]
            met.setdefault(f"c-{number:04d}", set()).add(variant)

    shares = Counter(next(iter(variants)) for variants in met.values())

    assert all(len(variants) == 1 for variants in met.values())
    assert 5 <= shares["canary"] <= 40, shares  # 99.99 % of binomial(200, 0.1) lies between


def test_the_shadow_sees_copies_and_the_caller_does_not(door: Door, mesh: Mesh) -> None:
    """Copies reach version 3 of the predictor, marked as the candidate's, while callers get versions 1 and 2 only."""
    request = request_of("fraud-detector", golden("fraud-detector")[1]["request"])

    versions = {door.infer(request).model_version for _ in range(20)}

    assert versions <= {"1", "2"}
    labels = {"model": "fraud-detector", "version": "3", "variant": "candidate", "code": "OK"}

    def seen() -> float:
        samples = scrape(mesh.http_address("predictor"))
        return samples.total("infermesh_requests_total", **labels) if samples else 0.0

    _eventually(lambda: seen() > 0)


def test_an_explanation_adds_up_in_terms_of_the_looked_up_features(door: Door) -> None:
    """An explanation of an entity id names the stored features, and its parts sum to the prediction."""
    request = request_of("fraud-detector-explainer", golden("fraud-detector")[1]["request"])

    response = door.infer(request)

    outputs = read_outputs(response)
    names = [name.decode() for name in outputs["feature_names"]]
    assert {"amount", "merchant_category", "hour", "country"} < set(names)
    assert len(names) == 12
    total = outputs["base_values"] + outputs["attributions"].sum(axis=1)
    np.testing.assert_allclose(total, outputs["predictions"], atol=1e-9)


def test_a_missing_patient_is_told_and_a_missing_card_is_a_median_card(door: Door) -> None:
    """Missing features follow each view's policy: fail by name, or default and say so."""
    patient = request_of("breast-cancer", [_entity("patient_id", "nobody")])
    with pytest.raises(grpc.RpcError) as failed:
        door.infer(patient)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "nobody" in failed.value.details()
    assert dict(failed.value.trailing_metadata())["x-infermesh-hop"] == "transformer"

    tensors = [
        t if t["name"] != "card_id" else _entity("card_id", "nobody") for t in golden("fraud-detector")[1]["request"]
    ]
    response = door.infer(request_of("fraud-detector", tensors))

    assert response.parameters["infermesh_features"].string_param == "defaulted"


def test_who_has_no_key_learns_nothing(door: Door) -> None:
    """Without a key every model is UNAUTHENTICATED, whether it exists or not; live answers all the same."""
    for model in ("iris", "no-such-model"):
        with pytest.raises(grpc.RpcError) as refused:
            door.stub.ModelInfer(pb.ModelInferRequest(model_name=model), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    assert door.stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live


def test_a_stream_answers_in_order_and_goes_on_after_a_failure(door: Door) -> None:
    """ModelStreamInfer through all hops: answers in the order of the requests, a failure is a message in between."""
    good = request_of("fraud-detector", golden("fraud-detector")[1]["request"])
    bad = request_of("breast-cancer", [_entity("patient_id", "nobody")])
    requests = []
    for number, each in enumerate([good, bad, good]):
        request = pb.ModelInferRequest()
        request.CopyFrom(each)
        request.id = str(number)
        requests.append(request)

    answers = list(door.stub.ModelStreamInfer(iter(requests), timeout=20, metadata=CALLER))

    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    variants = [answer.infer_response.parameters[VARIANT].string_param for answer in answers]
    assert variants[0] == variants[2] in ("stable", "canary")


def _entity(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]}


def _eventually(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        pause.wait(0.05)
