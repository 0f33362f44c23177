"""A background out of the gateway's payload log, in the lines that the gateway writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_inputs, add_outputs
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError
from services.explainer.background_sets import make_background, source_of
from services.explainer.config import BackgroundSet
from services.gateway.payload.record import line_of
from services.gateway.payload.redact import Redaction

Arrays = Mapping[str, np.ndarray]
OPEN = Redaction([], "")


def made(**declared: Any) -> Background:
    return make_background("m", "b", BackgroundSet(**declared))


def refusal(**declared: Any) -> str:
    with pytest.raises(BackgroundError) as refused:
        made(**declared)
    return str(refused.value)


def log(folder: Path, calls: list[tuple[Arrays, Arrays]], *, route: str = "m", redaction: Redaction = OPEN) -> Path:
    """The calls as the gateway writes them."""
    folder.mkdir(exist_ok=True)
    head = {"time": 1.7e9, "request_id": "", "model": route, "route": route, "answered": route, "version": "1"}
    with (folder / "payload-0001.jsonl").open("ab") as file:
        for inputs, outputs in calls:
            request, response = pb.ModelInferRequest(), pb.ModelInferResponse()
            add_inputs(request, inputs, raw=True)
            add_outputs(response, [(name, "FP32", array) for name, array in outputs.items()], raw=True)
            parts = (request.SerializeToString(), response.SerializeToString())
            top = json.dumps({**head, "variant": "stable", "bytes": [len(part) for part in parts]}).encode()
            file.write(line_of((top, *parts), redaction, 1 << 20))
    return folder


def call(number: float, rows: int = 1, text: bytes = b"a") -> tuple[Arrays, Arrays]:
    texts = np.empty((rows, 1), object)
    texts[:] = text
    x = np.full((rows, 2), number, np.float32)
    return {"x": x, "t": texts}, {"score": np.full((rows, 1), 1 / (1 + number), np.float32)}


def test_what_callers_sent_is_a_background(tmp_path: Path) -> None:
    """Every row of every call of the model, with datatypes and shapes as they were sent; texts that are no UTF-8 too."""
    place = log(tmp_path / "log", [call(1), call(2, rows=3, text=b"\xff"), call(3)])
    log(place, [call(9)], route="other")

    background = made(payload_log=place)

    assert background.arrays["x"].tolist() == [[1, 1], [2, 2], [2, 2], [2, 2], [3, 3]]
    assert background.arrays["t"].ravel().tolist() == [b"a", b"\xff", b"\xff", b"\xff", b"a"]
    assert background.datatypes == {"x": "FP32", "t": "BYTES"}
    assert background.weights.tolist() == [0.2] * 5
    assert background.source == "payload log log"


def test_a_long_log_is_sampled_and_summed_up(tmp_path: Path) -> None:
    """No more rows than asked for; the same seed, the same rows; by prediction they are of all heights."""
    place = log(tmp_path / "log", [call(number) for number in range(300)])

    few, again, other = (made(payload_log=place, rows=10, seed=seed) for seed in (1, 1, 2))
    strata = made(payload_log=place, rows=10, summary="stratified", by="prediction")
    clusters = made(payload_log=place, rows=4, summary="kmeans")

    assert len(few) == 10
    assert few.arrays["x"].tolist() == again.arrays["x"].tolist() != other.arrays["x"].tolist()
    assert sorted((strata.arrays["x"][:, 0] // 30).astype(int).tolist()) == list(range(10))
    assert (len(clusters), clusters.summary) == (4, "kmeans")


def test_calls_that_are_not_whole_in_the_log_are_passed_over(tmp_path: Path) -> None:
    """Redacted or without data, a torn line, other inputs than most: the others are the background."""
    place = log(tmp_path / "log", [call(1), call(2)])
    log(place, [call(3)], redaction=Redaction([{"name": "x", "how": "mask"}], ""))
    log(place, [({"x": np.ones((1, 5), np.float32)}, {})])
    with (place / "payload-0001.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"time"')

    assert made(payload_log=place).arrays["x"].tolist() == [[1, 1], [2, 2]]


def test_a_log_without_the_model_is_told(tmp_path: Path) -> None:
    """And a folder that is not there."""
    place = log(tmp_path / "log", [call(1)], route="other")

    assert "log: no usable call to m: 0 without all of their values, 0 lines" in refusal(payload_log=place)
    assert refusal(payload_log=tmp_path / "nowhere") == "nowhere: no such folder"


def test_a_path_says_what_it_is_for(tmp_path: Path) -> None:
    """A folder of the payload log, of Parquet, a file of each."""
    place = log(tmp_path / "log", [call(1)])

    assert [source_of(each) for each in (place, tmp_path, tmp_path / "a.parquet", tmp_path / "a.csv")] == [
        "payload_log", "parquet", "parquet", "file",
    ]  # fmt: skip
