"""A steady load while backends are killed, hung and slowed, and Redis is cut, by a seeded plan: the gateway stands."""

from __future__ import annotations

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_door import NO_LIMIT, SAMPLES, golden, request_of
from e2e_steady import SteadyLoad

from infermesh.cli.processes import Mesh, Restarts
from infermesh.cli.store import fill
from infermesh.cli.valkey import Valkey

SEED = int(os.environ.get("INFERMESH_FAULT_SEED", "20261"))
RATE = 40.0  # calls a second
TIMEOUT_S = 1.0
SLACK_S = 1.0  # of a machine whose two cores also start predictors
WARM_S = 4.0
GROWTH_BYTES = 24 * 2**20
VICTIMS = ("predictor", "predictor-2", "transformer", "transformer-2")
# A predictor's start costs seconds of a core, so most faults are of the kinds that a process survives.
KINDS = {"hang": 5, "slow": 3, "cut": 2, "kill": 2}


class Faults:
    """Does what the plan says to the processes, by their ids, and takes it back when it is time."""

    def __init__(self, mesh: Mesh, store: Valkey, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._mesh = mesh
        self._store = store
        self._draw = random.Random(seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._stopped: set[str] = set()
        self._number = 0

    def run(self, seconds: float, faults: int, every_s: float) -> None:
        """Faults at random moments, `every_s` apart on average, for so long, and as long again until there were so many: on a
        busy machine victims take longer to come back. Then everything runs again."""
        began = following = time.monotonic()
        while (so_far := time.monotonic() - began) < seconds or (self.done.total() < faults and so_far < 2 * seconds):
            if time.monotonic() >= following:
                self._one()
                following += self._draw.expovariate(1 / every_s)
            self._do_due()
            time.sleep(0.002)
        while self._later:
            self._do_due()
            time.sleep(0.002)

    def _one(self) -> None:
        kind = self._draw.choices(list(KINDS), weights=list(KINDS.values()))[0]
        victim, lasts_s = self._draw.choice(VICTIMS), self._draw.uniform(0.2, 3.0)
        if kind == "cut":
            victim = "store"
        if victim in self._stopped or (victim != "store" and self._mesh.state(victim) != "ready"):
            return  # it has a fault already
        if kind == "kill":
            os.kill(self._mesh.pid(victim), signal.SIGKILL)
        elif kind == "slow":  # it runs a quarter of the time
            for at in range(int(lasts_s / 0.08)):
                self._at(at * 0.08, victim, signal.SIGSTOP)
                self._at(at * 0.08 + 0.06, victim, signal.SIGCONT)
        else:
            self._at(0.0, victim, signal.SIGSTOP)
            self._at(lasts_s, victim, signal.SIGCONT)
        self.done[kind] += 1

    def _at(self, in_s: float, victim: str, number: signal.Signals) -> None:
        pid = self._store.pid if victim == "store" else self._mesh.pid(victim)

        def act() -> None:
            if number == signal.SIGSTOP:
                self._stopped.add(victim)
            else:
                self._stopped.discard(victim)
            if victim == "store" or (self._mesh.status(victim) is None and self._mesh.pid(victim) == pid):
                os.kill(pid, number)

        self._number += 1
        heapq.heappush(self._later, (time.monotonic() + in_s, self._number, act))

    def _do_due(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()


def _endured(seconds: float, faults: int) -> None:
    requests = [
        request_of("iris", golden("iris")[-1]["inputs"]),
        request_of("fraud-detector", golden("fraud-detector")[1]["request"]),
    ]
    print(f"seed {SEED}")
    with Valkey() as store:
        fill(SAMPLES / "config" / "transformer.yaml", SAMPLES / "features", store.url)
        services = ("gateway", "transformer", "predictor")
        with Mesh(
            redis_url=store.url,
            services=services,
            replicas=2,
            env=NO_LIMIT,
            restarts=Restarts(limit=1000, longest_s=0.2),
        ) as mesh:
            done = Faults(mesh, store, SEED)
            with SteadyLoad(mesh.address("gateway"), requests, rate=RATE, timeout_s=TIMEOUT_S, slack_s=SLACK_S) as load:
                time.sleep(WARM_S)
                pid, before = mesh.pid("gateway"), _resident_bytes(mesh.pid("gateway"))
                done.run(seconds, faults, seconds / (faults * 1.3))
                for victim in VICTIMS:
                    mesh.wait_until(victim, "ready")
                _wait(lambda: load.in_a_row >= 40)
            grown = _resident_bytes(mesh.pid("gateway")) - before
            assert mesh.pid("gateway") == pid
            began = time.monotonic()
            status = mesh.stop_one("gateway")
            left_s = time.monotonic() - began
            under_way = next(line["in_flight"] for line in mesh.logs("gateway") if line["message"] == "draining")
    told = (SEED, dict(done.done), dict(load.ended), load.texts, grown)
    print(told)
    assert done.done.total() >= faults, told
    assert load.ended.total() == load.begun, told
    assert not load.shed, told
    assert load.late == [], told
    assert set(load.ended) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}, told
    assert load.ended["OK"] > 0.6 * load.begun, told
    assert grown < GROWTH_BYTES, told
    assert (status, under_way, left_s < 10) == (0, 0, True), told  # what is stuck would hold it for all of its grace


def test_some_faults_leave_no_call_without_an_end() -> None:
    """Each call is answered, or has failed, by its deadline; nothing is left under way, and memory is what it was."""
    _endured(12.0, 8)


@pytest.mark.long
def test_five_minutes_of_faults_leave_no_call_without_an_end() -> None:
    """The same for 300 s and at least 200 faults."""
    _endured(300.0, 200)


def _wait(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the mesh did not come to rest"
        time.sleep(0.02)


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
