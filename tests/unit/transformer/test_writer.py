"""Writing rows into a real Valkey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from infermesh.cli.valkey import Valkey
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter, NotWritten
from services.transformer.writing.again import Again

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


async def test_a_time_far_ahead_is_refused(writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]) -> None:
    """Milliseconds for microseconds would be a row of the year 57742, which keeps out all that follow."""
    now_s = 1_700_000_000
    writer = writer_of(file_of({"card": card}, INPUTS), now=lambda: float(now_s))
    groups = {"fast": {}, "slow": {}}
    features = [{"name": "a", "group": "fast"}, {"name": "b", "group": "slow"}]
    view = {"entity": {"name": "id"}, "groups": groups, "features": features}
    grouped = writer_of(file_of({"card": view}, INPUTS), now=lambda: float(now_s))
    day_us = 86_400_000_000

    assert writer.pack("c-1", [1, 1], now_s * 10**6 + day_us)
    for time_us in (now_s * 10**6 + day_us + 1, now_s * 10**9):
        with pytest.raises(ValueError, match=f"event time {time_us}: .*more than a day ahead of now; .*microseconds"):
            writer.pack("c-1", [1, 1], time_us)
        with pytest.raises(ValueError, match="more than a day ahead"):
            grouped.pack("c-1", [1, 1], (1, time_us))


async def test_a_row_of_another_version_2_schema_gives_way(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """Numbers and texts of a row are not taken for event times: after a breaking change an old row may be loaded over it."""
    features = [{"name": "v", "shape": [4], "default": [0.0] * 4}, {"name": "t", "datatype": "BYTES", "default": ""}]
    inputs = {"x": {"feature": "card.v"}}
    before = writer_of(file_of({"card": {**card, "features": features}}, inputs))
    writer = writer_of(file_of({"card": card}, INPUTS))
    await before.write([before.pack("c", [[1.0, -2.5, 1e9, 1e-9], b"a text of thirty bytes or more"], 5)])

    assert await writer.write([writer.pack("c", [1, 1], 4)]) == (0, 1)
    assert await writer.write([writer.pack("c", [1, 1], 6)]) == (1, 0)


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


async def test_a_view_says_how_long_its_rows_stay(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """What is written without a time to live of its own has the view's; 0 is one too: for ever."""
    file = file_of({"card": {**card, "ttl": "1m"}}, INPUTS)
    by_view, for_ever = writer_of(file), writer_of(file, ttl_ms=0)

    await by_view.write([row := by_view.pack("c-1", [1, 1], 1)])
    assert 0 < await client.pttl(row.key) <= 60_000

    await for_ever.write([row])
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


def counting(outcomes: dict[str, int]) -> Callable[[str, int], None]:
    def observe(outcome: str, rows: int) -> None:
        outcomes[outcome] = outcomes.get(outcome, 0) + rows

    return observe


