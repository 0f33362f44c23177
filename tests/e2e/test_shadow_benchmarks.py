"""The benchmarks of mirroring and comparison at work, without a load: what they would call a fault is one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.comparing import costs, not_compared, taken
from benchmarks.gateway_cost import iris_request, iris_response
from benchmarks.gateways import Did, check, gateway, gateway_did, sampled
from benchmarks.mirror_hung import GROWTH_BYTES, IN_FLIGHT_BOUND, faults
from benchmarks.processes import ROOT, free_port, process

CALLS = 40


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a backend that answers every call with the same bytes."""
    file, port = tmp_path_factory.mktemp("backend") / "response.bin", free_port()
    file.write_bytes(iris_response().SerializeToString())
    with process(["-m", "benchmarks.canned_backend", str(file), str(port)], port):
        yield port


def test_a_comparing_gateway_counts_every_pair(backend: int, tmp_path: Path) -> None:
    """Each call's copy is compared, what was handed over is counted by the comparing process, and its time is told apart."""
    settings = {"MIRRORING__SUPPRESS_LAG": "1h"}  # however busy the machine is
    shadowed = gateway(tmp_path / "g", backend, mirrored=1, candidate_port=backend, compared=True, settings=settings)
    with shadowed as (contender, port):
        for _ in range(CALLS):
            check(contender, iris_request(), iris_response())
        _eventually(lambda: gateway_did(port).copies["mirrored"] == CALLS)  # the copy ends after its call
        _eventually(lambda: not_compared(gateway_did(port), taken(contender)) == [])  # and a repeat after that
        counted, did, cost = taken(contender), gateway_did(port), costs(contender)

    assert did.copies == Counter(mirrored=CALLS)
    assert did.pairs["compared"] == CALLS
    assert counted == did.pairs["compared"] + did.pairs["repeated"]
    assert cost.worker_s > 0
    assert cost.gateway_s > 0


def test_pairs_that_were_not_compared_fail_the_row() -> None:
    """None at all, too few, dropped or lost ones, and fewer counted than were handed over."""
    copies = Counter(mirrored=1000)
    assert not not_compared(Did(Counter(), copies, Counter(compared=1000, repeated=100)), 1100)
    assert not not_compared(Did(Counter(), copies, Counter(compared=995, skipped=5)), 995)
    assert not_compared(Did(Counter(), Counter(), Counter()), 0) == ["of 0 copies that were answered 0 were compared"]
    for pairs, counted in (
        (Counter(compared=980, skipped=20), 980),
        (Counter(compared=999, dropped=1), 999),
        (Counter(compared=1000, lost=1), 1000),
        (Counter(compared=1000), 999),
    ):
        assert len(not_compared(Did(Counter(), copies, pairs), counted)) == 1, pairs


def test_a_hung_shadow_under_an_open_load(backend: int, tmp_path: Path) -> None:
    """All calls are answered, and the copies in flight are told."""
    hung, file = free_port(), tmp_path / "request.bin"
    file.write_bytes(iris_request().SerializeToString())
    watched = {"CONCURRENCY__MODE": "observe", "MIRRORING__SUPPRESS_LAG": "1h"}
    with (
        process(["-m", "benchmarks.hung_backend", str(hung)], hung),
        gateway(tmp_path / "g", backend, mirrored=1, candidate_port=hung, settings=watched) as (contender, port),
    ):
        check(contender, iris_request(), iris_response())
        command = [sys.executable, "-m", "benchmarks.open_load", contender.target, str(file), "1", "100", contender.key]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        in_flight = sampled(port, "infermesh_gateway_in_flight", backend="candidate")
        answered = sampled(port, "infermesh_requests_total", code="OK")

    result = json.loads(done.stdout)
    assert (result["calls"], result["errors"]) == (100, 0)
    assert answered == 102  # the check, and a call before the load
    assert in_flight <= IN_FLIGHT_BOUND


def test_what_a_hung_shadow_may_not_do() -> None:
    """Let a call fail, pass its bound or never reach it, or take memory."""
    assert not faults(0, [0, 63, IN_FLIGHT_BOUND], GROWTH_BYTES)
    assert faults(1, [IN_FLIGHT_BOUND], 0) == ["1 calls failed"]
    assert len(faults(0, [IN_FLIGHT_BOUND + 1], 0)) == 1
    assert len(faults(0, [3], 0)) == 1
    assert len(faults(0, [IN_FLIGHT_BOUND], GROWTH_BYTES + 1)) == 1


def _eventually(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        pause.wait(0.05)
