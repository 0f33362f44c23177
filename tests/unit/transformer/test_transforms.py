"""Transforms of columns, beside oracles that look at one value at a time."""

from __future__ import annotations

import math
from datetime import datetime
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infermesh.tensors import DATATYPES
from services.transformer.transforms import ColumnType, Transform, ValueRefused, can_become, step_of
from services.transformer.transforms.hours import FIRST_S, LAST_S
from services.transformer.transforms.steps import bucket_of, ratio
from services.transformer.transforms.types import INTEGERS, NUMBERS, converted

NUMBER = st.floats(width=32)
FP32 = ColumnType("FP32")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca")


def done(declared: Any, column: Any, of: ColumnType) -> Any:
    return step_of(Transform.model_validate(declared), of).apply(column)


def column(values: list[Any], dtype: Any = np.float32) -> Any:
    return np.array(values, dtype).reshape(-1, 1)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=30))
def test_log1p_is_that_of_each_value(values: list[float]) -> None:
    """The logarithm of 1 + x in double precision, -inf at -1 and NaN below."""
    result = done("log1p", column(values), FP32)

    for x, y in zip(values, result[:, 0].tolist(), strict=True):
        expected = math.log1p(x) if x > -1 else -math.inf if x == -1 else math.nan
        assert math.isclose(y, expected, rel_tol=1e-15) or same(y, expected)


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=30), NUMBER.filter(math.isfinite), st.floats(0, 1e6))
def test_clip_bounds_each_value(values: list[float], low: float, width: float) -> None:
    """A value below or above the bounds becomes the bound; NaN stays."""
    result = done({"clip": [low, low + width]}, column(values), FP32)

    assert all(
        same(y, x if math.isnan(x) else min(max(x, low), low + width))
        for x, y in zip(values, result[:, 0], strict=True)
    )


@settings(deadline=None)
@given(st.lists(NUMBER.filter(math.isfinite), max_size=30), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_scale_shifts_and_divides(values: list[float], shift: float, divisor: float) -> None:
    """Mean and standard deviation, or minimum and maximum, in double precision."""
    by_mean = done({"scale": {"mean": shift, "std": divisor}}, column(values), FP32)
    by_range = done({"scale": {"min": shift, "max": shift + divisor}}, column(values), FP32)

    span = shift + divisor - shift
    assert by_mean[:, 0].tolist() == [(x - shift) / divisor for x in values]
    assert by_range[:, 0].tolist() == [(x - shift) / span for x in values]


def test_each_of_several_columns_may_have_a_scale_of_its_own() -> None:
    """A list has a number for each column; one of another length is a fault."""
    matrix = np.array([[1, 10], [3, 30]], np.float32)

    assert done({"scale": {"mean": [1, 10], "std": [2, 20]}}, matrix, ColumnType("FP32", 2)).tolist() == [
        [0, 0],
        [1, 1],
    ]
    with pytest.raises(ValueError, match="one for each of 3 columns, got 2"):
        step_of(Transform.model_validate({"scale": {"mean": [1, 10], "std": 1}}), ColumnType("FP32", 3))


@settings(deadline=None)
@given(st.lists(NUMBER, max_size=30), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8, unique=True))
def test_bucketise_counts_the_bounds_at_or_below(values: list[float], bounds: list[float]) -> None:
    """The bucket of x is the number of bounds that are not above it; NaN is past the last."""
    result = done({"bucketise": sorted(bounds)}, column(values), FP32)

    expected = [len(bounds) if math.isnan(x) else sum(bound <= x for bound in bounds) for x in values]
    assert result[:, 0].tolist() == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"", b"\xff"]), max_size=30), st.sampled_from(["zeros", "column"]))
def test_one_hot_has_one_column_for_each_value(values: list[bytes], unknown: str) -> None:
    """1 in the column of the value; what is none of them is nowhere, or in the last column."""
    result = done({"one_hot": {"values": ["b", "a"], "unknown": unknown}}, column(values, object), ColumnType("BYTES"))

    expected = [[x == b"b", x == b"a"] + [x not in (b"a", b"b")] * (unknown == "column") for x in values]
    assert result.tolist() == expected
    assert result.shape[1] == (3 if unknown == "column" else 2)


