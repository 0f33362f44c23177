"""Filling the store: rows a second, and what an entity weighs in Redis, beside a hash with readable names and decimal text.

python -m benchmarks.features_load [--rows 1000000] [--features 50] [--formats csv,parquet]

A file of `--rows` entities with FP32 features is made, and loaded into an empty Valkey on loopback as `infermesh features load`
does it; reading, packing, writing and checking event times are all in the rate. The hashes hold the same values, by redis-py's
pipelines of HSET. Bytes per entity are what the server's used_memory grows by. Bound: packed ≤ 0.5 × the hash.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from redis.asyncio import Redis

from benchmarks.pairs import machine
from infermesh.cli.valkey import Valkey
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.load import LoadSummary, load_file
from services.transformer.views import FeatureView
from services.transformer.writer import FeatureWriter

BOUND = 0.5
HASHES_PER_PIPELINE = 500
HASH_ROWS = 100_000  # bytes per entity do not change beyond
WORDS = ("average", "amount", "count", "share", "distance", "declines", "transactions", "days")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--formats", default="csv,parquet")
    options = parser.parse_args()
    print(machine())
    # Names and values such as people have: words with a window, and numbers of a few digits.
    names = [f"{WORDS[n % len(WORDS)]}_{WORDS[n // len(WORDS) % len(WORDS)]}_{n}d" for n in range(options.features)]
    view = FeatureView.model_validate({"entity": {"name": "card_id"}, "features": [{"name": name} for name in names]})
    with tempfile.TemporaryDirectory() as folder:
        packed = 0.0
        for kind in options.formats.split(","):
            file = Path(folder) / f"rows.{kind}"
            _write(file, names, options.rows)
            summary, packed = asyncio.run(_load(file, view))
            print(
                f"{kind:8} {summary.rows:>9,} rows {summary.rows_per_second:>9,.0f} rows/s {packed:>7,.0f} bytes per entity"
            )
    rows = min(options.rows, HASH_ROWS)
    rate, hashed = asyncio.run(_hashes(names, rows))
    print(f"{'hash':8} {rows:>9,} rows {rate:>9,.0f} rows/s {hashed:>7,.0f} bytes per entity")
    ratio = packed / hashed
    print(f"packed to hash: {ratio:.2f} ×   bound {BOUND:g} ×: {'met' if ratio <= BOUND else 'NOT met'}")


def _values(rows: int, features: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(7).lognormal(3, 2, (rows, features)).round(2).astype(np.float32)


def _write(file: Path, names: list[str], rows: int) -> None:
    """By pyarrow, a part at a time."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    schema = pyarrow.schema([("card_id", pyarrow.string()), *((name, pyarrow.float32()) for name in names)])
    made = pyarrow.csv.CSVWriter if file.suffix == ".csv" else pyarrow.parquet.ParquetWriter
    with made(file, schema) as writer:
        for first in range(0, rows, 50_000):
            count = min(50_000, rows - first)
            values = _values(count, len(names))
            ids = pyarrow.array([f"card-{number:08d}" for number in range(first, first + count)])
            writer.write_table(pyarrow.table([ids, *values.T.copy()], schema=schema))


async def _load(file: Path, view: FeatureView) -> tuple[LoadSummary, float]:
    with Valkey() as server:
        client = administration(RedisConfig(url=server.url))
        assert isinstance(client, Redis)
        before = await _memory(client)
        writer = FeatureWriter(client, "card", view)
        summary = await load_file(file, writer, event_time_us=time.time_ns() // 1000)
        grown = await _memory(client) - before
        assert await client.dbsize() == summary.rows
        await client.aclose()
    return summary, grown / summary.rows


async def _hashes(names: list[str], rows: int) -> tuple[float, float]:
    with Valkey() as server:
        client = administration(RedisConfig(url=server.url))
        assert isinstance(client, Redis)
        before = await _memory(client)
        started = time.perf_counter()
        for first in range(0, rows, HASHES_PER_PIPELINE):
            values = _values(min(HASHES_PER_PIPELINE, rows - first), len(names)).tolist()
            async with client.pipeline(transaction=False) as pipe:
                for at, own in enumerate(values):
                    texts = {name: f"{value:.2f}" for name, value in zip(names, own, strict=True)}
                    pipe.hset(f"infermesh:card:card-{first + at:08d}", mapping={**texts, "event_time": "1700000000"})
                await pipe.execute()
        rate = rows / (time.perf_counter() - started)
        grown = await _memory(client) - before
        await client.aclose()
    return rate, grown / rows


async def _memory(client: Redis) -> int:
    return int((await client.info("memory"))["used_memory"])


if __name__ == "__main__":
    main()
