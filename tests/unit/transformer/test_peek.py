"""What `features get` shows of a row."""

from __future__ import annotations

from typing import Any

import pytest

from services.transformer.peek import PeekedFeature, described
from services.transformer.row import RowFormat
from services.transformer.views import FeatureView

LAYOUT = RowFormat([("limit", "FP32"), ("declines", "FP32")])
NOW_S = 1_700_000_000.0
FRESH = LAYOUT.pack([0.1, 2.0], int((NOW_S - 60) * 1e6))
OLD = LAYOUT.pack([0.1, 2.0], int((NOW_S - 7_200) * 1e6))
NULL = LAYOUT.pack([0.1, None], int(NOW_S * 1e6))


@pytest.mark.parametrize(
    ("row", "policies", "status", "age_s", "shown"),
    [
        (FRESH, {}, "present", 60, [("0.1", "present"), ("2", "present")]),
        (NULL, {}, "present", 0, [("0.1", "present"), ("1", "defaulted")]),
        (NULL, {"missing": "fail"}, "present", 0, [("0.1", "present"), ("–", "fails")]),
        (OLD, {}, "stale", 7_200, [("0.1", "stale"), ("2", "stale")]),
        (OLD, {"stale": "default"}, "stale", 7_200, [("100", "defaulted"), ("1", "defaulted")]),
        (OLD, {"stale": "fail"}, "stale", 7_200, [("–", "fails"), ("–", "fails")]),
        (None, {}, "missing", None, [("100", "defaulted"), ("1", "defaulted")]),
        (FRESH[:-1], {"missing": "fail"}, "foreign", None, [("–", "fails"), ("–", "fails")]),
    ],
)
def test_a_row_is_shown_as_it_would_be_served(
    card: dict[str, Any], row: bytes | None, policies: Any, status: str, age_s: float | None, shown: Any
) -> None:
    """Stored values, defaults and what would fail the call are told apart, with the row's age."""
    view = FeatureView.model_validate({**card, **policies})

    peeked = described(view, row, NOW_S)

    assert (peeked.status, peeked.age_s) == (status, age_s)
    assert [(f.value, f.status) for f in peeked.features] == shown
    assert all(isinstance(f, PeekedFeature) and f.datatype == "FP32" for f in peeked.features)


def test_a_foreign_row_says_why(card: dict[str, Any]) -> None:
    """What makes a row unusable is told in words."""
    assert "cut off or damaged" in described(FeatureView.model_validate(card), FRESH[:-1], NOW_S).note
