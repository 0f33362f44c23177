"""How long calls wait while a table of 1,000 models is read anew: the worst lag of the gateway's event loop in each reload.

python -m benchmarks.routes_reload [--models 1000] [--reloads 50] [--calls 200] [--in-thread]

A gateway's route table over backends in this process, on uvloop, answers a steady load of calls while its file is written anew,
each time with other weights, and taken over as `services.gateway.app` does it. Lag is by how much a timer of 2 ms comes late. In
each reload it is watched from the moment the file is written until 100 ms after the table was taken over. Beside it: the same
lag over as long a time without a reload, and with `--in-thread` the file is parsed in a thread of the gateway's process instead.
The bound is that of the issue: the median over the reloads of the worst lag is 20 ms or less.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvloop
import yaml

from benchmarks.processes import machine
from infermesh.call import Call
from infermesh.config import BackendConfig, BreakerConfig
from infermesh.filters import Retry, RetryBudget
from infermesh.garbage import settle_garbage
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from infermesh.transport import RemoteService
from services.gateway.backends import Backend
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.readiness import ReadinessWatch
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes import read_routes
from services.gateway.routes_reader import read_routes_apart
from services.gateway.watched_file import followed

BOUND_MS = 20.0
TICK_S = 0.002
AFTER_S = 0.1
BACKENDS = ("predictor", "transformer", "explainer")


class Nowhere(RemoteService):
    """A remote backend that answers by itself: what is compiled is the real thing, and what is measured no other process."""

    def variant(self, *, model: str = "", version: str = "") -> Nowhere:
        return Nowhere(self.backend, self.name, model=model, version=version, endpoints=self._endpoints)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await asyncio.sleep(0)
        return pb.ModelInferResponse(model_name=request.model_name, model_version="1")

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


class Lag:
    """By how much timers come late, at worst since it was last taken."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def watch(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self._worst = max(self._worst, time.perf_counter() - due)

    def take(self) -> float:
        worst, self._worst = self._worst, 0.0
        return worst


def routes(models: int, canary: int) -> str:
    variants = [
        {"name": "stable", "version": 1, "weight": 100 - canary},
        {"name": "canary", "version": 2, "weight": canary},
    ]
    rule = {
        "when": {"tenant": ["acme", "globex"], "metadata": {"x-region": "eu"}},
        "weights": {"stable": 1, "canary": 1},
    }
    written = [
        {
            "model": f"model-{number:04}",
            "aliases": [f"model-{number:04}-latest"],
            "backend": "transformer",
            "explanations": {"backend": "explainer"},
            "sticky": {"metadata": "x-card"},
            "variants": variants,
            "rules": [rule],
            "shadows": [{"name": "candidate", "fraction": 0.0, "version": 3}],
        }
        for number in range(models)
    ]
    return yaml.dump({"routes": written}, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), default_flow_style=None)


@asynccontextmanager
async def background(*loops):
    tasks = [asyncio.ensure_future(each) for each in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def load(table: RouteTable, models: int, calls_per_s: int, done: list[int]) -> None:
    pause_s, number = 1 / calls_per_s, 0
    while True:
        number += 1
        request = pb.ModelInferRequest(model_name=f"model-{number % models:04}")
        await table.infer(request, Call(metadata={"x-card": str(number)}))
        done[0] += 1
        await asyncio.sleep(pause_s)


async def main(options: argparse.Namespace) -> None:
    print(f"{machine()}\n{options.models} models, {options.reloads} reloads, about {options.calls} calls/s")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "routes.yaml"
        file.write_text(routes(options.models, 10))
        print(f"the file has {file.stat().st_size / 1024:.0f} KiB")
        backends = {}
        for name in BACKENDS:
            remote = Nowhere(BackendConfig(target="127.0.0.1:1"), name)
            backends[name] = Backend(name, remote, (Retry(3, RetryBudget(0.2, 10), lambda outcome: None),))
        metrics = GatewayMetrics(Metrics("gateway"))
        watch = ReadinessWatch()
        began = time.perf_counter()
        table = RouteTable(
            read_routes(file, BACKENDS),
            backends,
            metrics,
            resilience=Resilience(DeadlineConfig(), BreakerConfig(), metrics),
            watch=watch,
        )
        print(f"read and compiled at once, before anything is served: {time.perf_counter() - began:.2f} s")
        settle_garbage()
        watch.start()
        lag, done = Lag(), [0]
        read = read_routes if options.in_thread else read_routes_apart
        taken = asyncio.Event()

        def observe(good: bool) -> None:
            assert good, "the file could not be used"
            taken.set()

        following = followed(file, partial(read, backends=BACKENDS), table.take_over, observe, every_s=60)
        async with following, background(lag.watch(), load(table, options.models, options.calls, done)):
            await asyncio.sleep(1)
            worst, quiet, took = [], [], []
            for number in range(options.reloads):
                text = routes(options.models, 5 + number % 2 * 5)
                await asyncio.sleep(0.2)
                lag.take()
                taken.clear()
                file.write_text(text)
                began = time.perf_counter()
                await asyncio.wait_for(taken.wait(), 60)
                took.append(time.perf_counter() - began)
                await asyncio.sleep(AFTER_S)
                worst.append(lag.take() * 1e3)
                await asyncio.sleep(min(took[-1], 2.0))
                quiet.append(lag.take() * 1e3)
        await watch.close()
        await table.close()
        for backend in backends.values():
            await backend.remote.close()
    print(f"{done[0]} calls were answered; a reload took {statistics.median(took):.2f} s (median)")
    median = statistics.median(worst)
    print(f"worst lag of a reload: median {median:.1f} ms, largest {max(worst):.1f} ms")
    print(f"without a reload:      median {statistics.median(quiet):.1f} ms, largest {max(quiet):.1f} ms")
    print(f"bound {BOUND_MS:g} ms for the median: {'met' if median <= BOUND_MS else 'NOT met'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--reloads", type=int, default=50)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--in-thread", action="store_true")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
