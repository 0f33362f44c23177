"""The peers of the gateway's benchmark: each answers what the backend does, and lets nobody in without the key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import WrongAnswer
from benchmarks.gateway_cost import lost
from benchmarks.gateways import ENVOY, Did, bare, check, envoy, envoy_did, gateway, gateway_did
from benchmarks.pairs import Contender, Rounds
from benchmarks.processes import free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_inputs, add_outputs


@pytest.fixture(scope="module")
def request_() -> ModelInferRequest:
    message = ModelInferRequest(model_name="iris", id="1")
    add_inputs(message, {"features": np.zeros((1, 4), np.float32)})
    return message


@pytest.fixture(scope="module")
def response() -> ModelInferResponse:
    message = ModelInferResponse(model_name="iris", model_version="2", id="1")
    add_outputs(message, [("label", "INT64", np.array([0]))], raw=True)
    return message


@pytest.fixture(scope="module")
def backend(response: ModelInferResponse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a backend that answers every call with the response."""
    file, port = tmp_path_factory.mktemp("backend") / "response.bin", free_port()
    file.write_bytes(response.SerializeToString())
    with process(["-m", "benchmarks.canned_backend", str(file), str(port)], port):
        yield port


@pytest.mark.long
def test_envoy_answers_as_the_backend_does_and_counts_every_call(
    request_: ModelInferRequest, response: ModelInferResponse, backend: int, tmp_path: Path
) -> None:
    """With the key: the backend's answer, past the limit, to one of the two variants; without it: refused."""
    assert ENVOY.is_file(), "it comes with the development environment"

    with envoy(tmp_path / "envoy", backend) as (contender, admin):
        check(contender, request_, response)
        check(contender, request_, response)
        did = envoy_did(admin)

    assert did.calls == 2
    assert set(did.by_variant) == {"stable", "canary"}


def test_a_mirroring_gateway_sends_every_call_to_its_candidate(
    request_: ModelInferRequest, response: ModelInferResponse, backend: int, tmp_path: Path
) -> None:
    """With all calls mirrored, the copy of each is counted as answered, and nothing is lost."""
    settings = {"MIRRORING__SUPPRESS_LAG": "1h"}  # however busy the machine is
    mirroring = gateway(tmp_path / "gateway", backend, mirrored=1, candidate_port=backend, settings=settings)
    with mirroring as (contender, http_port):
        check(contender, request_, response)
        did = gateway_did(http_port)
        while not did.copies.total():  # the copy ends after its call
            did = gateway_did(http_port)

    assert did.calls == 1
    assert did.copies == Counter(mirrored=1)
    assert not lost(did)


def test_a_server_that_lets_anybody_in_is_not_measured(
    request_: ModelInferRequest, response: ModelInferResponse, backend: int
) -> None:
    """A contender that should check keys and does not is found before anything is measured."""
    with bare(backend) as floor, pytest.raises(WrongAnswer, match="without a good key was answered"):
        check(Contender(floor.name, floor.pids, floor.target, "a key"), request_, response)


def test_without_envoy_the_row_fails(tmp_path: Path) -> None:
    """It says what to run."""
    missing = envoy(tmp_path / "envoy", 1, binary=tmp_path / "none")

    with pytest.raises(FileNotFoundError, match="extra `envoy`"), missing:
        pass


def test_lost_copies_fail_the_row() -> None:
    """One in a hundred may be shed; none at all, or more, is no measurement of mirroring."""
    assert lost(Did(Counter(stable=1000), Counter()))
    assert not lost(Did(Counter(stable=1000), Counter(mirrored=99, shed=1)))
    assert lost(Did(Counter(stable=1000), Counter(mirrored=98, shed=2)))


def test_a_ratio_comes_from_the_same_rounds() -> None:
    """The one costs 3 and 2, the other 12 and 4: the one is 0.25 and 0.5 of the other."""
    measured = Rounds({"one": [{"cpu_us": 3}, {"cpu_us": 2}], "other": [{"cpu_us": 12}, {"cpu_us": 4}]})

    assert measured.ratio("one", "other").rounds == (0.25, 0.5)
