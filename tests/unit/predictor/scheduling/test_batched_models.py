"""Batching with real models: what is batched, what is refused at load, what comes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.errors import MeshError
from services.predictor.model_config import ModelSettings
from services.predictor.model_version import ModelVersion

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def opened(folder: Path, **settings: Any) -> ModelVersion:
    execution = {"intra_op_threads": 1, "inline_below": "0s", "optimized_graph_cache": False}
    whole = {"batching": {"enabled": True}, **settings}
    whole["execution"] = execution | whole.get("execution", {})
    return ModelVersion("m", 1, folder / "model.onnx", ModelSettings.model_validate(whole))


async def answer(version: ModelVersion, x: Any, **rest: Any) -> Any:
    return (await version.run({"x": x}, ["y"], Call(), rows=len(x), **rest))[0][2]


def mlp(models: Any) -> bytes:
    draw = np.random.default_rng(3)
    return bytes(
        models.model(
            [
                helper.make_node("MatMul", ["x", "w"], ["h"]),
                helper.make_node("Relu", ["h"], ["r"]),
                helper.make_node("MatMul", ["r", "v"], ["y"]),
            ],
            {"x": (FLOAT, ["rows", 64])},
            {"y": (FLOAT, ["rows", 8])},
            w=draw.standard_normal((64, 512)).astype(np.float32),
            v=draw.standard_normal((512, 8)).astype(np.float32),
        )
    )


async def test_each_of_many_gets_what_it_would_get_alone(put: Any, models: Any) -> None:
    """Three hundred concurrent requests of one to nine rows share fewer runs, and get the answers that they get singly."""
    version = opened(put("m", 1, mlp(models)))
    draw = np.random.default_rng(0)
    inputs = [draw.standard_normal((int(rows), 64)).astype(np.float32) for rows in draw.integers(1, 10, 300)]

    answers = await asyncio.gather(*(answer(version, x) for x in inputs))

    for x, y in zip(inputs, answers, strict=True):
        assert np.allclose(y, version.session.run({"x": x}, ["y"])[0], rtol=1e-4, atol=1e-4)
    assert version.statistics.batch_rows.count < 300
    assert version.statistics.queue_seconds.count == 300
    assert (version.waiting, version.running) == (0, 0)
    version.close()


async def test_a_member_that_the_model_fails_on_fails_alone(put: Any, models: Any) -> None:
    """An index outside the table is found while the batch runs: only who sent it gets the error."""
    table = models.model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": (INT64, ["rows"])},
        {"y": (FLOAT, ["rows"])},
        table=np.arange(8, dtype=np.float32),
    )
    version = opened(put("m", 1, table))

    calls = [answer(version, np.array([99 if at == 5 else at % 8])) for at in range(12)]
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(answers[5], MeshError)
    assert [a.tolist() for at, a in enumerate(answers) if at != 5] == [[at % 8] for at in range(12) if at != 5]
    version.close()


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "STRING", "BOOL", "INT8", "DOUBLE"])
async def test_every_datatype_is_checked_and_batched(put: Any, models: Any, kind: str) -> None:
    """Also those that numpy has no type for."""
    version = opened(put("m", 1, models.echo(getattr(TensorProto, kind))))
    dtypes = {"FLOAT16": np.float16, "BFLOAT16": np.uint16, "STRING": object, "BOOL": bool, "INT8": np.int8}
    values = [["a", "bc"] if kind == "STRING" else [at % 2, 1] for at in range(20)]
    inputs = [np.array(v, dtypes.get(kind, np.float64)) for v in values]

    answers = await asyncio.gather(*(answer(version, x) for x in inputs))

    assert [a.tolist() for a in answers] == [x.tolist() for x in inputs]
    version.close()


async def test_callers_who_give_a_weight_get_answers_with_their_own(put: Any, models: Any) -> None:
    """w is optional and its first dimension free: joined, it would be the weights of all callers for the rows of each."""
    content = models.model(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ["rows", 2]), "w": (FLOAT, ["K"])},
        {"y": (FLOAT, ["rows", 2])},
        w=np.ones(1, np.float32),
    )
    version = opened(put("m", 1, content))

    async def ask(w: float) -> Any:
        arrays = {"x": np.ones((1, 2), np.float32), "w": np.full(1, w, np.float32)}
        return (await version.run(arrays, ["y"], Call()))[0][2].tolist()

    assert await asyncio.gather(*(ask(w) for w in (10, 20, 30))) == [[[10, 10]], [[20, 20]], [[30, 30]]]
    version.close()


async def test_an_inline_run_does_not_overtake_who_waits(put: Any, models: Any) -> None:
    """A tiny request waits behind a large one of its level that waits for a thread, and goes before one of a lower level."""
    execution = {"inline_below": "1s", "slice_rows": 0}
    version = opened(put("m", 1, models.add(1)), batching={"enabled": False}, execution=execution)
    large, tiny = np.ones(100_000, np.float32), np.ones(1, np.float32)
    order: list[str] = []

    async def call(name: str, x: Any, priority: int) -> None:
        await answer(version, x, priority=priority)
        order.append(name)

    runs = [asyncio.ensure_future(call(*of)) for of in (("runs", large, 2), ("waits", large, 2))]
    await asyncio.sleep(0)
    assert version.waiting == 1
    behind = asyncio.ensure_future(call("behind", tiny, 2))
    before = asyncio.ensure_future(call("before", tiny, 1))
    await asyncio.sleep(0)
    assert (order, version.waiting) == (["before"], 2)

    await asyncio.gather(*runs, behind, before)

    assert order == ["before", "runs", "waits", "behind"]
    await call("alone", tiny, 2)
    version.close()
