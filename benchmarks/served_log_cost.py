"""What the log of served features costs on the call path: CPU of the calling thread in µs per call.

`python -m benchmarks.served_log_cost [--calls 5000]`

A call through the join, over rows of 50 FP32 features that are at hand, to a model that answers at once; less the same call of a
transformer without the log. The thread that writes shares the interpreter with the calls: its own CPU is told per record, to a
file. The choice of the sample is timed alone, for it is too small to be seen in a call. Each figure is the median of eleven
rounds, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import uvloop

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.line_files import LineFiles
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, Stack, stack
from infermesh.tensors import add_inputs
from services.transformer.join_features import JoinFeatures
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.served.line import ServedEntry
from services.transformer.served.log import PREFIX, ServedLog
from services.transformer.served.settings import ServedLogConfig
from services.transformer.store import FeatureStore
from services.transformer.views import FeatureFile

ROUNDS = 11
FEATURES = 50
SHARES = (0.0, 0.01, 1.0)
CHOICES = 50_000
VIEW = {
    "entity": {"name": "card_id"},
    "missing": "default",
    "features": [{"name": f"f{number}", "datatype": "FP32", "default": 0.0} for number in range(FEATURES)],
}
FILE = FeatureFile.model_validate(
    {"views": {"card": VIEW}, "services": {"fraud": {"inputs": {"x": {"columns": ["card.*"]}}}}}
)
PLAN = JoinPlan(FILE, FILE.services["fraud"], prefix="p", max_entities=10_000)


class _Answering(InferenceService):
    """Answers with a message of its own for each call, as a backend does."""

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name="fraud", model_version="3")


class _AtHand(FeatureStore):
    """Has the row of every entity."""

    def __init__(self) -> None:
        values = np.random.default_rng(0).random(FEATURES, np.float32).tolist()
        self._row = RowFormat(FILE.views["card"].columns).pack(values, [int(time.time() * 1e6)])

    async def lookup(self, keys: Sequence[bytes], deadline: Deadline) -> list[bytes | None]:
        return [self._row] * len(keys)


class _TimedLog(ServedLog):
    """Keeps what CPU its thread has used for lines and for writing them."""

    cpu_s = 0.0

    def _line(self, served: ServedEntry) -> bytes:
        self.cpu_s = time.thread_time()
        return super()._line(served)


def _request(rows: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="fraud")
    ids = np.array([b"card-%d" % number for number in range(rows)], np.object_).reshape(-1, 1)
    add_inputs(request, {"card_id": ids}, raw=True)
    return request


async def _round(service: Stack, request: pb.ModelInferRequest, calls: int) -> float:
    made = [Call(request_id=f"request-{number}") for number in range(calls)]
    began = time.thread_time()
    for call in made:
        await service.infer(request, call)
    return (time.thread_time() - began) * 1e6 / calls


async def _measure(rows: int, calls: int, folder: Path) -> None:
    logs = {}
    for share in SHARES:
        settings = {
            "mode": "file",
            "folder": str(folder),
            "share": share,
            "max_waiting": "16GiB",
            "max_request": "16MiB",
        }
        config = ServedLogConfig.model_validate(settings)
        logs[share] = _TimedLog(config, LineFiles(folder, 1 << 40, 1 << 42, prefix=f"{PREFIX}-{rows}-{share:g}"))
        logs[share].writer.start()
    model = _Answering()
    plans = {"fraud": PLAN}
    ways: dict[str, Stack] = {"off": stack(JoinFeatures(plans, _AtHand(), model), service=model)}
    for share, log in logs.items():
        ways[f"share {share:g}"] = stack(JoinFeatures(plans, _AtHand(), model, log=log), service=model)
    request = _request(rows)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, service in ways.items():
            took[name].append(await _round(service, request, calls))
            _drain(logs.values())
    for log in logs.values():
        log.writer.close(60)
    off = statistics.median(took["off"])
    print(f"\n{rows} row{'s' if rows > 1 else ''} of {FEATURES} features, {calls} calls a round")
    for name, each in took.items():
        told = statistics.median(each) - (0 if name == "off" else off)
        print(f"{'the call, without the log' if name == 'off' else name:34} {told:10.2f} µs")
    every = logs[1.0]
    counts = every.counts
    print(f"{'the thread that writes, per record':34} {every.cpu_s * 1e6 / counts['written']:10.2f} µs   {counts}")
    print(f"{'a record':34} {_size_bytes(folder, rows) / counts['written']:10.0f} bytes")


def _drain(logs: Iterable[ServedLog]) -> None:
    """Wait, so that no round pays for the one before."""
    for log in logs:
        while log.writer.waiting:
            time.sleep(0.01)


def _size_bytes(folder: Path, rows: int) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"{PREFIX}-{rows}-1-*"))


def _choosing(folder: Path) -> None:
    """The sample alone: the cost of a request that is not in it."""
    made = [Call(request_id=f"request-{number}") for number in range(CHOICES)]
    logs = {}
    for share in (0.0, 0.01):
        config = ServedLogConfig.model_validate({"mode": "file", "folder": str(folder), "share": share})
        logs[share] = ServedLog(config, LineFiles(folder, 1 << 20, 1 << 21, prefix="choosing"))
    took: dict[float, list[float]] = {share: [] for share in logs}
    for _ in range(ROUNDS):
        for share, log in logs.items():
            began = time.thread_time()
            for call in made:
                log.wants("fraud", call)
            took[share].append((time.thread_time() - began) * 1e6 / CHOICES)
    print("\nthe choice alone")
    for share, each in took.items():
        print(f"{f'share {share:g}':34} {statistics.median(each):10.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5_000, help="of a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _choosing(Path(folder))
        uvloop.run(_measure(1, given.calls, Path(folder)))
        uvloop.run(_measure(100, max(given.calls // 10, 1), Path(folder)))


if __name__ == "__main__":
    main()