def test_one_hot_may_refuse_what_it_does_not_know() -> None:
    """The error has the row and the value."""
    step = step_of(Transform.model_validate({"one_hot": {"values": [1, 2], "unknown": "fail"}}), ColumnType("INT64"))

    with pytest.raises(ValueRefused, match="row 1: 3 is none of the values"):
        step.apply(column([2, 3], np.int64))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(2, 2**31))
def test_hash_is_blake2b(values: list[bytes], buckets: int) -> None:
    """The bucket is what the documented algorithm says of each value."""
    result = done({"hash": buckets}, column(values, object), ColumnType("BYTES"))

    expected = [int.from_bytes(blake2b(x, digest_size=8).digest(), "little") % buckets for x in values]
    assert result[:, 0].tolist() == expected


def test_the_hash_of_a_value_stays_for_ever() -> None:
    """A model was trained with these buckets; an integer has that of its text."""
    assert done({"hash": 1000}, column([b"DE", b"42", b""], object), ColumnType("BYTES")).ravel().tolist() == [
        345,
        983,
        756,
    ]
    of_text = done({"hash": 1000}, column([b"-42"], object), ColumnType("BYTES"))
    assert done({"hash": 1000}, column([-42], np.int64), ColumnType("INT64")).tolist() == of_text.tolist()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(ZONES), st.lists(st.integers(FIRST_S, LAST_S - 86_400), min_size=1, max_size=30))
def test_the_hour_of_day_is_the_time_zones(zone: str, seconds: list[int]) -> None:
    """As zoneinfo says it, through every change of the clocks, as seconds and as microseconds."""
    expected = [datetime.fromtimestamp(second, ZoneInfo(zone)).hour for second in seconds]

    as_seconds = done({"hour_of_day": zone}, column(seconds, np.int64), ColumnType("INT64"))
    as_micros = done(
        {"hour_of_day": {"timezone": zone, "unit": "us"}},
        column([s * 1_000_000 for s in seconds], np.int64),
        ColumnType("INT64"),
    )

    assert as_seconds[:, 0].tolist() == as_micros[:, 0].tolist() == expected


@pytest.mark.parametrize("second", [1_711_846_799, 1_711_846_800, 1_729_990_799, 1_729_990_800])
def test_the_hour_changes_with_the_clocks(second: int) -> None:
    """On the very second on which Berlin's clocks are put forward and back."""
    hour = done({"hour_of_day": "Europe/Berlin"}, column([second], np.int64), ColumnType("INT64"))

    assert hour.item() == datetime.fromtimestamp(second, ZoneInfo("Europe/Berlin")).hour


def test_what_is_no_time_is_refused() -> None:
    """NaN has no hour."""
    with pytest.raises(ValueRefused, match="row 1: nan is no point in time"):
        done("hour_of_day", column([0.5, math.nan], np.float64), ColumnType("FP64"))


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=30), NUMBER)
def test_a_ratio_is_that_of_each_pair(pairs: list[tuple[float, float]], zero: float) -> None:
    """The quotient in double precision, and what is declared where the divisor is 0."""
    above, below = (column([pair[at] for pair in pairs]) for at in (0, 1))

    for (a, b), result in zip(pairs, ratio(above, below, zero)[:, 0].tolist(), strict=True):
        expected = (
            zero
            if b == 0
            else float(np.float64(a) / np.float64(b))
            if math.isfinite(a) or math.isfinite(b)
            else math.nan
        )
        assert same(result, expected)


@settings(deadline=None)
@given(st.sampled_from(INTEGERS), st.lists(st.floats(-1e20, 1e20), min_size=1, max_size=10))
def test_floats_are_cut_towards_zero_or_refused(datatype: str, values: list[float]) -> None:
    """A cast to an integer datatype never wraps around."""
    dtype = np.dtype(datatype.lower())
    fits = [np.iinfo(dtype).min <= math.trunc(value) <= np.iinfo(dtype).max for value in values]

    if all(fits):
        assert converted(column(values, np.float64), datatype)[:, 0].tolist() == [math.trunc(value) for value in values]
    else:
        with pytest.raises(ValueRefused, match=f"row {fits.index(False)}: .* can't be {datatype}"):
            converted(column(values, np.float64), datatype)


