"""Rows of earlier schemas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from infermesh.errors import FailedPrecondition
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.policy import RowPolicy, Served
from services.transformer.row import NEVER, RowFormat
from services.transformer.schema import Column
from services.transformer.views import FeatureView

NOW_US = 1_700_000_000_000_000
OLD = [("b", "FP32"), ("a", "FP32"), ("gone", "INT64")]
NEW = [Column("a", "FP32"), Column("b", "FP32"), Column("note", "BYTES")]


@pytest.fixture
def view() -> dict[str, Any]:
    """A view whose features were two of the three, in another order."""
    return {
        "entity": {"name": "card_id"},
        "max_age": "1h",
        "missing": "default",
        "stale": "serve",
        "features": [
            {"name": "a", "default": 10.0},
            {"name": "b", "default": 20.0},
            {"name": "note", "datatype": "BYTES", "default": "none"},
        ],
        "previous": [[{"name": n, "datatype": d} for n, d in OLD]],
    }


def test_features_are_known_by_their_names() -> None:
    """A row of another order becomes one of the present schema: by name, with what is new as null and what went left out."""
    present = RowFormat(NEW)
    previous = PreviousSchemas(present, [OLD])
    row = RowFormat(OLD).pack([2.0, 1.0, 7], 99)

    assert previous.knows(row)
    assert not previous.knows(present.pack([None] * 3, 0))
    assert present.unpack(previous.upgraded(row)) == (99, (1.0, 2.0, None))


def test_a_group_is_as_old_as_the_oldest_that_its_features_come_from() -> None:
    """Groups that were put together have the older time; one whose features are all new was never written."""
    earlier = [Column("a", "FP32", (), "x"), Column("b", "FP32", (), "y")]
    present = RowFormat([Column("a", "FP32", (), "z"), Column("b", "FP32", (), "z"), Column("c", "FP32", (), "new")])

    row = PreviousSchemas(present, [earlier]).upgraded(RowFormat(earlier).pack([1.0, 2.0], [50, 40]))

    assert present.event_times(row) == (40, NEVER)


@pytest.mark.parametrize(
    ("previous", "words"),
    [
        ([[("a", "FP64")]], 'previous.0: feature "a": was FP64 .* is FP32 .* needs another name'),
        ([[Column("a", "FP32", (2,))]], 'feature "a": was FP32 \\[2\\]'),
        ([NEW], "is the present schema"),
        ([OLD, OLD], "previous.1: .* stands twice"),
    ],
)
def test_schemas_that_contradict_each_other_are_refused(previous: list[Any], words: str) -> None:
    """One name is one datatype and shape, in all schemas; a schema stands once."""
    with pytest.raises(ValueError, match=words):
        PreviousSchemas(RowFormat(NEW), previous)


def test_rows_of_both_schemas_are_served_during_a_migration(view: dict[str, Any]) -> None:
    """Beside rows of the present schema those of the previous one are served, counted apart; new features get their default."""
    seen: Counter[str] = Counter()
    policy = RowPolicy("card", FeatureView.model_validate(view), ("a", "b", "note"), lambda f, n: seen.update({f: n}))
    fresh = policy.format.pack([1.0, 2.0, "x"], NOW_US)
    earlier = RowFormat(OLD).pack([4.0, 3.0, 7], NOW_US)
    damaged, other = earlier[:-1], RowFormat([("z", "FP32")]).pack([1.0], NOW_US)

    rows, served = policy.serve([fresh, earlier, damaged, other], [b"1", b"2", b"3", b"4"], NOW_US)

    read = [
        np_row[policy.format.slices[0].start : policy.format.slices[1].stop].view("<f4").tolist() for np_row in rows
    ]
    assert read == [[1.0, 2.0], [3.0, 4.0], [10.0, 20.0], [10.0, 20.0]]
    assert rows.texts.ravel().tolist() == [b"x", b"none", b"none", b"none"]  # type: ignore[attr-defined]
    assert (served, seen) == (Served.DEFAULTED, {"present": 1, "previous": 1, "foreign": 2})


def test_a_stale_row_of_an_earlier_schema_is_stale(view: dict[str, Any]) -> None:
    """Its age counts as that of any other row."""
    seen: Counter[str] = Counter()
    policy = RowPolicy("card", FeatureView.model_validate(view), ("a",), lambda f, n: seen.update({f: n}))

    _, served = policy.serve([RowFormat(OLD).pack([4.0, 3.0, 7], NOW_US - 4_000_000_000)], [b"1"], NOW_US)

    assert (served, seen) == (Served.STALE, {"stale": 1})


def test_a_damaged_row_of_an_earlier_schema_says_why(view: dict[str, Any]) -> None:
    """The error names the schema that the row claims to be of, and what is wrong with it."""
    strict = FeatureView.model_validate({**view, "missing": "fail"})
    policy = RowPolicy("card", strict, ("a",), lambda found, count: None)

    with pytest.raises(
        FailedPrecondition, match=r"previous schema [0-9a-f]{8}: 39 bytes, expected 40: cut off"
    ) as failure:
        policy.serve([RowFormat(OLD).pack([4.0, 3.0, 7], NOW_US)[:-1]], [b"1"], NOW_US)

    assert failure.value.reason == "FEATURE_FOREIGN"
