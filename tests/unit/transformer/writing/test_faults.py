"""What Redis refuses, by real servers that refuse it: told in words that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.cli.ports import HOST
from infermesh.cli.valkey import Valkey
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.load import LoadSummary, NotWritten, load_file
from services.transformer.views import FeatureFile, FeatureView
from services.transformer.writer import FeatureWriter
from services.transformer.writing.again import Again
from services.transformer.writing.checkpoint import Checkpoint, Checkpoints, digest_of

VIEW = FeatureView.model_validate(
    {"entity": {"name": "id"}, "features": [{"name": f"f{n}", "datatype": "FP64"} for n in range(50)]}
)
HEADER = ",".join(["id", *(f"f{n}" for n in range(50))])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten thousand rows, five batches."""
    file = tmp_path / "t.csv"
    values = ",".join(["1.5"] * 50)
    file.write_text("\n".join([HEADER, *(f"e{n},{values}" for n in range(10_000))]))
    return file


@contextmanager
def server(*options: str) -> Iterator[Valkey]:
    with Valkey(options=options) as started:
        yield started


@asynccontextmanager
async def writing(config: RedisConfig) -> AsyncIterator[tuple[Any, FeatureWriter]]:
    client = administration(config)
    try:
        yield client, FeatureWriter(client, "card", VIEW, prefix=config.key_prefix)
    finally:
        await client.aclose()


async def test_a_full_redis_stops_a_load_which_goes_on_when_it_has_room(table: Path) -> None:
    """OOM ends the load at once with what to do; how far it got is kept, and the rest is loaded from there."""
    with server("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as valkey:
        async with writing(RedisConfig(url=valkey.url)) as (client, writer):
            summary = LoadSummary()
            kept = Checkpoints(client, "infermesh", "card", writer.format.fingerprint, digest_of(table))

            async def keep(so_far: LoadSummary) -> None:
                await kept.keep(Checkpoint(so_far.skipped + so_far.rows, 5))

            with pytest.raises(NotWritten, match="Redis is full: it has reached its maxmemory"):
                await load_file(table, writer, event_time_us=5, summary=summary, keep=keep)
            assert 0 < summary.rows < 10_000
            await client.config_set("maxmemory", "100mb")
            checkpoint = await kept.read()
            assert checkpoint is not None
            assert checkpoint.rows in (summary.rows, summary.rows - 2000)
            rest = await load_file(table, writer, event_time_us=5, skip=checkpoint.rows)

            assert rest.skipped == checkpoint.rows
            assert rest.rows == 10_000 - checkpoint.rows
            assert sum([1 async for _ in client.scan_iter("infermesh:card:*", count=1000)]) == 10_000


async def test_a_redis_that_restarts_costs_a_load_its_patience_alone(table: Path) -> None:
    """Batches that Redis does not take are tried again until it is back; what it lost before that is not our word."""
    with server() as valkey:
        async with writing(RedisConfig(url=valkey.url)) as (client, writer):
            pauses: list[str] = []

            def stop_at(summary: LoadSummary) -> None:
                if summary.rows == 4000:
                    valkey.stop()

            def start_again(why: str, pause_s: float) -> None:
                pauses.append(why)
                if len(pauses) == 2:
                    valkey.start()

            again = Again(patience_s=60, observe=start_again, first_pause_s=0.001)
            summary = await load_file(table, writer, event_time_us=5, progress=stop_at, again=again)

            assert len(pauses) >= 2
            assert all("Redis does not answer" in why for why in pauses)
            assert (summary.rows, summary.written) == (10_000, 10_000)
            assert await client.dbsize() == 6000  # it keeps nothing on disk


async def test_patience_ends(unused_tcp_port: int) -> None:
    """A store that stays away is an error that says for how long it was tried."""
    now = [0.0]

    async def sleep(pause_s: float) -> None:
        now[0] += pause_s

    async with writing(RedisConfig(url=f"redis://{HOST}:{unused_tcp_port}")) as (_, writer):
        again = Again(patience_s=10, clock=lambda: now[0], sleep=sleep)
        with pytest.raises(NotWritten, match=r"Redis does not answer: .* \(tried for 10 s\)"):
            await again(lambda: writer.write([writer.pack("a", [None] * 50, 1)]))

    assert 8 < now[0] <= 10


@pytest.mark.parametrize(
    ("given", "words"),
    [("", "Redis asks for a password, and none is given"), ("wrong", "wrong user or password")],
)
async def test_a_wrong_password_is_not_tried_again(table: Path, given: str, words: str) -> None:
    """A password does not become right by waiting; the words do not repeat it."""
    with server("--requirepass", "right") as valkey:
        config = RedisConfig.model_validate({"url": valkey.url, "password": given})
        async with writing(config) as (_, writer):
            with pytest.raises(NotWritten, match=words) as refused:
                await load_file(table, writer, event_time_us=5)

    assert "right" not in str(refused.value).replace(words, "")


async def test_a_replica_is_said_to_be_one(table: Path) -> None:
    """Who names a replica is told so at once."""
    with server() as primary, server("--replicaof", HOST, str(primary.port)) as replica:
        async with writing(RedisConfig(url=replica.url)) as (_, writer):
            with pytest.raises(NotWritten, match="this Redis is a read-only replica; name its primary"):
                await load_file(table, writer, event_time_us=5)


async def test_a_user_without_the_right_is_told_which(table: Path) -> None:
    """A user who may not write is told what Redis said of it."""
    with server() as valkey:
        admin = Redis.from_url(valkey.url)
        await admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection")
        await admin.aclose()
        async with writing(RedisConfig(url=valkey.url.replace("//", "//reader:pw@"))) as (_, writer):
            with pytest.raises(NotWritten, match="the Redis user may not do this"):
                await load_file(table, writer, event_time_us=5)


async def test_a_load_that_is_cancelled_has_told_how_far_it_got(
    writer_of: Callable[..., FeatureWriter], client: Redis, table: Path
) -> None:
    """A cancellation leaves no work behind, and everything up to `rows` is stored."""
    writer = writer_of(FeatureFile.model_validate({"views": {"card": VIEW}}))
    summary = LoadSummary()
    task: asyncio.Task[LoadSummary]

    def cancel(so_far: LoadSummary) -> None:
        if so_far.rows == 4000:
            task.cancel()

    task = asyncio.create_task(load_file(table, writer, event_time_us=5, summary=summary, progress=cancel))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert summary.rows == 4000
    assert await client.exists(*(writer.key(f"e{n}") for n in range(4000))) == 4000
