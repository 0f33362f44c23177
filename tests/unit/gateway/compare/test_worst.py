"""Tests of the worst disagreements."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from services.gateway.compare.match import Match, match
from services.gateway.compare.worst import Worst, severity
from services.gateway.compare_config import CompareConfig
from tests.unit.gateway.compare.pairs import FRAUD, answer, fraud

CONFIG = CompareConfig(**FRAUD)


def apart(first: float, second: float) -> Match:
    return match(fraud(first), fraud(second), CONFIG)


def test_a_hundred_thousand_ids_take_no_more_room_than_the_bound() -> None:
    """The 32 worst of 100,000 calls stay, whatever came when; long ids are cut."""
    order = list(range(100_000))
    Random(1).shuffle(order)
    by_size = [apart(0.1, 0.1 + at / 40) for at in range(11)]  # nothing happens at 0, and up to 0.35 no label changes
    worst = Worst(32)

    for at in order:
        worst.consider(f"{at:06}-" + "x" * 500, float(at), by_size[10 if at < 40 else at % 10])

    kept = worst.worst_first()
    assert len(worst) == len(kept) == 32
    assert {each.severity for each in kept} == {severity(by_size[10])}
    assert [int(each.request_id[:6]) for each in kept] == [at for at in order if at < 40][:32]
    assert max(len(each.request_id) for each in kept) == 128


def test_kinds_come_before_sizes() -> None:
    """Structure, then NaN, then labels, then tolerance; equal answers are nothing to show."""
    score = np.array([[0.4, 0.6]], "<f4")
    nan = match(answer(("p", "FP32", score)), answer(("p", "FP32", score * np.float32("nan"))), CONFIG)
    structure = match(answer(("p", "FP32", score)), answer(), CONFIG)

    ranks = [severity(each) for each in (structure, nan, apart(0.49, 0.51), apart(0.001, 0.4), apart(0.2, 0.2))]

    assert ranks == sorted(ranks, reverse=True)
    assert [int(each) for each in ranks] == [4, 3, 2, 1, 0]


def test_both_values_are_shown_where_they_differ_most() -> None:
    """The request id, what happened, where, and what both said there."""
    worst = Worst(1)

    worst.consider("req-7", 5.0, apart(0.25, 0.75))

    (shown,) = worst.worst_first()
    assert (shown.request_id, shown.at_s) == ("req-7", 5.0)
    assert "rises probabilities fraud at 0.5" in shown.what
    assert shown.where.startswith("probabilities[0,")
    assert {shown.primary, shown.other} == {"0.25", "0.75"}


def test_a_text_is_shown_shortly() -> None:
    """A label of a megabyte takes some 70 characters, escaped."""
    worst = Worst(1)
    texts = [answer(("t", "BYTES", np.array([each], object))) for each in (b"\x1b" * 10**6, b"b")]

    worst.consider("r", 0.0, match(texts[0], texts[1], CONFIG))

    assert len(worst.worst_first()[0].primary) < 500
    assert "\x1b" not in worst.worst_first()[0].primary


@pytest.mark.parametrize("size", [2, 5])
def test_the_worst_are_kept_over_a_restart(size: int) -> None:
    """As JSON and back, also into a smaller reservoir: the worst of them, in their order, and later equals stay behind."""
    worst = Worst(5)
    for at in range(9):
        worst.consider(f"r{at}", 0.0, apart(0.1, 0.1 + at % 3 / 10))

    again = Worst.restored(json.loads(json.dumps(worst.state(), allow_nan=False)), size)
    again.consider("late", 0.0, apart(0.1, 0.1))

    assert again.worst_first() == worst.worst_first()[:size]
