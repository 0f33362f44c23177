"""The sample's candidate: its report says what the model files themselves say, card by card."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime
import pytest
import yaml
from e2e_door import CALLER, NO_LIMIT, SAMPLES, VARIANT, Door

from infermesh.cli.golden import Golden
from infermesh.cli.processes import Mesh
from infermesh.cli.scrape import scrape
from infermesh.cli.valkey import Valkey
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import shadow_reports_pb2 as reports_pb
from infermesh.protocol.shadow_reports_pb2_grpc import ShadowReportsStub
from infermesh.tensors import Array

MODEL, AMOUNT = "fraud-detector", 800.0  # of a purchase at half past two that versions 1 and 3 see differently
PRIMARY, CANDIDATE = "1", "3"
REPEATED = 0.3
REPEATS = 60  # of about 135
FEW_COPIES_ARE_LOST = 0.95  # a copy is left out when the gateway is overloaded, as a busy machine may make it


@pytest.fixture(scope="module")
def compared(store: Valkey, engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The mesh of the samples, but that all calls are mirrored, and compared."""
    routes = yaml.safe_load((SAMPLES / "config" / "routes.yaml").read_text())
    (shadow,) = next(each for each in routes["routes"] if each["model"] == MODEL)["shadows"]
    shadow.update(fraction=1, max_waiting=500, budget="30s", compare={"repeat": REPEATED})
    file = tmp_path_factory.mktemp("routes") / "routes.yaml"
    file.write_text(yaml.safe_dump(routes))
    settings = {"ROUTES": str(file), "COMPARE__ENABLED": "true", "MIRRORING__SUPPRESS_LAG": "1h"}
    gateway = {f"INFERMESH_GATEWAY__{name}": value for name, value in settings.items()}
    with Mesh(redis_url=store.url, env={"gateway": NO_LIMIT["gateway"] | gateway}) as mesh:
        yield mesh


def test_the_candidate_differs_as_its_file_says(compared: Mesh) -> None:
    """All cards at the gateway: DIFFERS, with other labels in the share of the cards where the two model files disagree."""
    cards, features = _cards()
    door = Door(compared.address("gateway"))
    try:
        with ThreadPoolExecutor(8) as callers:
            answers = dict(zip(cards, callers.map(lambda card: door.infer(_request(card)), cards), strict=True))
        stable = [at for at, card in enumerate(cards) if answers[card].parameters[VARIANT].string_param == "stable"]
        report = _report(compared, len(cards))
    finally:
        door.close()

    mine, theirs = (_asked(version, features[stable]) for version in (PRIMARY, CANDIDATE))
    disagree = float((mine[0] != theirs[0]).mean())
    mean_difference = float((theirs[1] - mine[1]).mean(axis=0)[1])

    assert disagree > 0.1  # the sample is what the test needs: a real difference
    assert report.verdict.state == reports_pb.Verdict.DIFFERS, report.verdict
    assert "label" in [each.what for each in report.verdict.findings]
    (label,) = [each for each in report.events if each.what == "label"]
    assert label.shadow.low <= disagree <= label.shadow.high
    assert label.repeat.hits == 0  # a batch may move a probability by a rounding, and no label of these
    if report.pairs == len(stable):
        assert label.shadow.hits == round(disagree * len(stable))
    assert report.pairs >= FEW_COPIES_ARE_LOST * len(stable)
    (shift,) = [each for each in report.shifts if (each.output, each.column) == ("probabilities", "1")]
    assert shift.mean_low <= mean_difference <= shift.mean_high
    worst = report.worst[0]
    assert worst.request_id
    assert worst.primary != worst.other


def _request(card: str) -> pb.ModelInferRequest:
    request = Golden.of(MODEL).request(card_id=card)
    at = [each.name for each in request.inputs].index("amount")
    request.raw_input_contents[at] = np.array([AMOUNT], "<f4").tobytes()
    return request


def _report(mesh: Mesh, calls: int) -> reports_pb.Report:
    """Beside the stable variant, when all copies have come to their end and there are repeats enough for a verdict."""
    _eventually(lambda: _copies(mesh) == calls)
    found: list[reports_pb.Report] = []
    with grpc.insecure_channel(mesh.address("gateway")) as channel:
        stub = ShadowReportsStub(channel)

        def judged() -> bool:
            response = stub.Report(reports_pb.ReportRequest(model=MODEL), metadata=CALLER, timeout=30)
            found[:] = [each for each in response.reports if each.variant == "stable"]
            return bool(found) and found[0].repeats >= REPEATS

        _eventually(judged)
    return found[0]


def _copies(mesh: Mesh) -> float:
    samples = scrape(mesh.http_address("gateway"))
    return samples.total("infermesh_gateway_shadow_total", model=MODEL) if samples else 0.0


def _eventually(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        pause.wait(0.05)


def _cards() -> tuple[list[str], Array]:
    with (SAMPLES / "features" / "cards.csv").open() as file:
        _, *rows = csv.reader(file)
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)


def _asked(version: str, features: Array) -> tuple[Array, Array]:
    """Labels and probabilities that the model file itself gives."""
    session = onnxruntime.InferenceSession(SAMPLES / "models" / MODEL / version / "model.onnx")
    values, rows = Golden.of(MODEL).values, len(features)
    inputs = {
        "card_features": features,
        "amount": np.full((rows, 1), AMOUNT, np.float32),
        "hour": np.full((rows, 1), values["hour"], np.float32),
        **{name: np.full((rows, 1), values[name], object) for name in ("merchant_category", "country")},
    }
    labels, probabilities = session.run(["label", "probabilities"], inputs)
    return labels, probabilities
