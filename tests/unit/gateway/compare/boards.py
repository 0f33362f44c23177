"""A board on a clock of the tests' own, and what the gateway sends it."""

from __future__ import annotations

import json
from pathlib import Path

from infermesh.protocol import shadow_reports_pb2 as pb
from services.gateway.compare.board import Board
from services.gateway.compare_config import CompareConfig
from services.gateway.compare_frames import PAIR, REPORT, SETTINGS
from tests.unit.gateway.compare.pairs import FRAUD, fraud

CONFIG = {**FRAUD, "min_pairs": 50, "bin_from": 50, "repeat": 0.0}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def settings(*shadows: tuple[str, str], **config) -> bytes:
    """What the gateway says first."""
    compare = CompareConfig(**{**CONFIG, **config}).model_dump(mode="json")
    return json.dumps([{"model": m, "shadow": s, "compare": compare} for m, s in shadows]).encode()


def head(
    number: int = 0, *, model: str = "fraud", variant: str = "stable", kind: str = "shadow", code: str = "OK"
) -> bytes:
    return json.dumps(
        {
            "kind": kind,
            "model": model,
            "shadow": "candidate",
            "variant": variant,
            "request_id": f"r{number}",
            "at_s": 1000.0 + number,
            "primary": ["OK", 0.002],
            "other": [code, 0.003],
        }
    ).encode()


def board(clock: Clock, state: Path | None = None, **config) -> Board:
    made = Board(state, 30.0, clock=clock, wall_clock=clock)
    made.take(SETTINGS, (settings(("fraud", "candidate"), **config),))
    return made


def feed(to: Board, count: int, **about) -> None:
    """Pairs in which the candidate says the opposite."""
    for number in range(count):
        to.take(PAIR, (head(number, **about), fraud(0.2), fraud(0.8)))


def reports(of: Board, **asked: str) -> list[pb.Report]:
    return list(pb.ReportResponse.FromString(of.answer(REPORT + pb.ReportRequest(**asked).SerializeToString())).reports)