@pytest.mark.parametrize(("value", "datatype"), [(300, "UINT8"), (-1, "UINT64"), (2**31, "INT32")])
def test_an_integer_that_does_not_fit_is_refused(value: int, datatype: str) -> None:
    """A narrower integer datatype refuses what it can't hold."""
    with pytest.raises(ValueRefused, match=f"row 0: {value} can't be {datatype}"):
        done({"cast": datatype}, column([value], np.int64), ColumnType("INT64"))


def test_nothing_becomes_another_thing_silently() -> None:
    """Integers may become wider ones and floats; floats never integers; texts stay texts."""
    assert can_become("INT64", "FP32") and can_become("INT8", "INT16") and can_become("BOOL", "INT64")
    assert not can_become("FP32", "INT64") and not can_become("INT64", "INT32") and not can_become("UINT64", "INT64")
    assert not any(can_become(number, "BYTES") or can_become("BYTES", number) for number in NUMBERS)


@pytest.mark.parametrize(
    ("declared", "of", "words"),
    [
        ("log1p", "BYTES", "log1p: a BYTES column can't be taken"),
        ({"hash": 8}, "FP32", "hash: a FP32 column can't be taken"),
        ("hour_of_day", "FP32", "hour_of_day: a FP32 column can't be taken"),
        ({"one_hot": ["a"]}, "INT64", "one_hot: a INT64 column can't be taken"),
        ({"hour_of_day": "Mars/Olympus"}, "INT64", 'no time zone "Mars/Olympus" is known here'),
        ({"cast": "BYTES"}, "INT64", "cast: INT64 can't become BYTES"),
    ],
)
def test_a_transform_of_a_column_that_it_can_not_take_is_a_fault(declared: Any, of: str, words: str) -> None:
    """The text says which transform, and what it was given."""
    with pytest.raises(ValueError, match=words):
        step_of(Transform.model_validate(declared), ColumnType(of))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("log2", '"log2": expected log1p or hour_of_day, or one of'),
        ({"clip": [1, 0]}, "low not above high"),
        ({"clip": [None, None]}, "at least one"),
        ({"scale": {"mean": 0, "std": 0}}, "std must not be 0"),
        ({"scale": {"min": 1, "max": 1}}, "max must be above min"),
        ({"scale": {"mean": 1}}, "expected mean and std, or min and max"),
        ({"bucketise": [1, 1]}, "bounds that rise"),
        ({"one_hot": ["a", "a"]}, "a value stands twice"),
        ({"one_hot": ["a", 1]}, "not both"),
        ({"hash": 1}, "greater than or equal to 2"),
        ({"log1p": True, "hash": 8}, "got log1p, hash"),
        ({}, "got none"),
    ],
)
def test_a_transform_that_says_nothing_clear_is_a_fault(declared: Any, words: str) -> None:
    """A declaration that can't be meant is refused when the file is read."""
    with pytest.raises(ValidationError, match=words):
        Transform.model_validate(declared)


def test_integers_of_every_kind_are_hashed_as_their_text() -> None:
    """The bucket does not depend on the datatype or on how often a value stands; a broadcast column is as good as any."""
    values = [0, 7, 7, 255, 7]
    expected = [bucket_of(b"%d" % value, 1000) for value in values]

    for name in INTEGERS:
        if name == "INT8":
            continue  # has no 255
        dtype = DATATYPES[name].dtype
        assert done({"hash": 1000}, column(values, dtype), ColumnType(name))[:, 0].tolist() == expected
    wide = np.broadcast_to(np.array([[7, -7]], np.int64), (3, 2))
    assert (
        done({"hash": 1000}, wide, ColumnType("INT64", 2)).tolist()
        == [[bucket_of(b"7", 1000), bucket_of(b"-7", 1000)]] * 3
    )
