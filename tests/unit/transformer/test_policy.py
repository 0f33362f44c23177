"""What a view's policies make of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infermesh.errors import FailedPrecondition, Unavailable
from services.transformer.policy import FEW_ROWS, RowPolicy, Served
from services.transformer.row import RowFormat
from services.transformer.views import FeatureView

HOUR_US = 3_600_000_000
COLUMNS = [("limit", "FP32"), ("declines", "FP32")]
LAYOUT = RowFormat(COLUMNS)
NOW_US = 1_700_000_000_000_000

FRESH = LAYOUT.pack([5.0, 6.0], NOW_US - HOUR_US)
OLD = LAYOUT.pack([7.0, 8.0], NOW_US - HOUR_US - 1)
NULL = LAYOUT.pack([9.0, None], NOW_US)
FOREIGN = RowFormat([("declines", "FP32"), ("limit", "FP32")]).pack([1.0, 2.0], NOW_US)
CUT_OFF = FRESH[:-3]
DEFAULTS = [100.0, 1.0]


@pytest.fixture
def policy_of(card: dict[str, Any]) -> Callable[..., tuple[RowPolicy, Counter[str]]]:
    """The policy of the view `card` with some settings changed, and what it observes."""

    def policy(used: tuple[str, ...] = ("limit", "declines"), **settings: Any) -> tuple[RowPolicy, Counter[str]]:
        seen: Counter[str] = Counter()
        view = FeatureView.model_validate({**card, **settings})
        return RowPolicy("card", view, used, lambda found, count: seen.update({found: count})), seen

    return policy


def values(table: np.ndarray) -> list[list[float]]:
    stored: list[list[float]] = np.ascontiguousarray(table[:, LAYOUT.offsets[0] :]).view("<f4").tolist()
    return stored


def ids(rows: list[bytes | None]) -> list[bytes]:
    return [b"c-%d" % number for number in range(len(rows))]


PolicyOf = Callable[..., tuple[RowPolicy, Counter[str]]]


def test_rows_that_are_there_are_served_as_they_are(policy_of: PolicyOf) -> None:
    """A row of exactly the age that is allowed is present, and its values are those that were stored."""
    policy, seen = policy_of()

    table, served = policy.serve([FRESH], [b"c-1"], NOW_US)

    assert (values(table), served, seen) == ([[5.0, 6.0]], Served.PRESENT, {"present": 1})


@pytest.mark.parametrize(
    ("row", "found"), [(None, "missing"), (FOREIGN, "foreign"), (CUT_OFF, "foreign"), (b"", "foreign")]
)
def test_defaults_stand_in_for_a_row_that_can_not_be_used(policy_of: PolicyOf, row: bytes | None, found: str) -> None:
    """For an entity without a row, and for one whose row is foreign or cut off, the defaults are served and flagged."""
    policy, seen = policy_of()

    table, served = policy.serve([FRESH, row], [b"c-1", b"c-2"], NOW_US)

    assert values(table) == [[5.0, 6.0], DEFAULTS]
    assert (served, seen) == (Served.DEFAULTED, {"present": 1, found: 1})


def test_a_null_alone_is_replaced(policy_of: PolicyOf) -> None:
    """A null gets its feature's default; the other values of the row stay."""
    policy, seen = policy_of()

    table, served = policy.serve([NULL], [b"c-1"], NOW_US)

    assert (values(table), served, seen) == ([[9.0, 1.0]], Served.DEFAULTED, {"null": 1})


def test_a_null_that_nobody_takes_is_no_concern(policy_of: PolicyOf) -> None:
    """A null in a feature that the service does not use neither fails the call nor counts as a default."""
    policy, seen = policy_of(used=("limit",), missing="fail")

    _, served = policy.serve([NULL], [b"c-1"], NOW_US)

    assert (served, seen) == (Served.PRESENT, {"present": 1})


@pytest.mark.parametrize(
    ("stale", "expected", "served"),
    [("serve", [7.0, 8.0], Served.STALE), ("default", DEFAULTS, Served.DEFAULTED)],
)
def test_a_stale_row_is_served_or_replaced(
    policy_of: PolicyOf, stale: str, expected: list[float], served: Served
) -> None:
    """One microsecond past its age a row is stale: served as it is, or replaced by defaults, and said to be either."""
    policy, seen = policy_of(stale=stale)

    table, told = policy.serve([OLD], [b"c-1"], NOW_US)

    assert (values(table), told, seen) == ([expected], served, {"stale": 1})


