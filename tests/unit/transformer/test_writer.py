"""Writing rows into a real Valkey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

INPUTS = {"x": {"columns": ["card.*"]}}

WriterOf = Callable[..., FeatureWriter]
FileOf = Callable[..., FeatureFile]


@pytest.fixture
def writer(writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]) -> FeatureWriter:
    return writer_of(file_of({"card": card}, INPUTS))


async def stored(client: Redis, writer: FeatureWriter, entity: str) -> Any:
    return writer.format.unpack(await client.get(writer.pack(entity, [0, 0], 0).key))


async def test_an_older_row_never_replaces_a_newer_one(client: Redis, writer: FeatureWriter) -> None:
    """A row with an earlier event time is left out and counted; the stored one stays."""
    assert await writer.write([writer.pack("c-1", [1, 1], 2_000)]) == (1, 0)

    assert await writer.write([writer.pack("c-1", [2, 2], 1_999), writer.pack("c-2", [3, 3], 1)]) == (1, 1)

    assert await stored(client, writer, "c-1") == (2_000, (1, 1))


async def test_at_equal_times_the_later_write_wins(client: Redis, writer: FeatureWriter) -> None:
    """A correction with the same event time is stored, and writing the same rows again changes nothing."""
    for value in (1, 2, 2):
        assert await writer.write([writer.pack("c-1", [value, value], 2_000)]) == (1, 0)

    assert await stored(client, writer, "c-1") == (2_000, (2, 2))


async def test_writers_at_the_same_time_leave_the_newest_row(client: Redis, writer: FeatureWriter) -> None:
    """Whatever the order in which 200 rows of one entity arrive from 20 writers, the newest one is what remains."""
    times = list(range(1_600_000_000_000_000, 1_600_000_000_000_200))
    random.Random(7).shuffle(times)

    await asyncio.gather(
        *(writer.write([writer.pack("c-1", [t % 1000, 0], t) for t in times[at : at + 10]]) for at in range(0, 200, 10))
    )

    assert await stored(client, writer, "c-1") == (1_600_000_000_000_199, (199, 0))


async def test_event_times_before_1970_are_compared_too(client: Redis, writer: FeatureWriter) -> None:
    """A negative event time is older than zero, not newer."""
    await writer.write([writer.pack("c-1", [1, 1], 0)])

    assert await writer.write([writer.pack("c-1", [2, 2], -5)]) == (0, 1)
    assert await stored(client, writer, "c-1") == (0, (1, 1))


async def test_a_row_of_another_schema_is_replaced_by_a_newer_one(client: Redis, writer: FeatureWriter) -> None:
    """During a change of schema the event time still decides; what is no row at all is replaced in any case."""
    other = RowFormat([("other", "INT64")]).pack([1], 1_000)
    row = writer.pack("c-1", [1, 1], 999)
    await client.set(row.key, other)

    assert await writer.write([row]) == (0, 1)
    assert await writer.write([writer.pack("c-1", [1, 1], 1_000)]) == (1, 0)
    await client.set(row.key, b"no row, but longer than a header")
    assert await writer.write([row]) == (1, 0)


async def test_rows_may_go_by_themselves(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """With a time to live a row is gone after it, and every write starts it anew; without one it stays."""
    file = file_of({"card": card}, INPUTS)
    passing, staying = writer_of(file, ttl_ms=60_000), writer_of(file)
    await passing.write([row := passing.pack("c-1", [1, 1], 1), passing.pack("c-2", [1, 1], 1)])

    assert 0 < await client.pttl(row.key) <= 60_000
    await staying.write([row])
    assert await client.pttl(row.key) == -1


async def test_a_script_that_redis_forgot_is_loaded_again(client: Redis, writer: FeatureWriter) -> None:
    """A server that was restarted, and knows no script, is written to as before."""
    await writer.write([writer.pack("c-1", [1, 1], 1)])
    await client.script_flush()

    assert await writer.write([writer.pack("c-1", [2, 2], 2)]) == (1, 0)


async def test_a_key_of_another_type_is_not_overwritten(client: Redis, writer: FeatureWriter) -> None:
    """What somebody else keeps under the key as a hash is an error, not lost."""
    row = writer.pack("c-1", [1, 1], 1)
    await client.hset(row.key, "a", "b")  # type: ignore[misc]  # redis-py's types know no asyncio here

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await writer.write([row])

    assert await client.hget(row.key, "a") == b"b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("entity", "words"),
    [("", "the entity id is empty"), ("x" * 513, "has 513 bytes, more than 512"), (7, "ids are of type string")],
)
async def test_an_entity_that_can_not_be_a_key_is_refused(writer: FeatureWriter, entity: Any, words: str) -> None:
    """Ids that a request could not ask for are not written either."""
    with pytest.raises(ValueError, match=words):
        writer.pack(entity, [1, 1], 0)
