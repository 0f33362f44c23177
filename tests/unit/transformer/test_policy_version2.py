"""Policies over texts, vectors and source groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from infermesh.errors import FailedPrecondition
from services.transformer.columns import Columns, TextRows
from services.transformer.policy import FEW_ROWS, RowPolicy, Served
from services.transformer.row import NEVER
from services.transformer.views import FeatureView

NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000


@pytest.fixture
def view() -> dict[str, Any]:
    """A view with a text, a vector and two groups: one of an hour, one of the view's day."""
    return {
        "entity": {"name": "card_id"},
        "max_age": "24h",
        "missing": "default",
        "stale": "serve",
        "unavailable": "default",
        "groups": {"fast": {"max_age": "1h"}},
        "features": [
            {"name": "city", "datatype": "BYTES", "default": "nowhere"},
            {"name": "taps", "datatype": "INT32", "default": -1, "group": "fast"},
            {"name": "embedding", "shape": [2], "default": [0.5, 0.5]},
        ],
    }


def policy_of(
    view: dict[str, Any], used: tuple[str, ...] = ("city", "taps", "embedding")
) -> tuple[RowPolicy, Counter[str]]:
    seen: Counter[str] = Counter()
    return RowPolicy("card", FeatureView.model_validate(view), used, lambda f, n: seen.update({f: n})), seen


def taken(policy: RowPolicy, rows: Any) -> list[list[Any]]:
    """The values of all rows, as the model's inputs get them."""
    formats = {"card": policy.format}
    datatypes = {"city": "BYTES", "taps": "INT32", "embedding": "FP32"}
    tensors = [Columns([("card", name)], formats, d).take({"card": rows}).tolist() for name, d in datatypes.items()]
    return [[city[0], taps[0], embedding] for city, taps, embedding in zip(*tensors, strict=True)]


@pytest.mark.parametrize("count", [1, FEW_ROWS, FEW_ROWS + 1])
def test_rows_that_are_there_are_served_as_they_are(view: dict[str, Any], count: int) -> None:
    """Texts of any length and vectors come out as they were stored, for few rows and for many."""
    policy, seen = policy_of(view)
    values = [["ü" * number, number, [1.0, float(number)]] for number in range(count)]
    stored = [policy.format.pack(each, NOW_US) for each in values]

    rows, served = policy.serve(stored, [b"c"] * count, NOW_US)

    assert taken(policy, rows) == [[city.encode(), *others] for city, *others in values]  # type: ignore[attr-defined]
    assert (served, seen) == (Served.PRESENT, {"present": count})


def test_defaults_stand_in_for_texts_and_vectors(view: dict[str, Any]) -> None:
    """A missing row, a cut off one and a null get the defaults, and their neighbours stay as they are."""
    policy, seen = policy_of(view)
    row = policy.format.pack(["Bern", 3, [1.0, 2.0]], NOW_US)
    null = policy.format.pack([None, 4, None], NOW_US)

    rows, served = policy.serve([row, None, row[:-1], null], [b"1", b"2", b"3", b"4"], NOW_US)

    default = [b"nowhere", -1, [0.5, 0.5]]
    assert taken(policy, rows) == [[b"Bern", 3, [1.0, 2.0]], default, default, [b"nowhere", 4, [0.5, 0.5]]]
    assert (served, seen) == (Served.DEFAULTED, {"present": 1, "missing": 1, "foreign": 1, "null": 1})


def test_without_redis_the_default_texts_are_served(view: dict[str, Any]) -> None:
    """A store that is away is answered by all defaults, texts too."""
    policy, _ = policy_of(view)

    rows, _ = policy.serve_unavailable(2, "away")

    assert isinstance(rows, TextRows)
    assert taken(policy, rows) == [[b"nowhere", -1, [0.5, 0.5]]] * 2


@pytest.mark.parametrize("others", [0, FEW_ROWS])
def test_each_group_has_an_age_of_its_own(view: dict[str, Any], others: int) -> None:
    """A group past its own maximum age makes the row stale, though the view's would allow more; a group just within does not."""
    policy, seen = policy_of(view)
    fresh = policy.format.pack(["Bern", 3, [1.0, 2.0]], [NOW_US - 24 * HOUR_US, NOW_US - HOUR_US])
    old = policy.format.pack(["Bern", 3, [1.0, 2.0]], [NOW_US, NOW_US - HOUR_US - 1])
    stored = [fresh, old, *[fresh] * others]

    _, served = policy.serve(stored, [b"c"] * len(stored), NOW_US)

    assert (served, seen) == (Served.STALE, {"present": 1 + others, "stale": 1})


def test_the_age_of_a_group_that_nobody_takes_is_no_concern(view: dict[str, Any]) -> None:
    """A service that takes nothing from a group is not failed by its age; one that does hears its feature and its limit."""
    without, _ = policy_of({**view, "stale": "fail"}, used=("city",))
    with_it, _ = policy_of({**view, "stale": "fail"})
    old = without.format.pack(["Bern", 3, [1.0, 2.0]], [NOW_US, NOW_US - 2 * HOUR_US])

    assert without.serve([old], [b"c-1"], NOW_US)[1] is Served.PRESENT
    with pytest.raises(FailedPrecondition, match='feature "taps": 7200 s old, expected at most 3600 s'):
        with_it.serve([old], [b"c-1"], NOW_US)


def test_a_group_that_was_never_written_is_null_and_not_old(view: dict[str, Any]) -> None:
    """Its features are nulls, answered by `missing`; it has no age."""
    policy, seen = policy_of(view)
    row = policy.format.pack(["Bern", None, [1.0, 2.0]], [NOW_US, NEVER])

    rows, served = policy.serve([row], [b"c"], NOW_US)

    assert taken(policy, rows) == [[b"Bern", -1, [1.0, 2.0]]]
    assert (served, seen) == (Served.DEFAULTED, {"null": 1})


def test_nulls_of_all_groups_are_found(view: dict[str, Any]) -> None:
    """Under `fail` the null is named, in whichever group's bitmap it stands."""
    policy, _ = policy_of({**view, "missing": "fail"})

    for position, name in enumerate(("city", "taps", "embedding")):
        values: list[Any] = ["Bern", 3, [1.0, 2.0]]
        values[position] = None
        with pytest.raises(FailedPrecondition, match=f'feature "{name}": null'):
            policy.serve([policy.format.pack(values, NOW_US)], [b"c"], NOW_US)


def test_a_table_of_one_view_is_not_changed_by_another_reader(view: dict[str, Any]) -> None:
    """Served rows are the stored bytes or a copy: replacing nulls never writes into what was stored."""
    policy, _ = policy_of(view)
    null = policy.format.pack([None, 4, None], NOW_US)
    before = bytes(null)

    first, _ = policy.serve([null] * 2, [b"1", b"2"], NOW_US)
    second, _ = policy.serve([null] * 2, [b"1", b"2"], NOW_US)

    assert null == before
    assert np.array_equal(np.asarray(first), np.asarray(second))
