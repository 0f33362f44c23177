"""Processes that are told to go, or die, under load: no call that could be answered is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import grpc
import pytest
from e2e_door import DRAINED, SAMPLES, Door, golden, request_of
from e2e_load import Load

from infermesh.cli.processes import Mesh
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey
from infermesh.protocol import open_inference_pb2 as pb

CONFIG = SAMPLES / "config" / "transformer.yaml"


@pytest.fixture(scope="module")
def twice(store: Valkey, engine: str) -> Iterator[Mesh]:
    """A mesh with two replicas of every service."""
    with Mesh(redis_url=store.url, replicas=2, env=DRAINED) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("service", "model", "calls"),
    [
        ("gateway", "fraud-detector", 20),
        pytest.param("transformer", "fraud-detector", 20, marks=pytest.mark.long),
        ("predictor", "fraud-detector", 20),
        pytest.param(
            "explainer", "fraud-detector-explainer", 8, marks=pytest.mark.long
        ),  # hundreds of predictions each
    ],
)
def test_a_replica_that_is_told_to_go_loses_no_call(twice: Mesh, service: str, model: str, calls: int) -> None:
    """SIGTERM to one of two replicas under load, and its return: every call is answered OK, and the process ends with 0."""
    request = request_of(model, golden("fraud-detector")[1]["request"])

    with Load([twice.address("gateway"), twice.address("gateway-2")], request) as load:
        load.wait_for(calls)
        status = twice.stop_one(service)
        load.wait_for(calls)
        twice.start_one(service)
        load.wait_for(calls)

    assert status == 0
    assert set(load.ended) == {"OK"}, (load.ended, load.failures[:3])


def test_the_last_replica_answers_what_it_accepted(unlimited: Mesh) -> None:
    """SIGTERM to the only predictor: calls end OK or UNAVAILABLE, well before their deadline, and it serves when it is back."""
    request = request_of("iris", golden("iris")[-1]["inputs"])

    with Load([unlimited.address("gateway")], request) as load:
        load.wait_for(50)
        status = unlimited.stop_one("predictor")
        load.wait_for(20)
        unlimited.start_one("predictor")
        before = load.ended["OK"]
        while load.ended["OK"] == before:
            load.wait_for(1)

    assert status == 0
    assert set(load.ended) <= {"OK", "UNAVAILABLE"}, (load.ended, load.failures[:3])


def test_a_predictor_that_dies_is_covered_and_comes_back(twice: Mesh) -> None:
    """SIGKILL to one of two predictors under load: its calls are tried again at the other; a new one takes its place."""
    request = request_of("iris", golden("iris")[-1]["inputs"])
    killed, restarts = twice.pid("predictor"), twice.restarts("predictor")

    with Load([twice.address("gateway")], request) as load:
        load.wait_for(50)
        os.kill(killed, signal.SIGKILL)
        load.wait_for(50)
        twice.wait_restarted("predictor", restarts + 1)
        load.wait_for(50)

    assert twice.pid("predictor") != killed
    assert set(load.ended) == {"OK"}, (load.ended, load.failures[:3])


def test_redis_that_stops_is_survived_and_used_again() -> None:
    """Without Redis a card is the median card, and said so; a patient is UNAVAILABLE; nobody gets unready; then it heals."""
    card = request_of("fraud-detector", golden("fraud-detector")[1]["request"])
    patient = request_of("breast-cancer", golden("breast-cancer")[1]["request"])
    with Valkey() as store:
        fill(CONFIG, SAMPLES / "features", store.url)
        with Mesh(redis_url=store.url) as mesh:
            door = Door(mesh.address("gateway"))
            assert _features(door.infer(card)) == "present"

            store.stop()

            assert _features(door.infer(card)) == "redis_unavailable"
            with pytest.raises(grpc.RpcError) as failed:
                door.infer(patient)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert mesh.state("transformer") == "ready"

            store.start()
            fill(CONFIG, SAMPLES / "features", store.url)

            _eventually_present(door, card)
            door.infer(patient)
            door.close()


def _features(response: pb.ModelInferResponse) -> str:
    return str(response.parameters["infermesh_features"].string_param)


def _eventually_present(door: Door, request: pb.ModelInferRequest) -> None:
    for _ in range(2000):  # the breaker looks again within seconds
        if _features(door.infer(request)) == "present":
            return
    raise AssertionError("the features did not come back")
