"""However much was cached when Redis went away, the loop is not held up: nothing is copied, and memory is freed in pieces."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict

import pytest

from services.transformer.redis.cached import Cache
from services.transformer.redis.kept import AT_ONCE, ENTRY_BYTES, LOSSES, Entries, Freed, Kept
from services.transformer.redis.settings import CacheConfig

MANY = 3 * AT_ONCE


class Watched(OrderedDict[bytes, tuple[bytes | None, float]]):
    """A table that counts what is done to it."""

    touched = 0

    def pop(self, *key: object) -> object:  # type: ignore[override]
        Watched.touched += 1
        return super().pop(*key)  # type: ignore[call-overload]

    def popitem(self, last: bool = True) -> tuple[bytes, tuple[bytes | None, float]]:
        Watched.touched += 1
        return super().popitem(last)

    def __iter__(self):  # type: ignore[no-untyped-def]
        Watched.touched += len(self)
        return super().__iter__()


@pytest.fixture(autouse=True)
def untouched() -> None:
    Watched.touched = 0


def table(start: int, count: int, value: bytes) -> Entries:
    return Watched({b"%06d" % number: (value, 1e9) for number in range(start, start + count)})


def bytes_of(count: int, value: bytes) -> int:
    return count * (ENTRY_BYTES + 6 + len(value))


def test_a_second_loss_copies_nothing() -> None:
    """The tables of both stay as they are; the later value of a key is the one that is known."""
    kept = Kept(60.0, lambda: 0.0)
    old, new = table(0, MANY, b"1"), table(AT_ONCE, MANY, b"22")
    Watched.touched = 0

    kept.add(old, bytes_of(MANY, b"1"))
    kept.add(new, bytes_of(MANY, b"22"))

    assert Watched.touched == 0
    assert [kept.get(key) for key in (b"000000", b"%06d" % AT_ONCE, b"%06d" % (MANY + 1))] == [b"1", b"22", b"22"]
    assert kept.size_bytes == bytes_of(MANY, b"1") + bytes_of(MANY, b"22")  # both are in memory


def test_what_goes_is_gone_from_all_losses() -> None:
    """No older value comes back when a key is dropped, and when the newest says that it held nothing."""
    kept = Kept(60.0, lambda: 0.0)
    kept.add(table(0, MANY, b"1"), bytes_of(MANY, b"1"))
    new = table(0, MANY, b"2")
    new[b"000007"] = (None, 1e9)
    kept.add(new, bytes_of(MANY, b"2") - 1)

    kept.drop(b"000005")

    assert [kept.get(b"000005"), kept.get(b"000007"), kept.get(b"000006")] == [None, None, b"2"]
    assert kept.size_bytes == bytes_of(MANY - 1, b"1") + bytes_of(MANY - 1, b"2") - 1
    while kept.evict():
        pass
    assert (len(kept), kept.size_bytes) == (0, 0)


def test_losses_are_bounded() -> None:
    """Past LOSSES the oldest goes; small ones are taken together, so that a connection that comes and goes costs nothing."""
    kept = Kept(60.0, lambda: 0.0)
    kept.add(table(0, MANY, b"1"), bytes_of(MANY, b"1"))
    for number in range(3 * LOSSES):
        kept.add(table(number, 2, b"2"), bytes_of(2, b"2"))
    assert (kept.get(b"000000"), kept.get(b"%06d" % (MANY - 1))) == (b"2", b"1")
    assert len(kept) == MANY

    for number in range(1, LOSSES + 1):
        kept.add(table(number * MANY, MANY, b"3"), bytes_of(MANY, b"3"))

    assert kept.get(b"000000") is None
    assert len(kept) == LOSSES * MANY
    assert kept.size_bytes == bytes_of(LOSSES * MANY, b"3")


async def test_memory_is_freed_bit_by_bit() -> None:
    """Letting go and losing what may not be kept return at once; then each turn of the loop frees some, until all is gone."""
    freed = Freed()
    freed.add(table(0, 2 * AT_ONCE + 1, b"1"))
    freed.add(table(0, AT_ONCE + 1, b"1"))
    assert len(freed) == 3 * AT_ONCE + 2
    left = [len(freed)]
    async with asyncio.timeout(10):
        while len(freed):
            await asyncio.sleep(0)
            left.append(len(freed))

    assert all(0 < before - after <= AT_ONCE for before, after in itertools.pairwise(left))
    freed.add(table(0, AT_ONCE + 1, b"1"))  # and again from the beginning
    async with asyncio.timeout(10):
        while len(freed):
            await asyncio.sleep(0)


@pytest.mark.parametrize("keep", ["0s", "5m"])
async def test_a_cache_that_is_emptied_frees_nothing_at_once(keep: str) -> None:
    """On a loss, and when Redis is back."""
    cache = Cache(CacheConfig.model_validate({"max_bytes": "16MiB", "keep_when_away": keep}), lambda: 0.0)
    for number in range(MANY):
        cache.put(b"%06d" % number, b"1")

    cache.flush()
    cache.let_go()

    assert len(cache._kept._freed) == MANY
    assert (len(cache), cache.size_bytes) == (0, 0)
