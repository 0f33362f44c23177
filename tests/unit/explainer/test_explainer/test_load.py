"""Many explanations, and large ones."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import (
    ResourceExhausted,
)
from services.explainer.masked_rows import MaskedRows
from services.explainer.threads import INLINE_ELEMENTS
from services.explainer.value import BLOCK_ROWS
from tests.unit.explainer.explained_rows import ROWS


async def test_explanations_past_the_bound_wait_and_past_the_queue_are_refused(
    lab: SimpleNamespace, model: Any
) -> None:
    """Two at work, three in the queue, the sixth RESOURCE_EXHAUSTED with pushback; all of the five are answered."""
    service = lab.explainer(model, {"x": np.zeros((1, 3))}, limits={"concurrent": 2, "queue": 3})
    model.hold = asyncio.Event()
    tasks = [asyncio.create_task(service.infer(lab.request_of(ROWS), Call())) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    at_work = model.in_flight

    with pytest.raises(ResourceExhausted, match="3 explanations are waiting, which is the bound") as refused:
        await service.infer(lab.request_of(ROWS), Call())
    model.hold.set()
    answers = await asyncio.gather(*tasks)

    assert at_work == 2
    assert refused.value.rejected
    assert refused.value.retry_after_s
    assert [len(answer.outputs) for answer in answers] == [7] * 5


async def test_the_bytes_that_wait_have_a_bound(lab: SimpleNamespace, model: Any) -> None:
    """Of all together; a request that is larger by itself waits while nothing else does, and a caller who leaves makes room."""
    request = lab.request_of(ROWS)
    size = request.ByteSize()
    limits = {"concurrent": 1, "queue_bytes": f"{2 * size}B"}
    service = lab.explainer(model, {"x": np.zeros((1, 3))}, limits=limits)
    model.hold = asyncio.Event()

    async def begun(asked: Any) -> Any:
        task = asyncio.create_task(service.infer(asked, Call()))
        for _ in range(20):
            await asyncio.sleep(0)
        return task

    at_work, first, second = [await begun(request) for _ in range(3)]
    said = f"{3 * size} bytes of requests would wait, and {2 * size} may"
    with pytest.raises(ResourceExhausted, match=said) as refused:
        await service.infer(request, Call())
    for each in (first, second):
        each.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    large = await begun(lab.request_of({name: np.tile(rows, (9, 1)) for name, rows in ROWS.items()}))
    with pytest.raises(ResourceExhausted, match="bytes of requests would wait"):
        await service.infer(request, Call())
    model.hold.set()

    assert refused.value.rejected and refused.value.retry_after_s
    assert [len(answer.outputs) for answer in await asyncio.gather(at_work, large)] == [7, 7]


async def test_a_caller_who_leaves_the_queue_leaves_nothing_behind(lab: SimpleNamespace, model: Any) -> None:
    """Neither a place in the queue nor a turn."""
    service = lab.explainer(model, {"x": np.zeros((1, 3))}, limits={"concurrent": 1, "queue": 1})
    model.hold = asyncio.Event()
    first = asyncio.create_task(service.infer(lab.request_of(ROWS), Call()))
    for _ in range(3):
        waiting = asyncio.create_task(service.infer(lab.request_of(ROWS), Call()))
        for _ in range(10):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.hold = None

    assert len((await service.infer(lab.request_of(ROWS), Call())).outputs) == 7


async def test_large_arithmetic_is_done_in_threads_and_in_small_pieces(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4096 coalitions of rows in work, neither the keys nor the contents are made on the event loop's thread, and no piece
    is larger than a block; a tiny request takes no thread's way."""
    here, pieces = threading.get_ident(), []
    honest = {name: getattr(MaskedRows, name) for name in ("distinct", "masked")}

    def distinct(self: MaskedRows, masks: Any, rows: range) -> Any:
        pieces.append((threading.get_ident(), len(masks) * len(rows) * self.backgrounds))
        return honest["distinct"](self, masks, rows)

    def masked(self: MaskedRows, rows: Any, masks: Any, backgrounds: Any) -> Any:
        pieces.append((threading.get_ident(), len(rows)))
        return honest["masked"](self, rows, masks, backgrounds)

    monkeypatch.setattr(MaskedRows, "distinct", distinct)
    monkeypatch.setattr(MaskedRows, "masked", masked)
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}, [("x", "FP64", (-1, 12))])
    draw = np.random.default_rng(0)

    await lab.explain(model, {"x": draw.normal(size=(40, 12))}, {"x": draw.normal(size=(2, 12))}, method="exact")
    assert sum(rows for _, rows in pieces) >= 2 * 4094 * 40
    assert max(rows for _, rows in pieces) <= BLOCK_ROWS
    assert {thread == here for thread, rows in pieces if 12 * rows > INLINE_ELEMENTS} == {False}

    pieces.clear()
    await lab.explain(model, {"x": np.zeros((1, 12))}, {"x": np.ones((1, 12))}, method="permutation", max_evals=24)
    assert {thread for thread, _ in pieces} == {here}
