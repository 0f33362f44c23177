"""Rows for each CPU second of our lookup beside Feast's own `get_online_features`, on the same Valkey.

    python -m benchmarks.feast_lookup [--rounds 7] [--entities 1,100] [--seconds 1]

Cards with 50 FP32 features, written by Feast (in `.venv-feast`, into its Redis online store), and by us as packed rows. Feast
answers one request after the other, up to its own answer. Ours joins requests (`JoinFeatures`, from a request to the model's
request: it reads ids and makes the tensor as well), from Feast's rows and from packed ones, one at a time and 32 at a time. One
process each; the peers take turns, and what is counted is the CPU of the client's process. All must read the same values first.
Wanted 32 at a time: ≥ 10 × Feast, of packed rows (the same data as we store it), by which the exit status goes. Of Feast's own
rows it is said too whether they reach that: there one HMGET of 51 fields is answered where a packed row is one value.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.contenders import WrongAnswer
from benchmarks.feature_rows import (
    EVENT_TIME_US,
    LOOKED_UP,
    MODEL,
    NAMES,
    card_ids,
    feature_file,
    fill,
    request_for,
    values_of,
)
from benchmarks.processes import LOAD_CORE, ROOT, SERVER_CORE, machine
from infermesh.call import Call
from infermesh.cli.valkey import Valkey
from infermesh.protocol.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from infermesh.service import InferenceService
from infermesh.telemetry import Metrics
from infermesh.tensors import Array, read_inputs
from services.transformer.config import RedisConfig
from services.transformer.join_features import JoinFeatures
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.store import FeatureStore
from services.transformer.views import FeatureFile

PYTHON = ROOT / ".venv-feast" / "bin" / "python"
PROJECT = "shop"
LEAST = 10.0
CARDS = 400
AT_A_TIME = 32
FIRST = 7
FEAST = {"kind": "feast", "project": PROJECT}


class _Nobody(InferenceService):
    """Stands where the models are asked about a request that was refused; none is."""

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        raise AssertionError("nothing is asked of a model here")

    async def metadata(self, request: ModelMetadataRequest, call: Call) -> ModelMetadataResponse:
        raise AssertionError("a request was refused")

    async def ready(self, model: str = "", version: str = "") -> bool:
        return False


class Ours:
    """A join in this process. Where `layout` is Feast's, from Feast's rows."""

    def __init__(self, url: str, layout: dict[str, Any] | None) -> None:
        file = FeatureFile.model_validate(feature_file(layout))
        metrics = FeatureMetrics(Metrics("transformer"), file.views, file.services)
        config = RedisConfig.model_validate({"url": url, "timeout": "5s"})
        prefix, most = config.key_prefix, config.max_entities
        plan = JoinPlan(file, file.services[MODEL], prefix=prefix, max_entities=most, tally=metrics.tally)
        self.store = FeatureStore(config, metrics)
        self._join = JoinFeatures({MODEL: plan}, self.store, _Nobody())
        self._got = ModelInferRequest()

    async def ask(self, request: ModelInferRequest) -> None:
        await self._join(request, Call(), self._take)

    async def read(self, request: ModelInferRequest) -> Array:
        """What the model would get."""
        await self.ask(request)
        return read_inputs(self._got)[LOOKED_UP]

    async def _take(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        self._got = request
        return ModelInferResponse()

    async def rows_per_cpu_s(self, rows: int, at_a_time: int, seconds: float) -> tuple[float, float]:
        """And the ms of a request. Each of those at a time asks for cards of its own."""
        requests = 0
        asked = [request_for(worker * 7 % (CARDS - rows), rows) for worker in range(at_a_time)]
        await asyncio.gather(*map(self.ask, asked))
        began, cpu = time.perf_counter(), time.process_time()

        async def some(request: ModelInferRequest) -> None:
            nonlocal requests
            while time.perf_counter() < began + seconds:
                await self.ask(request)
                requests += 1

        await asyncio.gather(*map(some, asked))
        used, took = time.process_time() - cpu, time.perf_counter() - began
        return requests * rows / used, took * at_a_time / requests * 1000


class Theirs:
    """Feast in a process of its own."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def ask(self, told: dict[str, Any]) -> dict[str, Any]:
        """Its answer to one line. Raises RuntimeError when there is none."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(told) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"Feast's process ended with status {self._child.wait()}; run it by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def feast(folder: Path, port: int, entities: int, *, python: Path = PYTHON) -> Iterator[tuple[Theirs, str]]:
    """Feast with the cards in its store, and its version. Raises FileNotFoundError when its environment was not made."""
    if not python.is_file():
        raise FileNotFoundError(f"no {python}: make .venv-feast/ready")
    command = [str(python), str(Path(__file__).with_name("feast_online.py")), str(folder), f"127.0.0.1:{port}", PROJECT]
    child = subprocess.Popen(
        ["taskset", "-c", LOAD_CORE, *command],
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"FEAST_USAGE": "False"},
    )  # fmt: skip
    try:
        theirs = Theirs(child)
        columns = dict(zip(NAMES, values_of(entities).T.astype(float).tolist(), strict=True))
        ids = [each.decode() for each in card_ids(0, entities)]
        said = theirs.ask({"card_ids": ids, "features": columns, "time": EVENT_TIME_US / 1e6})
        yield theirs, said["feast"]
    finally:
        child.kill()
        child.wait()


async def check(theirs: Theirs, ours: Sequence[Ours], count: int) -> None:
    """Raises WrongAnswer unless all read the values that were written."""
    wanted = values_of(CARDS)[FIRST : FIRST + count]
    said = theirs.ask({"read": [each.decode() for each in card_ids(FIRST, count)]})
    read: list[Array] = [np.array([said[name] for name in NAMES], np.float32).T]
    read += [await each.read(request_for(FIRST, count)) for each in ours]
    for who, values in zip(("Feast", "ours, Feast's rows", "ours, packed rows"), read, strict=True):
        if not np.array_equal(values, wanted):
            raise WrongAnswer(f"{who}: other values than were written")


async def measure(url: str, port: int, folder: Path, counts: Sequence[int], rounds: int, seconds: float) -> bool:
    """Print the figures; whether packed rows reach what is wanted."""
    met = True
    with feast(folder, port, CARDS) as (theirs, version):
        print(f"{machine()}, feast {version}\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        ours = {"Feast's rows": Ours(url, FEAST), "packed rows": Ours(url, None)}
        peers = {f"{rows}, {many} at a time": (rows, many) for rows in ours for many in (1, AT_A_TIME)}
        for count in counts:
            await check(theirs, list(ours.values()), count)
            ids = [each.decode() for each in card_ids(FIRST, count)]
            one = theirs.ask({"measure": 3, "ids": ids})
            requests = max(1, round(seconds * 1000 / one["ms"]))
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in ("Feast", *peers)}
            for turn in range(rounds):
                first = turn % len(results)
                order = list(results)[first:] + list(results)[:first]
                for who in order:
                    if who == "Feast":
                        said = theirs.ask({"measure": requests, "ids": ids})
                        results[who].append((said["rows_per_cpu_s"], said["ms"]))
                    else:
                        results[who].append(await ours[peers[who][0]].rows_per_cpu_s(count, peers[who][1], seconds))
            print(f"\n{count} of {CARDS} cards in a request, {rounds} rounds")
            for who, figures in results.items():
                rate, ms = (statistics.median(each) for each in zip(*figures, strict=True))
                ratios = [mine / its for (mine, _), (its, _) in zip(figures, results["Feast"], strict=True)]
                ratio = statistics.median(ratios)
                told = f"   × Feast {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})" if who != "Feast" else ""
                if who.endswith(f"{AT_A_TIME} at a time"):
                    told += f"  wanted {LEAST:g}: {'met' if ratio >= LEAST else 'NOT met'}"
                    met &= ratio >= LEAST or not who.startswith("packed")
                print(f"{who:28} {rate:10,.0f} rows per CPU second  {ms:8.3f} ms a request{told}")
        for each in ours.values():
            await each.store.close()
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--entities", default="1,100", help="of a request; several figures are several runs")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    options = parser.parse_args()
    counts = [int(each) for each in options.entities.split(",")]
    with Valkey() as valkey, tempfile.TemporaryDirectory() as name:
        os.sched_setaffinity(valkey.pid, {int(SERVER_CORE)})
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        fill(valkey.url, CARDS)
        met = uvloop.run(measure(valkey.url, valkey.port, Path(name), counts, options.rounds, options.seconds))
    sys.exit(not met)


if __name__ == "__main__":
    main()
