"""The features of a mesh on this machine: put into the store, and looked at as the transformer will find them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infermesh.cli.failure import Failure
from infermesh.cli.wiring import setting
from infermesh.config import load

if TYPE_CHECKING:
    from services.transformer.config import TransformerConfig

__all__ = ["Loaded", "fill", "look_up"]

WAIT_S = 2.0  # the embedded store answers already; one of your own should
SHOWN_REFUSALS = 3


@dataclass(frozen=True)
class Loaded:
    """A view that was filled."""

    view: str
    rows: int
    seconds: float


def fill(config: Path, folder: Path, redis_url: str) -> list[Loaded]:
    """Load every view that names a source, from the folder, as the transformer's configuration file declares them.

    Raises Failure when the store does not answer, a file can't be read, or a row does not fit its view.
    """
    return asyncio.run(_fill(_read(config, redis_url), folder, redis_url))


def look_up(config: Path, redis_url: str, view: str, entity: str) -> Mapping[str, Any]:
    """The features of one entity by name, from the store; empty when there is no row."""
    return asyncio.run(_look_up(_read(config, redis_url), redis_url, view, entity))


async def _fill(config: TransformerConfig, folder: Path, redis_url: str) -> list[Loaded]:
    from services.transformer.administration import wait_for_redis
    from services.transformer.load import BadTable, load_csv
    from services.transformer.policy import micros
    from services.transformer.writer import FeatureWriter

    loaded: list[Loaded] = []
    async with _store(config, redis_url) as client:
        await wait_for_redis(client, WAIT_S)
        for name, view in config.feature_file().views.items():
            if not view.source:
                continue
            writer = FeatureWriter(client, name, view, prefix=config.redis.key_prefix)
            try:
                summary = await load_csv(folder / view.source, writer, event_time_us=micros(time.time()))
            except BadTable as error:
                raise Failure(f"features not loaded: {error}") from None
            if summary.refused:
                why = "; ".join(f"line {each.line}: {each.why}" for each in summary.refusals[:SHOWN_REFUSALS])
                raise Failure(f"features not loaded: {folder / view.source}: {summary.refused} rows refused: {why}")
            loaded.append(Loaded(name, summary.rows, summary.seconds))
    return loaded


async def _look_up(config: TransformerConfig, redis_url: str, view: str, entity: str) -> Mapping[str, Any]:
    from services.transformer.keys import entity_text, key_prefix
    from services.transformer.row import RowFormat

    declared = config.feature_file().views.get(view)
    if declared is None:
        return {}
    async with _store(config, redis_url) as client:
        packed = await client.get(key_prefix(config.redis.key_prefix, view) + entity_text(entity))
    if packed is None:
        return {}
    row = RowFormat(declared.columns).unpack(packed)
    return dict(zip((name for name, *_ in declared.columns), row.values, strict=True))


def _read(config: Path, redis_url: str) -> TransformerConfig:
    from services.transformer.config import TransformerConfig

    return load(TransformerConfig, config, {**os.environ, setting("transformer", "redis", "url"): redis_url})


@asynccontextmanager
async def _store(config: TransformerConfig, redis_url: str) -> AsyncIterator[Any]:
    from redis.exceptions import RedisError

    from services.transformer.administration import administration

    client = administration(config.redis)
    try:
        yield client
    except (RedisError, OSError) as error:
        raise Failure(f"the feature store at {redis_url} does not answer as it should: {error}") from None
    finally:
        await client.aclose()