async def test_rows_are_written_by_the_batch(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """A batch goes as soon as it is full, though the first row could wait for ever; the rest goes when the writer is closed."""
    outcomes: dict[str, int] = {}
    written = asyncio.Event()

    def observe(outcome: str, rows: int) -> None:
        counting(outcomes)(outcome, rows)
        written.set()

    writer = writer_of(file_of({"card": card}, INPUTS), batch_rows=3, linger_s=3600, observe=observe)
    async with writer:
        for number in range(5):
            await writer.put(f"c-{number}", {"limit": number, "declines": None}, 1)
        await written.wait()
        assert writer.waiting == 2

    assert outcomes == {"written": 5}
    assert await stored(client, writer, "c-4") == (1, (4.0, None))


async def test_a_lone_row_does_not_wait_for_others(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """What waits is written after `linger_s`, however little it is."""
    written = asyncio.Event()
    file = file_of({"card": card}, INPUTS)

    async with writer_of(file, linger_s=0.0, observe=lambda outcome, rows: written.set()) as writer:
        await writer.put("c-1", [1, 1], 1)
        await written.wait()

        assert await stored(client, writer, "c-1") == (1, (1.0, 1.0))


async def test_put_waits_while_the_queue_is_full(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """The queue is bounded: whoever puts more waits, and goes on as rows are written."""
    writer = writer_of(file_of({"card": card}, INPUTS), batch_rows=2, max_waiting=4)
    most = 0
    async with writer:
        for number in range(50):
            await writer.put(f"c-{number}", [number, 0], 1)
            most = max(most, writer.waiting)
        await writer.flush()
        assert writer.waiting == 0

    assert most == 4
    assert await stored(client, writer, "c-49") == (1, (49.0, 0.0))


async def test_a_store_that_is_away_loses_no_row(file_of: FileOf, card: dict[str, Any]) -> None:
    """Rows that can't be written stay in the queue, the next call says so, and `flush` writes them when the store is back."""
    outcomes: dict[str, int] = {}
    failed = asyncio.Event()

    def observe(outcome: str, rows: int) -> None:
        counting(outcomes)(outcome, rows)
        if outcome == "failed":
            failed.set()

    with Valkey() as server:
        client = administration(RedisConfig(url=server.url))
        view = file_of({"card": card}, INPUTS).views["card"]
        writer = FeatureWriter(client, "card", view, linger_s=0, again=Again(patience_s=0), observe=observe)
        async with writer:
            server.stop()
            await writer.put("c-1", [1, 1], 1)
            await failed.wait()
            with pytest.raises(NotWritten, match="Redis does not answer"):
                await writer.put("c-2", [2, 2], 1)
            with pytest.raises(NotWritten, match="Redis does not answer"):
                await writer.flush()
            server.start()
            await writer.flush()
            await writer.put("c-2", [2, 2], 1)
            await writer.flush()
            assert await stored(client, writer, "c-1") == (1, (1.0, 1.0))
            assert await stored(client, writer, "c-2") == (1, (2.0, 2.0))
        await client.aclose()

    assert outcomes["written"] == 2


async def test_closing_says_what_is_lost(file_of: FileOf, card: dict[str, Any], unused_tcp_port: int) -> None:
    """A writer that can't be emptied ends with the number of rows that are lost; nobody waits for ever."""
    client = administration(RedisConfig(url=f"redis://127.0.0.1:{unused_tcp_port}"))
    view = file_of({"card": card}, INPUTS).views["card"]
    writer = FeatureWriter(client, "card", view, linger_s=3600, again=Again(patience_s=0))

    with pytest.raises(NotWritten, match="2 rows of view card are lost"):
        async with writer:
            await writer.put("c-1", [1, 1], 1)
            await writer.put("c-2", [1, 1], 1)
    with pytest.raises(RuntimeError, match="the writer is closed"):
        await writer.put("c-3", [1, 1], 1)


async def test_a_key_of_another_type_does_not_hold_the_queue_up(
    client: Redis, writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """A row that can never be written is counted as refused, and the rows round it are written."""
    outcomes: dict[str, int] = {}
    writer = writer_of(file_of({"card": card}, INPUTS), observe=counting(outcomes))
    await client.hset(writer.key("c-1"), "a", "b")  # type: ignore[misc]  # redis-py's types know no asyncio here

    async with writer:
        for number in range(3):
            await writer.put(f"c-{number}", [1, 1], 1)

    assert outcomes == {"written": 2, "refused": 1}


async def test_a_mapping_has_every_feature_and_no_other(
    writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """A feature that is missing or unknown is refused when it is put, not when the batch is written."""
    async with writer_of(file_of({"card": card}, INPUTS)) as writer:
        with pytest.raises(ValueError, match='"declines" is missing; give None for a null'):
            await writer.put("c-1", {"limit": 1.0}, 1)
        with pytest.raises(ValueError, match='"more" is no feature of the view'):
            await writer.put("c-1", {"limit": 1.0, "declines": 1, "more": 2}, 1)
        with pytest.raises(ValueError, match='feature "limit": expected FP32'):
            await writer.put("c-1", {"limit": "much", "declines": 1}, 1)
        assert writer.waiting == 0


async def test_an_entity_may_have_several_ids(client: Redis, writer_of: WriterOf, file_of: FileOf) -> None:
    """They are joined so that no two entities share a key, and each is of its own type."""
    view = {
        "entity": {"name": "use", "keys": [{"name": "card"}, {"name": "shop", "type": "int"}]},
        "features": [{"name": "n"}],
    }
    writer = writer_of(file_of({"card": view}, INPUTS | {"x": {"columns": ["card.n"]}}))

    await writer.write([writer.pack(("a:b", 7), [1.0], 1)])

    assert await client.get(writer.key(("a:b", 7)))
    assert writer.key(("a:b", 7)).endswith(b":a%3Ab:7")
    with pytest.raises(ValueError, match="expected 2 ids, got 1"):
        writer.key("a:b:7")
    with pytest.raises(ValueError, match="ids are of type int"):
        writer.key(("a", "7"))


async def test_a_view_that_others_write_has_no_writer(
    writer_of: WriterOf, file_of: FileOf, card: dict[str, Any]
) -> None:
    """Rows of another layout are read, and never written by us."""
    hashes = {**card, "layout": {"kind": "hash", "event_time": "at"}}

    with pytest.raises(ValueError, match="its rows are of layout hash, and others write them"):
        writer_of(file_of({"card": hashes}, INPUTS))


async def test_what_nobody_foresaw_is_told_too(
    writer_of: WriterOf, file_of: FileOf, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no answer of Redis reaches who puts: nobody waits for a writer that has died."""
    failed = asyncio.Event()

    async def broken(rows: Any) -> Any:
        failed.set()
        raise KeyError("defect")

    writer = writer_of(file_of({"card": card}, INPUTS), linger_s=0)
    async with writer:
        with monkeypatch.context() as patched:
            patched.setattr(writer, "write", broken)
            await writer.put("c-1", [1, 1], 1)
            await failed.wait()
            with pytest.raises(NotWritten, match=r"unexpected: KeyError\('defect'\)"):
                for number in range(20_000):  # past the bound of the queue, where a put waits
                    await writer.put(f"c-{number}", [1, 1], 1)
        await writer.flush()
