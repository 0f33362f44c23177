"""The rows that are asked about: what is in them, and which of them are the same."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import services.explainer.masked_rows as module
from services.explainer.coalitions import all_subsets
from services.explainer.masked_rows import MaskedRows
from services.explainer.players import Players
from services.explainer.signature import Signature, TensorSpec

SPECS = (
    TensorSpec("amount", "FP32", (-1, 1)),
    TensorSpec("country", "BYTES", (-1,)),
    TensorSpec("counts", "INT64", (-1, 2)),
)


def table_of(background: list[tuple], rows: list[tuple]) -> MaskedRows:
    """Rows (amount, country, count, count) in the three inputs of `SPECS`."""
    signature = Signature("m", ("1",), SPECS, (), {})
    players = Players.of(signature, {"amount": (1,), "country": (), "counts": (2,)}, 4)
    return MaskedRows(SPECS, players, arrays_of(background), arrays_of(rows))


def arrays_of(rows: list[tuple]) -> dict[str, np.ndarray]:
    country = np.empty(len(rows), object)
    country[:] = [row[1] for row in rows]
    return {
        "amount": np.array([row[0] for row in rows], np.float32).reshape(-1, 1),
        "country": country,
        "counts": np.array([row[2:] for row in rows], np.int64).reshape(-1, 2),
    }


def framed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def test_masked_rows_take_known_columns_from_the_row_and_the_others_from_the_background() -> None:
    """Each input's raw contents hold the row where the mask is true; BYTES elements have their length before them."""
    table = table_of([(1.0, b"DE", 10, 11), (2.0, b"F", 20, 21)], [(9.0, b"", 90, 91)])
    masks = np.array([[True, False, True, False], [False, True, False, True]])

    amount, country, counts = table.masked(np.array([0, 0]), masks, np.array([0, 1]))

    assert np.frombuffer(amount, "<f4").tolist() == [9.0, 2.0]
    assert country == framed(b"DE", b"")
    assert np.frombuffer(counts, "<i8").tolist() == [90, 11, 20, 91]


def test_plain_rows_are_the_background_and_then_the_rows() -> None:
    """Row i of all rows as they are."""
    table = table_of([(1.0, b"a", 1, 1)], [(2.0, b"b", 2, 2), (3.0, b"c", 3, 3)])

    assert np.frombuffer(table.plain(slice(0, 3))[0], "<f4").tolist() == [1.0, 2.0, 3.0]
    assert table.plain(slice(1, 3))[1] == framed(b"b", b"c")


def test_row_bytes_bound_the_longest_row_that_can_be_put_together() -> None:
    """Fixed sizes, and the longest text of each column with its prefix."""
    table = table_of([(1.0, b"four", 1, 1)], [(2.0, b"", 2, 2)])

    assert table.row_bytes == 4 + (4 + 4) + 16


rows_of_few_values = st.lists(
    st.tuples(
        st.sampled_from([0.0, -0.0, 1.5, float("nan")]),
        st.sampled_from([b"", b"a", b"ab"]),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(rows_of_few_values, rows_of_few_values)
def test_equal_composites_are_one_and_different_ones_are_not(background: list[tuple], rows: list[tuple]) -> None:
    """Each composite's place leads to one with the very same bytes, and no two of the distinct ones have the same."""
    table = table_of(background, rows)
    masks = all_subsets(4)

    distinct = table.distinct(masks, range(len(rows)))

    def content(row: int, coalition: int, behind: int) -> tuple[bytes, ...]:
        one = [np.array([index]) for index in (row, behind)]
        return tuple(table.masked(one[0], masks[coalition : coalition + 1], one[1]))

    contents = [content(*who) for who in zip(distinct.row, distinct.coalition, distinct.background, strict=True)]
    assert len(set(contents)) == len(contents)
    for (row, coalition, behind), place in np.ndenumerate(distinct.place):
        assert content(row, coalition, behind) == contents[place]


@settings(deadline=None)
@given(rows_of_few_values, rows_of_few_values, st.randoms(use_true_random=False))
def test_masks_with_a_background_row_of_their_own_are_the_same_composites(
    background: list[tuple], rows: list[tuple], random: Random
) -> None:
    """Each place leads to the bytes of its row, mask and background row; what is equal is there once."""
    table = table_of(background, rows)
    masks = all_subsets(4)[[random.randrange(16) for _ in range(20)]]
    behind = np.array([random.randrange(len(background)) for _ in masks])

    distinct = table.distinct_apart(masks, behind, range(len(rows)))

    def content(row: int, mask: int, background: int) -> tuple[bytes, ...]:
        return tuple(table.masked(np.array([row]), masks[mask : mask + 1], np.array([background])))

    contents = [content(*who) for who in zip(distinct.row, distinct.coalition, distinct.background, strict=True)]
    assert len(set(contents)) == len(contents)
    assert distinct.place.shape == (len(rows), len(masks))
    for (row, mask), place in np.ndenumerate(distinct.place):
        assert content(row, mask, behind[mask]) == contents[place]


def test_composites_whose_keys_collide_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """When two different composites get one key by chance, all are asked about: more work, never a wrong answer."""
    table = table_of([(1.0, b"a", 1, 1)], [(2.0, b"b", 2, 2)])
    masks = all_subsets(4)
    monkeypatch.setattr(table, "_keys", np.zeros_like(table._keys))

    distinct = table.distinct(masks, range(1))

    assert len(distinct.row) == 16
    assert distinct.place.ravel().tolist() == list(range(16))
    assert len(table.distinct_apart(masks, np.zeros(16, np.intp), range(1)).row) == 16
    assert module.HASH_SEED  # the keys are drawn from a constant: what is asked does not change from run to run


def test_only_the_rows_of_the_range_are_made_distinct() -> None:
    """Rows are numbered as in the request."""
    table = table_of([(0.0, b"", 0, 0)], [(1.0, b"a", 1, 1), (2.0, b"b", 2, 2), (3.0, b"c", 3, 3)])

    distinct = table.distinct(np.array([[True, False, False, False]]), range(1, 3))

    assert sorted(distinct.row.tolist()) == [1, 2]
    assert distinct.place.shape == (2, 1, 1)
