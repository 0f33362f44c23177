"""A shadow that is the primary's own model, served with batching: whatever batches do to its answers, no difference is found.

ONNX Runtime adds up a row's products in one order whatever rows stand beside it (seen on x86-64, 1.32), so here the answers are
the same to the bit; another runtime's need not be. Noise that changes answers is made by hand in the unit tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from benchmarks.batching_model import COLUMNS, write_model
from infermesh.cli.processes import Mesh
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_inputs
from infermesh.transport.outside import OutsideCaller
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.pair import Answered, Pair
from services.gateway.compare_config import CompareConfig

CALLERS = 48
REQUESTS = 3000  # each is asked twice
PAIRS, REPEATS = 200, 40
# Much tighter than rounding: what a batch of another size did to a sum would be seen.
CONFIG = CompareConfig(rtol=0, atol=1e-9, bin_from=100, columns=4)

Answers = list[tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What a predictor with batching answered to each request, and to the same one once more, among many others."""
    folder = tmp_path_factory.mktemp("equal")
    write_model(folder / "models")
    (folder / "predictor.yaml").write_text(f"repository: {{root: {folder / 'models'}}}\nbatching: {{enabled: true}}\n")
    with Mesh(config=folder, services=["predictor"]) as mesh:
        answers = asyncio.run(_asked(mesh.address("predictor")))
        with OutsideCaller(mesh.address("predictor")) as caller:
            (told,) = caller.statistics("mlp")
        assert told.inference_count >= 2 * REQUESTS > 2 * told.execution_count, "there were no batches to speak of"
        yield answers


async def _asked(address: str) -> Answers:
    numbers = np.random.default_rng(3)
    requests = []
    for _ in range(REQUESTS):
        request = pb.ModelInferRequest(model_name="mlp")
        add_inputs(request, {"x": numbers.standard_normal((1, COLUMNS)).astype(np.float32)})
        requests.append(request)
    order = numbers.permutation(np.repeat(np.arange(REQUESTS), 2)).tolist()
    found: list[list[bytes]] = [[] for _ in requests]
    async with grpc.aio.insecure_channel(address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer

        async def caller() -> None:
            while order:
                at = order.pop()
                found[at].append((await infer(requests[at], timeout=30)).SerializeToString())

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [(first, second) for first, second in found]


def findings(answers: Answers, seed: int) -> int:
    """What a report finds in pairs and repeats that are drawn from the answers."""
    numbers = np.random.default_rng(seed)
    comparison = Comparison("mlp", "itself", CONFIG, seed=seed)
    for at, which in enumerate(numbers.choice(len(answers), PAIRS + REPEATS, replace=False).tolist()):
        first, second = answers[which] if numbers.random() < 0.5 else answers[which][::-1]
        kind = "shadow" if at < PAIRS else "repeat"
        comparison.add(Pair(kind, str(which), 0.0, Answered(first, 0.001), Answered(second, 0.001)))
    report = comparison.report()
    assert report.pairs == PAIRS and report.repeats == REPEATS
    return len(report.verdict.findings)


def test_batches_change_answers_by_rounding_at_most(answers: Answers) -> None:
    """Else what the others show would be about something else."""
    comparison = Comparison("mlp", "itself", CONFIG)
    for first, second in answers:
        comparison.add(Pair("shadow", "", 0.0, Answered(first, 0.001), Answered(second, 0.001)))

    (output,) = comparison.report().outputs

    assert output.elements == 8 * REQUESTS
    assert output.max_abs.largest < 1e-3


def test_equal_models_are_not_told_apart(answers: Answers) -> None:
    """In 60 seeded runs at most 10 find anything: with a chance of 5 % each, more is once in 3,000."""
    assert sum(findings(answers, seed) > 0 for seed in range(60)) <= 10


@pytest.mark.long
def test_equal_models_are_told_apart_in_a_twentieth_of_the_runs_at_most(answers: Answers) -> None:
    """The same over 1,000 seeded runs."""
    assert sum(findings(answers, seed) > 0 for seed in range(1000)) <= 50
