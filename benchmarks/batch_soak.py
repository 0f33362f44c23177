"""Ten thousand requests with random rows, priorities, deadlines and cancellations against one batching model, in process.

    python -m benchmarks.batch_soak [--requests 10000] [--seed 1]

Prints who survived, how late the latest answer was, and memory before and after. Ends with status 1 when anybody got other
rows than its own, was answered more than a turn of the loop after its deadline, or anything is left in the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.batching_model import COLUMNS, write_model
from benchmarks.processes import machine
from infermesh.call import Call
from infermesh.deadline import NO_DEADLINE, Deadline
from infermesh.errors import DeadlineExceeded, ResourceExhausted
from infermesh.filters import WithinDeadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.tensors import add_inputs, read_outputs
from services.predictor.config import PredictorConfig
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source

MOST_LATE_S = 0.05  # the loop's own turn: a caller whose answer was ready in time is resumed after it
MOST_GROWTH = 1.25
SAMPLED = 0.05  # of the answers are compared as a whole with what the model says of them alone


async def soak(root: Path, requests: int, seed: int) -> bool:
    config = PredictorConfig.model_validate(
        {
            "repository": {"root": str(root)},
            "batching": {"enabled": True, "max_rows": 64},
            "queue": {"max_requests": 512},
        }
    )
    repository = Repository(config, open_source(str(root)))
    await repository.load_all()
    service = stack(WithinDeadline(30), service=Predictor(repository))
    version = repository.resolve("mlp", "")
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    running: set[asyncio.Task[None]] = set()
    samples: list[tuple[np.ndarray, np.ndarray]] = []
    latest_s, wrong = 0.0, 0
    values = np.random.default_rng(seed)

    async def one(x: np.ndarray, priority: int, deadline: Deadline) -> None:
        nonlocal latest_s, wrong
        request = pb.ModelInferRequest(model_name="mlp")
        request.parameters["priority"].uint64_param = priority
        add_inputs(request, {"x": x})
        try:
            response = await service.infer(request, Call(deadline=deadline))
        except (DeadlineExceeded, ResourceExhausted) as error:
            outcomes[error.reason] += 1
        else:
            outcomes["answered"] += 1
            if deadline.at != NO_DEADLINE.at:
                latest_s = max(latest_s, time.monotonic() - deadline.at)
            y = read_outputs(response)["y"]
            wrong += not np.array_equal(y[:, 0], x[:, 0])  # each row carries its mark through the model
            if draw.random() < SAMPLED:
                samples.append((x, y))

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        outcomes["CANCELLED"] += task.cancelled()

    async def storm(count: int) -> None:
        for at in range(count):
            x = values.standard_normal((draw.choice([1, 1, 1, 2, 4, 8, 100]), COLUMNS)).astype(np.float32)
            deadline = NO_DEADLINE if draw.random() < 0.2 else Deadline.after(draw.uniform(0.002, 0.5))
            task = asyncio.ensure_future(one(x, draw.randrange(4), deadline))
            running.add(task)
            task.add_done_callback(ended)
            if draw.random() < 0.1:
                draw.choice(list(running)).cancel()
            if len(running) > 256 or at % 16 == 0:
                await asyncio.sleep(draw.uniform(0, 0.01))
        await asyncio.gather(*running, return_exceptions=True)

    await storm(requests // 10)  # warm: threads, arenas, the protobuf arena
    gc.collect()
    outcomes.clear()
    before = _rss_bytes()
    await storm(requests)
    gc.collect()
    after = _rss_bytes()
    for x, y in samples:
        wrong += not np.allclose(y, version.session.run({"x": x}, ["y"])[0], rtol=1e-3, atol=1e-3)
    stats = version.statistics
    print(f"{machine()}\n{requests} requests, seed {seed}: {dict(outcomes.most_common())}")
    print(f"runs {stats.batch_rows.count}, answers {stats.success.count} (with the warm-up)")
    print(f"latest answer {1000 * latest_s:.1f} ms after its deadline, of other rows than its own: {wrong}")
    print(f"resident memory {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after; waiting {version.waiting}")
    good = not wrong and latest_s < MOST_LATE_S and after < MOST_GROWTH * before and not version.waiting
    repository.close()
    return good and sum(outcomes.values()) == requests


def _rss_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        good = uvloop.run(soak(Path(folder), options.requests, options.seed))
    print("good" if good else "NOT good")
    sys.exit(not good)


if __name__ == "__main__":
    main()
