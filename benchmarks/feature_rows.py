"""What the benchmarks of the transformer look up: cards with 50 FP32 features, and the ways in which a store may hold them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from redis.asyncio import Redis

from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, add_inputs
from services.transformer.row import RowFormat

__all__ = [
    "EVENT_TIME_US",
    "FEATURES",
    "LOOKED_UP",
    "MODEL",
    "NAMES",
    "STORAGES",
    "card_ids",
    "feature_file",
    "fill",
    "request_for",
    "values_of",
]

FEATURES = 50
NAMES = [f"average_amount_{number}d" for number in range(FEATURES)]
MODEL, LOOKED_UP = "fraud-detector", "card_features"
STORAGES = ("texts", "raw", "packed")  # decimal texts in a hash, FP32 in a hash, all FP32 in one string
EVENT_TIME_US = 1_700_000_000_000_000
PER_PIPELINE = 500


def values_of(entities: int) -> Array:
    """(N, 50) FP32 with two decimals, as amounts have."""
    return np.random.default_rng(7).normal(50, 20, (entities, FEATURES)).round(2).astype(np.float32)


def card_ids(first: int, count: int) -> list[bytes]:
    """The ids of some cards."""
    return [b"card-%08d" % number for number in range(first, first + count)]


def feature_file(layout: dict[str, Any] | None = None) -> dict[str, Any]:
    """One view and one service. Who is not found fails, so that no default is taken for a row."""
    view = {
        "entity": {"name": "card_id"},
        "missing": "fail",
        "unavailable": "fail",
        "features": [{"name": name} for name in NAMES],
        **({"layout": layout} if layout else {}),
    }
    return {"views": {"card": view}, "services": {MODEL: {"inputs": {LOOKED_UP: {"columns": ["card.*"]}}}}}


def request_for(first: int, count: int) -> ModelInferRequest:
    """Ids to look up, and an input that passes untouched."""
    request = ModelInferRequest(model_name=MODEL, id="1")
    ids = np.array(card_ids(first, count), np.object_).reshape(-1, 1)
    add_inputs(request, {"card_id": ids, "amount": np.linspace(1, 500, count, dtype=np.float32).reshape(-1, 1)})
    return request


def fill(url: str, entities: int) -> None:
    """Write the cards as our packed rows, and in each of STORAGES as a user would who has no such rows."""
    asyncio.run(_fill(url, entities))


async def _fill(url: str, entities: int) -> None:
    values, ids = values_of(entities), card_ids(0, entities)
    rows = RowFormat([(name, "FP32") for name in NAMES])
    async with Redis.from_url(url) as client:
        for start in range(0, entities, PER_PIPELINE):
            pipe = client.pipeline(transaction=False)
            for card, own in zip(ids[start : start + PER_PIPELINE], values[start:], strict=False):
                pipe.set(b"infermesh:card:" + card, rows.pack(own.tolist(), EVENT_TIME_US))
                pipe.hset(b"texts:" + card, mapping={n: f"{v:.2f}" for n, v in zip(NAMES, own.tolist(), strict=True)})
                pipe.hset(b"raw:" + card, mapping={n: v.tobytes() for n, v in zip(NAMES, own, strict=True)})
                pipe.set(b"packed:" + card, own.tobytes())
            await pipe.execute()
