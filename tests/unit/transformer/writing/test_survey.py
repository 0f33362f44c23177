"""Looking at what is stored of a view, and taking it away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.cli.valkey import Valkey
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.row import RowFormat
from services.transformer.writing.survey import count_rows, delete_all, delete_keys, survey

LAYOUT = RowFormat([("a", "FP32"), ("b", "FP32")])
NOW_S = 1_700_000_000.0
PREFIX = b"m:card:"


@pytest.fixture(scope="module")
def own() -> Iterator[Valkey]:
    """A server of its own: a survey counts every key of a store."""
    with Valkey() as server:
        yield server


@pytest.fixture
async def filled(own: Valkey) -> Any:
    """A thousand rows, aged 0 to 999 s, `b` null in every fourth; two that are foreign; and 500 keys of somebody else."""
    client = administration(RedisConfig(url=own.url))
    await client.flushall()
    rows: dict[Any, bytes] = {
        PREFIX + str(n).encode(): LAYOUT.pack([1.0, None if n % 4 == 0 else 2.0], int((NOW_S - n) * 1e6))
        for n in range(1000)
    }
    rows |= {PREFIX + b"cut": LAYOUT.pack([1.0, 1.0], 0)[:-1], PREFIX + b"none": b"hello"}
    rows |= {f"other:{n}": b"x" for n in range(500)}
    await client.mset(rows)
    await client.pexpire(PREFIX + b"1", 10**9)
    yield client
    await client.aclose()


async def test_a_small_store_is_counted(filled: Redis) -> None:
    """Every key is looked at: rows, ages, nulls and what is foreign are exact."""
    found = await survey(filled, PREFIX, LAYOUT, sample=10_000, read=10_000, now=NOW_S)

    assert (found.whole, found.rows, found.estimated_rows, found.scanned, found.read) == (True, 1002, 1002, 1502, 1002)
    assert found.null_shares == {"a": 0.0, "b": 0.25}
    assert found.ages_s[""] == pytest.approx((499.5, 989.01, 999), abs=0.01)
    assert sorted(found.foreign.values()) == [1, 1]
    assert found.memory_bytes is not None
    assert found.memory_bytes > found.row_bytes > 30


async def test_a_large_store_is_estimated(filled: Redis) -> None:
    """With fewer keys looked at than there are, rows are an estimate that says so, near the truth, and no more is read."""
    found = await survey(filled, PREFIX, LAYOUT, sample=500, read=100, now=NOW_S)

    assert not found.whole
    assert 500 <= found.scanned < 700
    assert found.read == 100
    assert found.estimated_rows == pytest.approx(1002, rel=0.2)  # a thousand of 1502 in 500 draws: 3 % is one deviation


async def test_rows_of_several_views_are_counted_in_one_go(filled: Redis) -> None:
    """Each view by its own prefix; a view whose name begins another's is not mixed up with it."""
    await filled.set(b"m:car:1", b"x")

    rows, whole = await count_rows(filled, {"card": PREFIX, "car": b"m:car:", "none": b"m:none:"}, sample=10_000)

    assert (rows, whole) == ({"card": 1002, "car": 1, "none": 0}, True)


async def test_rows_are_deleted_by_the_key_or_all_of_them(filled: Redis) -> None:
    """Only the view's own keys go; what is not there is not counted."""
    assert await delete_keys(filled, [PREFIX + b"1", PREFIX + b"2", PREFIX + b"nobody"]) == 2
    told: list[int] = []
    assert await delete_all(filled, PREFIX, told.append) == 1000

    assert told[-1] == 1000
    assert await filled.dbsize() == 500
    assert (await survey(filled, PREFIX, LAYOUT, sample=10_000, read=10, now=NOW_S)).read == 0