def test_without_a_maximum_age_no_row_is_stale(policy_of: PolicyOf, card: dict[str, Any]) -> None:
    """A view that sets no age serves a row of 1970 as present."""
    del card["max_age"], card["stale"]
    view = FeatureView.model_validate(card)
    policy = RowPolicy("card", view, ("limit", "declines"), lambda found, count: None)

    _, served = policy.serve([LAYOUT.pack([5.0, 6.0], 0)], [b"c-1"], NOW_US)

    assert served is Served.PRESENT


def test_a_row_from_the_future_is_present(policy_of: PolicyOf) -> None:
    """A writer whose clock is ahead makes no row stale."""
    policy, _ = policy_of()

    assert policy.serve([LAYOUT.pack([5.0, 6.0], NOW_US + HOUR_US)], [b"c-1"], NOW_US)[1] is Served.PRESENT


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([FRESH, None], 'feature view "card": entity "c-1": feature "limit" and 1 more: no row \\(missing: fail\\)'),
        ([FRESH, None, None, None], "; 2 more entities likewise"),
        ([NULL], 'entity "c-0": feature "declines": null \\(missing: fail\\)'),
        ([FOREIGN], 'entity "c-0": feature "limit" and 1 more: written under another schema'),
        ([CUT_OFF], "cut off or damaged"),
        ([None] * FEW_ROWS + [FRESH] * FEW_ROWS, 'entity "c-0"'),
    ],
)
def test_what_is_missing_fails_the_call(policy_of: PolicyOf, rows: list[bytes | None], words: str) -> None:
    """Under `fail` a call with an unusable row fails, and the error names entity and feature."""
    policy, _ = policy_of(missing="fail")

    with pytest.raises(FailedPrecondition, match=words):
        policy.serve(rows, ids(rows), NOW_US)


def test_what_is_stale_fails_the_call(policy_of: PolicyOf) -> None:
    """Under `fail` a stale row fails the call, with its age and the one that is allowed."""
    policy, seen = policy_of(stale="fail")

    with pytest.raises(FailedPrecondition, match=r'entity "c-1": .*: 3600 s old, expected at most 3600 s') as failure:
        policy.serve([FRESH, OLD], [b"c-0", b"c-1"], NOW_US)

    assert failure.value.reason == "FEATURE_STALE"
    assert seen == {"present": 1, "stale": 1}


def test_a_store_that_is_away_is_answered_by_defaults(policy_of: PolicyOf) -> None:
    """Without Redis every row is the defaults, and is said to be."""
    policy, seen = policy_of()

    table, served = policy.serve_unavailable(3, "Redis is away")

    assert values(table) == [DEFAULTS] * 3
    assert (served, seen) == (Served.REDIS_UNAVAILABLE, {"unavailable": 3})


def test_a_store_that_is_away_fails_the_call_where_it_must(policy_of: PolicyOf) -> None:
    """Under `fail` the call ends UNAVAILABLE with the reason, marked as safe to try elsewhere."""
    policy, _ = policy_of(unavailable="fail")

    with pytest.raises(Unavailable, match='Redis is away; view "card" is not served without it') as failure:
        policy.serve_unavailable(1, "Redis is away")

    assert failure.value.rejected


@settings(deadline=None)
@given(st.lists(st.sampled_from([FRESH, OLD, NULL, FOREIGN, CUT_OFF, None]), min_size=0, max_size=40))
def test_rows_do_not_depend_on_each_other(rows: list[bytes | None]) -> None:
    """Whatever is mixed in one request, each row is served as if it had come alone, and each is counted once."""
    view = FeatureView.model_validate(
        {
            "entity": {"name": "card_id"},
            "max_age": "1h",
            "missing": "default",
            "stale": "serve",
            "features": [{"name": "limit", "default": 100.0}, {"name": "declines", "default": 1}],
        }
    )
    seen: Counter[str] = Counter()
    policy = RowPolicy("card", view, ("limit", "declines"), lambda found, count: seen.update({found: count}))
    alone = [policy.serve([row], [b"c"], NOW_US) for row in rows]
    counted_alone, worst = Counter(seen), max((served for _, served in alone), default=Served.PRESENT)
    seen.clear()

    table, served = policy.serve(rows, ids(rows), NOW_US)

    assert values(table) == [values(each)[0] for each, _ in alone]
    assert served == worst
    assert +seen == +counted_alone
