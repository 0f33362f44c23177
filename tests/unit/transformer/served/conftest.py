"""A filter that logs, over rows that are given, before a model that answers or fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Stack, stack
from infermesh.telemetry import Metrics
from infermesh.tensors import Array, read_inputs
from services.transformer.join_features import JoinFeatures
from services.transformer.plan import JoinPlan
from services.transformer.row import NEVER, RowFormat
from services.transformer.served.log import ServedLog, served_log
from services.transformer.served.settings import ServedLogConfig
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.views import FeatureFile

NOW_S = 1_700_000_000.0
VIEW = {
    "entity": {"name": "card_id"},
    "max_age": "1h",
    "missing": "default",
    "stale": "default",
    "unavailable": "default",
    "groups": {"batch": {"max_age": "1h"}, "live": {"max_age": "10d"}},
    "features": [
        {"name": "limit", "datatype": "FP64", "default": 100.0, "group": "batch"},
        {"name": "declines", "datatype": "INT64", "default": 1, "group": "live"},
        {"name": "home", "datatype": "BYTES", "default": "?", "group": "live"},
        {"name": "spent", "datatype": "FP32", "shape": [3], "default": [0, 0, 0], "group": "live"},
    ],
}
INPUTS = {
    "x": {"datatype": "FP32", "columns": ["card.limit", {"column": "request.amount", "transform": ["log1p"]}]},
    "spent": {"columns": ["card.spent"]},
    "home": {"columns": ["card.home"]},
    "declines": {"columns": ["card.declines"]},
}
SERVICE: dict[str, Any] = {
    "inputs": INPUTS,
    "request": {"amount": "FP64"},
    "overrides": "on",
}
FILE = FeatureFile.model_validate({"views": {"card": VIEW}, "services": {"m": SERVICE}})
FORMAT = RowFormat(FILE.views["card"].columns)


def row(limit: float | None, declines: int | None, home: str | None, spent: Any, *, ages_s: Any = (1.0, 2.0)) -> bytes:
    """A stored row; its groups are so many seconds old, None never written."""
    times = [NEVER if age is None else int((NOW_S - age) * 1e6) for age in ages_s]
    return FORMAT.pack((limit, declines, home, spent), times)


class Rows(FeatureStore):
    """A store that holds given rows, or is away."""

    def __init__(self, rows: dict[str, bytes] | None) -> None:
        self.rows = None if rows is None else {b"p:card:" + key.encode(): value for key, value in rows.items()}

    async def lookup(self, keys: Any, deadline: Any) -> list[bytes | None]:
        if self.rows is None:
            raise StoreUnavailable("Redis is away")
        return [self.rows.get(key) for key in keys]


class Logging:
    """What a test has in its hands: ask, and look at what the model got."""

    def __init__(self, service: Stack, model: Any, log: ServedLog) -> None:
        self.log = log
        self.model = model
        self._service = service

    async def ask(self, request: pb.ModelInferRequest, **call: Any) -> pb.ModelInferResponse:
        return await self._service.infer(request, Call(**{"request_id": "r-1", **call}))

    @property
    def inputs(self) -> list[dict[str, Array]]:
        return [dict(read_inputs(each)) for each in self.model.requests]


Opened = Callable[..., AbstractAsyncContextManager[Logging]]


@pytest.fixture
def logging(tmp_path: Path, recorder: Callable[..., Any]) -> Opened:
    """Opens a filter that logs into `folder`; everything is written when it is left."""

    @asynccontextmanager
    async def opened(
        rows: dict[str, bytes] | None, error: Exception | None = None, folder: Path = tmp_path, **settings: Any
    ):  # type: ignore[no-untyped-def]
        config = ServedLogConfig.model_validate({"mode": "file", "folder": str(folder), "share": 1.0, **settings})
        model = recorder(error=error)
        plans = {
            name: JoinPlan(FILE, FILE.services["m"], prefix="p", max_entities=1000) for name in ("m", "m-explainer")
        }
        async with served_log(config, Metrics("transformer")) as log:
            assert log is not None
            joining = JoinFeatures(plans, Rows(rows), model, clock=lambda: NOW_S, log=log)
            yield Logging(stack(joining, service=model), model, log)

    return opened


@pytest.fixture
def asking(request_of: Callable[..., pb.ModelInferRequest]) -> Callable[..., pb.ModelInferRequest]:
    """A request for cards; amounts count up from 10."""

    def make(*cards: str | bytes, **more: Any) -> pb.ModelInferRequest:
        amounts = 10.0 + np.arange(len(cards), dtype=np.float64).reshape(-1, 1)
        arrays = {"card_id": [card if isinstance(card, bytes) else card.encode() for card in cards], "amount": amounts}
        return request_of({**arrays, **more.pop("inputs", {})}, **more)

    return make
