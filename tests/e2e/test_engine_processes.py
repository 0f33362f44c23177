"""The Envoy processes of a service under load: one replica that is told to go, one process that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from e2e_door import golden, request_of
from e2e_engines import serving_pids
from e2e_load import Load

from infermesh.cli.processes import Mesh
from infermesh.cli.scrape import scrape

PROCESSES = 2
CALLERS = 6
SETTINGS = {
    "INFERMESH_PREDICTOR__SERVER__PROCESSES": str(PROCESSES),
    "INFERMESH_PREDICTOR__SERVER__DRAIN": "300ms",  # callers are to see that a replica goes
}


@pytest.fixture(scope="module")
def predictors(engine: str) -> Iterator[Mesh]:
    """Two replicas, each with two processes; nobody stands before them who would try a call again."""
    with Mesh(services=["predictor"], replicas=2, env={"predictor": SETTINGS}) as mesh:
        yield mesh


def test_a_replica_that_is_told_to_go_loses_no_call(predictors: Mesh) -> None:
    """SIGTERM to one of two replicas under load, and its return: every call is answered OK, and the service ends with 0."""
    request = request_of("iris", golden("iris")[-1]["inputs"])

    with Load([predictors.address("predictor"), predictors.address("predictor-2")], request) as load:
        load.wait_for(50)
        status = predictors.stop_one("predictor")
        load.wait_for(50)
        predictors.start_one("predictor")
        load.wait_for(50)

    assert status == 0
    assert set(load.ended) == {"OK"}, (load.ended, load.failures[:3])


def test_a_killed_process_loses_what_it_held(predictors: Mesh) -> None:
    """SIGKILL to one of two processes of a port under load: a caller loses the call that it had there, and those that it makes
    until it is connected to another one; the supervisor, which stays, puts a process in its place, and nothing is lost then."""
    request = request_of("iris", golden("iris")[-1]["inputs"])
    supervisor = predictors.pid("predictor")
    before = serving_pids(supervisor)
    killed = min(before)

    with ExitStack() as running:
        loads = [
            running.enter_context(Load([predictors.address("predictor")], request, callers=1)) for _ in range(CALLERS)
        ]
        for load in loads:
            load.wait_for(10)
        os.kill(killed, signal.SIGKILL)
        for load in loads:
            load.wait_for(10)
        while len(serving_pids(supervisor) - {killed}) < PROCESSES or _restarts(predictors) < 1:
            loads[0].wait_for(10)

    with Load([predictors.address("predictor")], request, callers=1) as after:
        after.wait_for(50)

    assert len(before) == PROCESSES
    assert predictors.pid("predictor") == supervisor
    assert {code for load in loads for code in load.ended} <= {"OK", "UNAVAILABLE"}, [load.failures for load in loads]
    assert set(after.ended) == {"OK"}


def _restarts(predictors: Mesh) -> float:
    samples = scrape(predictors.http_address("predictor"))
    return 0 if samples is None else samples.total("infermesh_engine_restarts_total", reason="failed")
