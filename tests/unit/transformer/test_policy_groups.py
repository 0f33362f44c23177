"""Policies of source groups: what is missing or stale in one group is answered as that group says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infermesh.errors import FailedPrecondition
from services.transformer.columns import Columns
from services.transformer.found import UNANSWERED
from services.transformer.policy import FEW_ROWS, RowPolicy, Served
from services.transformer.row import NEVER
from services.transformer.statuses import Status
from services.transformer.views import FeatureView

HOUR_US = 3_600_000_000
NOW_US = 1_700_000_000_000_000
OLD_US = NOW_US - HOUR_US - 1
NAMES = ("slow", "fast", "text", "taps")
DEFAULTS: list[Any] = [-1.0, -2.0, b"?", -3]


def view_of(**groups: dict[str, Any]) -> dict[str, Any]:
    """`slow` is of no group; `fast` and `text` of `a`, `taps` of `b`; each has an hour."""
    return {
        "entity": {"name": "id"},
        "max_age": "1h",
        "missing": "default",
        "stale": "serve",
        "unavailable": "default",
        "groups": {"a": groups.get("a", {}), "b": groups.get("b", {})},
        "features": [
            {"name": "slow", "default": -1.0},
            {"name": "fast", "default": -2.0, "group": "a"},
            {"name": "text", "datatype": "BYTES", "default": "?", "group": "a"},
            {"name": "taps", "datatype": "INT64", "default": -3, "group": "b"},
        ],
    }


def policy_of(view: dict[str, Any], used: tuple[str, ...] = NAMES) -> tuple[RowPolicy, Counter[str]]:
    seen: Counter[str] = Counter()
    return RowPolicy("v", FeatureView.model_validate(view), used, lambda f, n: seen.update({f: n})), seen


def taken(policy: RowPolicy, rows: Any) -> list[list[Any]]:
    formats = {"v": policy.format}
    datatypes = ("FP32", "FP32", "BYTES", "INT64")
    tensors = [
        Columns([("v", n)], formats, d).take({"v": rows}).ravel().tolist()
        for n, d in zip(NAMES, datatypes, strict=True)
    ]
    return [list(each) for each in zip(*tensors, strict=True)]


@pytest.mark.parametrize("others", [0, FEW_ROWS])
def test_a_stale_group_is_answered_as_it_says(others: int) -> None:
    """`default` takes the values of its group alone, the rest of the row stays; `serve` serves, and each status says which."""
    policy, seen = policy_of(view_of(a={"stale": "default"}))
    values: list[Any] = [1.0, 2.0, b"x", 3]
    fresh = policy.format.pack(values, NOW_US)
    a_old = policy.format.pack(values, [NOW_US, OLD_US, NOW_US])
    b_old = policy.format.pack(values, [NOW_US, NOW_US, OLD_US])
    stored = [a_old, b_old, *[fresh] * (1 + others)]

    rows, served = policy.serve(stored, [b"e"] * len(stored), NOW_US)

    assert taken(policy, rows)[:3] == [[1.0, -2.0, b"?", 3], values, values]
    assert (served, seen) == (Served.DEFAULTED, {"stale": 2, "present": 1 + others})
    statuses = policy.statuses(stored, NOW_US)[:3].tolist()
    present, defaulted, stale = Status.PRESENT, Status.DEFAULTED, Status.STALE
    assert statuses == [[present, defaulted, defaulted, present], [present, present, present, stale], [present] * 4]
    assert policy.serve([b_old], [b"e"], NOW_US)[1] is Served.STALE


def test_a_default_has_no_age() -> None:
    """The event time of a group whose values are not served is not there either, so that nobody takes its age."""
    policy, _ = policy_of(view_of(a={"stale": "default"}))
    row = policy.format.pack([1.0, 2.0, b"x", 3], [NOW_US, OLD_US, NOW_US])

    rows, _ = policy.serve([row], [b"e"], NOW_US)

    times = [int(np.asarray(rows)[0, group.event_time].view("<i8")[0]) for group in policy.format.groups]
    assert times == [NOW_US, 0, NOW_US]


def test_a_stale_group_may_fail_the_call_alone() -> None:
    """The error names its feature and age; a service that takes nothing of it is not failed."""
    view = view_of(b={"stale": "fail", "max_age": "10m"})
    policy, _ = policy_of(view)
    without, _ = policy_of(view, used=("slow", "fast"))
    row = policy.format.pack([1.0, 2.0, b"x", 3], [OLD_US, OLD_US, NOW_US - 700_000_000])

    with pytest.raises(FailedPrecondition, match='feature "taps": 700 s old, expected at most 600 s') as refused:
        policy.serve([row], [b"e"], NOW_US)

    assert refused.value.reason == "FEATURE_STALE"
    assert without.serve([row], [b"e"], NOW_US)[1] is Served.STALE


def test_what_is_missing_is_answered_by_its_group() -> None:
    """A null, a group never written and a row that is not there fail the call if a feature of the group is taken, and name it."""
    view = view_of(b={"missing": "fail"})
    policy, _ = policy_of(view)
    without, seen = policy_of(view, used=("slow", "fast", "text"))
    null_a = policy.format.pack([1.0, None, b"x", 3], NOW_US)
    null_b = policy.format.pack([1.0, 2.0, b"x", None], NOW_US)
    never_b = policy.format.pack([1.0, 2.0, b"x", None], [NOW_US, NOW_US, NEVER])

    assert taken(policy, policy.serve([null_a], [b"e"], NOW_US)[0]) == [[1.0, -2.0, b"x", 3]]
    for row, what in ((null_b, "null"), (never_b, "null"), (None, "no row"), (null_a[:-1], "cut off")):
        with pytest.raises(FailedPrecondition, match=f'entity "e": feature "taps": .*{what}'):
            policy.serve([null_a, row], [b"n", b"e"], NOW_US)
    assert without.serve([null_b, None], [b"e", b"f"], NOW_US)[1] is Served.DEFAULTED
    assert seen == {"present": 1, "missing": 1}


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ({"groups": {"g": {"missing": "default"}}}, "groups.g.missing: default: .* none is given for b"),
        ({"groups": {"g": {"stale": "default"}}, "max_age": "1h"}, "groups.g.stale: default: .* none is given for b"),
        ({"groups": {"g": {"stale": "serve"}}}, "groups.g.stale: says nothing without max_age"),
        ({"groups": {"g": {"missing": "serve"}}}, "groups.g.missing"),
        ({"groups": {"g": {"missing": "fail"}}, "missing": "default"}, "missing: default: .* none is given for a"),
    ],
)
def test_a_policy_that_can_not_be_is_refused(view: dict[str, Any], words: str) -> None:
    """A default where there is none, and an answer to an age that nobody set, are named with their group."""
    features = [{"name": "a"}, {"name": "b", "group": "g"}]

    with pytest.raises(ValidationError, match=words):
        FeatureView.model_validate({"entity": {"name": "id"}, "features": features, **view})


def test_a_group_that_fails_needs_no_default() -> None:
    """Only features that a default may stand in for must have one."""
    features = [{"name": "a", "default": 1}, {"name": "b", "group": "g"}]
    policies = {"missing": "default", "groups": {"g": {"missing": "fail"}}}

    view = FeatureView.model_validate({"entity": {"name": "id"}, "features": features, **policies})

    assert (view.missing_of("g"), view.missing_of("")) == ("fail", "default")


STALE = ("default", "serve")
_FORMAT = policy_of(view_of())[0].format
_VALUES = st.tuples(*(st.sampled_from([None, value]) for value in (1.0, 2.0, b"xyz", 3)))
_TIMES = st.tuples(*(st.sampled_from([NOW_US, OLD_US, NEVER]) for _ in range(3)))
_ROWS = st.one_of(
    st.builds(lambda values, times: _FORMAT.pack(values, times), _VALUES, _TIMES),
    st.just(None),
    st.just(b"foreign"),
    st.just(UNANSWERED),
)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(_ROWS, min_size=1, max_size=2 * FEW_ROWS),
    policies=st.tuples(*(st.sampled_from(STALE) for _ in range(3))),
)
def test_each_value_is_what_its_status_says(rows: list[bytes | None], policies: tuple[str, str, str]) -> None:
    """One by one, as a reader of the documentation would work it out: which value is served, and what is said of it."""
    view = {**view_of(a={"stale": policies[1]}, b={"stale": policies[2]}), "stale": policies[0]}
    policy, seen = policy_of(view)

    table, _ = policy.serve_kept(rows, [b"e"] * len(rows), NOW_US, "away")
    statuses = policy.statuses(rows, NOW_US, kept=True).tolist()

    expected: list[list[tuple[Any, Status]]] = []
    for row in rows:
        if row is None or row == b"foreign" or row is UNANSWERED:
            status = Status.DEFAULTED if row is UNANSWERED else Status.MISSING
            expected.append([(default, status) for default in DEFAULTS])
            continue
        stored, times = _FORMAT.unpack(row).values, _FORMAT.event_times(row)
        line = []
        for value, default, group in zip(stored, DEFAULTS, (0, 1, 1, 2), strict=True):
            is_stale = times[group] == OLD_US
            if is_stale and policies[group] == "default":
                line.append((default, Status.DEFAULTED))
            elif value is None:
                line.append((default, Status.NULL))
            else:
                line.append((value, Status.STALE if is_stale else Status.CACHED))
        expected.append(line)
    assert taken(policy, table) == [[value for value, _ in line] for line in expected]
    assert statuses == [[int(status) for _, status in line] for line in expected]
    assert seen.total() == len(rows)
