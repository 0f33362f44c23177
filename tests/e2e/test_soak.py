"""A minute of load while replicas come and go: nothing is lost, nothing grows."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from e2e_door import DRAINED, golden, request_of
from e2e_engines import serving_pids
from e2e_load import Load

from infermesh.cli.processes import SERVICES, Mesh, Restarts
from infermesh.cli.valkey import Valkey

SECONDS = 60.0
SEED = 20_261
GROWTH_BYTES = 24 * 2**20  # of a process that lives through it all: pools and caches fill in the first seconds


@pytest.mark.long
def test_a_minute_of_faults_loses_no_call(store: Valkey) -> None:
    """Predictors are killed, replicas told to go and started again, by a seeded plan under load: every call is answered OK."""
    draw = random.Random(SEED)
    request = request_of("iris", golden("iris")[-1]["inputs"])
    with Mesh(redis_url=store.url, replicas=2, env=DRAINED, restarts=Restarts(limit=1000)) as mesh:
        faults = 0
        with Load([mesh.address("gateway"), mesh.address("gateway-2")], request, callers=4) as load:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                if draw.random() < 0.5:
                    victim = draw.choice(["predictor", "predictor-2"])
                    restarts = mesh.restarts(victim)
                    os.kill(mesh.pid(victim), signal.SIGKILL)
                    mesh.wait_restarted(victim, restarts + 1)
                else:
                    mesh.restart(draw.choice([*SERVICES, *(f"{service}-2" for service in SERVICES)]))
                faults += 1
                load.wait_for(50)

    assert faults >= 10
    assert set(load.ended) == {"OK"}, (load.ended, load.failures[:3])


@pytest.mark.long
def test_memory_stays_flat_under_load(unlimited: Mesh) -> None:
    """20,000 calls through gateway, transformer and predictor leave every process about as large as 4,000 did."""
    request = request_of("fraud-detector", golden("fraud-detector")[1]["request"], "2")
    with Load([unlimited.address("gateway")], request, callers=16) as load:
        load.wait_for(4_000)
        before = {service: _resident_bytes(unlimited.pid(service)) for service in SERVICES}
        load.wait_for(16_000, timeout_s=180)
        after = {service: _resident_bytes(unlimited.pid(service)) for service in SERVICES}

    grown = {service: after[service] - before[service] for service in SERVICES}
    assert set(load.ended) == {"OK"}, (load.ended, load.failures[:3])
    assert all(growth < GROWTH_BYTES for growth in grown.values()), grown


def _resident_bytes(pid: int) -> int:
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in serving_pids(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")
