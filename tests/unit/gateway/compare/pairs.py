"""Answers and pairs of answers, generated from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.pair import Answered, Kind, Pair
from services.gateway.compare_config import CompareConfig

FEATURES = 32
FRAUD = {"classes": ["genuine", "fraud"], "thresholds": [{"output": "probabilities", "column": "fraud", "at": 0.5}]}


def answer(*outputs: tuple[str, str, Any], raw: bool = True) -> bytes:
    """A message with these outputs: name, datatype, array."""
    message = ModelInferResponse(model_name="m", model_version="1")
    add_outputs(message, outputs, raw=raw)
    return message.SerializeToString()


def fraud(probability: float) -> bytes:
    """What a fraud detector says of one row: its label and [1, 2] probabilities."""
    both = np.array([[1 - probability, probability]], "<f4")
    return answer(("label", "INT64", both.argmax(1).astype("<i8")), ("probabilities", "FP32", both))


def pair(primary: bytes | None, other: bytes | None, kind: Kind = "shadow", *, name: str = "r", **codes: str) -> Pair:
    """Two answers; None is a failure, with `code` or `primary_code`."""
    first = Answered(primary, 0.003, "OK" if primary is not None else codes.get("primary_code", "UNAVAILABLE"))
    second = Answered(other, 0.004, "OK" if other is not None else codes.get("code", "UNAVAILABLE"))
    return Pair(kind, name, 1_800_000_000.0, first, second)


class Scores:
    """Probabilities of a model that is asked twice: noise of rounding, as another order of summing makes it, and of a model."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        self.numbers = np.random.default_rng(seed)
        self._noise = noise

    def twice(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities of `count` requests, and of the same ones once more."""
        terms = self.numbers.normal(0, 0.4, (count, FEATURES)).astype(np.float32)
        first, second = self._once(terms), self._once(terms)
        return first, second

    def _once(self, terms: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = np.cumsum(self.numbers.permuted(terms, axis=1), axis=1, dtype=np.float32)[:, -1]
        return np.asarray(1 / (1 + np.exp(-logits - self.numbers.normal(0, self._noise or 1e-12, len(logits)))))


def same_model(seed: int, noise: float, pairs: int, repeats: int) -> Iterator[Pair]:
    """Pairs and repeats of one and the same model."""
    scores = Scores(seed, noise)
    for kind, count in (("shadow", pairs), ("repeat", repeats)):
        for at, (first, second) in enumerate(zip(*scores.twice(count), strict=True)):
            yield pair(fraud(first), fraud(second), kind, name=f"r{at}")  # type: ignore[arg-type]


def compared(pairs: Iterator[Pair], seed: int = 0, **settings: Any) -> Comparison:
    """A comparison that has taken the pairs."""
    comparison = Comparison("fraud-detector", "candidate", CompareConfig(**{**FRAUD, **settings}), seed=seed)
    for each in pairs:
        comparison.add(each)
    return comparison


def planted(seed: int, pairs: int, *, flips: float = 0.0, shift: float = 0.0, repeats: int = 300) -> Iterator[Pair]:
    """A shadow that turns some answers round, or adds to the logit; the primary repeats itself but for rounding."""
    scores = Scores(seed)
    for at, (first, second) in enumerate(zip(*scores.twice(pairs), strict=True)):
        if shift:
            second = 1 / (1 + (1 - second) / second * np.exp(-shift))
        if scores.numbers.random() < flips:
            second = 1 - second
        yield pair(fraud(first), fraud(second), name=f"r{at}")
    for first, second in zip(*scores.twice(repeats), strict=True):
        yield pair(fraud(first), fraud(second), "repeat")
