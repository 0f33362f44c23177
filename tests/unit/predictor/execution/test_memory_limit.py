"""A bound on the memory of one version's runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.errors import ResourceExhausted
from infermesh.tensors import read_outputs
from services.predictor.config import ExecutionConfig
from services.predictor.execution.session import Session

MIB = 2**18  # elements of FP32


@pytest.fixture
def zeros(models: Any) -> bytes:
    """The sum of `n` zeros, all of which are in memory for a moment."""
    return bytes(
        models.model(
            [
                helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
                helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            ],
            {"n": (TensorProto.INT64, [1])},
            {"sum": (TensorProto.FLOAT, [])},
        )
    )


def session(folder: Path, content: bytes, limit: str, name: str = "m") -> Session:
    file = folder / f"{name}.onnx"
    file.write_bytes(content)
    return Session(name, 1, file, ExecutionConfig(memory_limit=limit, intra_op_threads=1))  # type: ignore[arg-type]


def summed(session: Session, mib: int) -> float:
    return float(session.run({"n": np.array([mib * MIB])}, ["sum"])[0])


def test_a_run_past_the_limit_fails_alone(tmp_path: Path, zeros: bytes) -> None:
    """It is RESOURCE_EXHAUSTED with the sizes, and was started; the runs after it are served, as are those of others."""
    small, large, free = (session(tmp_path, zeros, limit, limit) for limit in ("64MiB", "256MiB", "0B"))

    with pytest.raises(
        ResourceExhausted, match=r"100MiB more are needed, 64MiB are left of execution\.memory_limit"
    ) as error:
        summed(small, 100)

    assert (error.value.reason, error.value.rejected) == ("MODEL_MEMORY", False)
    assert [summed(s, 50) for s in (small, large, free)] == [0, 0, 0]
    assert [summed(s, 100) for s in (large, free)] == [0, 0]
    with pytest.raises(ResourceExhausted, match="256MiB"):
        summed(large, 300)
    assert summed(free, 300) == 0


def test_what_earlier_runs_left_is_no_reason_to_fail(tmp_path: Path, zeros: bytes) -> None:
    """Runs of all sizes below the limit succeed one after the other, though the memory is kept in pieces of the earlier sizes."""
    limited = session(tmp_path, zeros, "100MiB")

    for mib in (10, 20, 30, 90, 5, 80, 99, 40, 95):
        assert summed(limited, mib) == 0


def test_the_limit_of_a_session_is_not_the_next_ones(tmp_path: Path, zeros: bytes) -> None:
    """A model without a limit that is loaded after one with a limit has none, and the other way round."""
    session(tmp_path, zeros, "16MiB", "before")
    free = session(tmp_path, zeros, "0B", "free")
    limited = session(tmp_path, zeros, "16MiB", "after")

    assert summed(free, 64) == 0
    with pytest.raises(ResourceExhausted):
        summed(limited, 64)


def test_what_no_machine_has_is_refused_without_a_limit_too(tmp_path: Path, zeros: bytes) -> None:
    """The operating system's refusal is the same error."""
    with pytest.raises(ResourceExhausted, match=r"this machine did not give \d+[KMG]iB of memory") as e:
        summed(session(tmp_path, zeros, "0B"), 10**9)

    assert e.value.reason == "MODEL_MEMORY"


async def test_a_model_at_its_limit_leaves_the_others_alone(
    put: Any, serve: Any, models: Any, ask: Any, zeros: bytes
) -> None:
    """From the configuration of one model to the status that its caller sees."""
    put("hungry", 1, zeros)
    put("other", 1, models.add(1))
    predictor = await serve(memory_limit="32MiB")

    with pytest.raises(
        ResourceExhausted, match='model "hungry" version 1: this request takes more memory than there is'
    ):
        await predictor.infer(ask("hungry", n=np.array([64 * MIB])), Call())

    answer = await predictor.infer(ask("other", x=np.ones(2, np.float32)), Call())
    assert read_outputs(answer)["y"].tolist() == [2, 2]
    answer = await predictor.infer(ask("hungry", n=np.array([16 * MIB])), Call())
    assert read_outputs(answer)["sum"].tolist() == 0
