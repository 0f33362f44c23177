"""Which runs happen on the event loop, and when that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.predictor.config import ExecutionConfig
from services.predictor.execution.inline import Inline
from services.predictor.execution.session import Session
from services.predictor.execution.warm_up import timed_inline


def floats(count: int) -> Any:
    return np.ones(count, np.float32)


def test_only_inputs_no_larger_than_those_that_were_timed_fit() -> None:
    """An optional input was not timed at all: a request that gives it goes to a thread."""
    inline = Inline(1.0, {"x": 4}, [])

    assert inline.fits({"x": floats(4)}) and inline.fits({"x": floats(0)})
    assert not inline.fits({"x": floats(5)})
    assert not inline.fits({"x": floats(4), "optional": floats(0)})


def test_strings_are_measured_by_their_characters() -> None:
    """What a text costs is not told by the number of texts."""
    inline = Inline(1.0, {"text": 2}, ["text"])

    assert inline.fits({"text": np.array(["a" * 512, "b" * 512], object)})
    assert not inline.fits({"text": np.array(["a" * 1025], object)})


def test_a_run_is_given_its_arguments_and_its_time_is_told() -> None:
    """The result of the work, and seconds."""
    result, took = Inline(1.0, {}, []).run(divmod, 7, 2)

    assert result == (3, 1)
    assert 0 <= took < 1


def test_slow_runs_end_it() -> None:
    """Four that come close together; what fits is asked of each run."""
    inline = Inline(0.0, {"x": 1}, [])

    def busy() -> int:
        return sum(range(2000))

    for _ in range(4):
        assert inline.fits({"x": floats(1)})
        inline.run(busy)

    assert inline.stopped and not inline.fits({"x": floats(1)})


@pytest.mark.parametrize(("times", "ends"), [(1.9, False), (2.1, True)])
def test_a_run_is_slow_at_twice_the_bound(monkeypatch: pytest.MonkeyPatch, times: float, *, ends: bool) -> None:
    """Below, in caches that others have used, it is no slower than its hop to a thread would be."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])

    for _ in range(1000):
        inline.run(clock.work, times * 0.001, times * 0.001)

    assert inline.stopped is ends


class Clock:
    """Both clocks of a run, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.cpu = 0.0
        for name, read in (("perf_counter", lambda: self.wall), ("thread_time", lambda: self.cpu)):
            monkeypatch.setattr(f"services.predictor.execution.inline.time.{name}", read)

    def work(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu

    def fail(self, wall: float, cpu: float) -> None:
        self.work(wall, cpu)
        raise ValueError


def test_one_very_slow_run_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 20 ms of CPU: nobody else was answered meanwhile, and the next one may take as long."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])
    inline.run(clock.work, 0.0001, 0.0001)

    inline.run(clock.work, 0.03, 0.03)

    assert inline.stopped


def test_a_very_slow_run_that_fails_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it blocked is the same."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])

    with pytest.raises(ValueError):
        inline.run(clock.fail, 0.03, 0.03)

    assert inline.stopped


def test_runs_come_back_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the machine, perhaps. Slow again, they are away twice as long; slow after a long good time, as long as at first."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])

    def away_s() -> float:
        for _ in range(4):
            assert inline.fits({})
            inline.run(clock.work, 0.003, 0.003)
        began = clock.wall
        while not inline.fits({}):
            clock.wall += 1.0
        return clock.wall - began

    assert [away_s() for _ in range(3)] == [10, 20, 40]
    clock.wall += 50
    assert away_s() == 10
    assert max(away_s() for _ in range(12)) == 3600


def test_runs_do_not_come_back_after_a_very_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a very slow one for everybody again."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])
    inline.run(clock.work, 0.03, 0.03)
    clock.wall += 1e9

    assert not inline.fits({})


def test_a_process_that_waits_for_its_core_is_no_slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that was throttled for a second, though the loop had computed before the run: only the run's own CPU counts."""
    clock, inline = Clock(monkeypatch), Inline(0.001, {}, [])
    for _ in range(200):
        inline.run(clock.work, 0.0001, 0.0001)
        clock.work(0.004, 0.004)

    inline.run(clock.work, 1.0, 0.0001)

    assert not inline.stopped


def test_what_a_model_runs_on_and_how_fast_it_is_decide(tmp_path: Path, models: Any) -> None:
    """Fast and on the CPU: inline. Not below the bound, or with work that depends on values: never."""

    def timed(content: bytes, below_s: float) -> Inline | None:
        (tmp_path / "model.onnx").write_bytes(content)
        session = Session("m", 1, tmp_path / "model.onnx", ExecutionConfig(intra_op_threads=1))
        return timed_inline(session, tmp_path / "model.onnx", below_s)

    expand = models.model(
        [helper.make_node("Expand", ["x", "to"], ["y"])],
        {"x": (TensorProto.FLOAT, ["rows"]), "to": (TensorProto.INT64, [1])},
        {"y": (TensorProto.FLOAT, ["more"])},
    )

    assert timed(models.add(1), 1.0) is not None
    assert timed(models.add(1), 0.0) is None
    assert timed(expand, 1.0) is None


@pytest.mark.parametrize(
    ("operator", "inputs", "domain"),
    [
        ("HannWindow", {"n": (TensorProto.INT64, [])}, ""),
        ("DFT", {"x": (TensorProto.FLOAT, [1, 4, 1]), "n": (TensorProto.INT64, [])}, ""),
        ("Gelu", {"x": (TensorProto.FLOAT, ["n"])}, "com.microsoft"),
    ],
)
def test_operators_that_are_not_known_to_be_bounded_never_run_inline(
    tmp_path: Path, models: Any, operator: str, inputs: Any, domain: str
) -> None:
    """One small request of these may take seconds; of domains that we don't know, nothing is promised."""
    node = helper.make_node(operator, list(inputs), ["y"], domain=domain)
    content = models.model([node], inputs, {"y": (TensorProto.FLOAT, None)})
    proto = onnx.load_from_string(content)
    proto.opset_import[0].version = 17
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    session = Session("m", 1, tmp_path / "model.onnx", ExecutionConfig(intra_op_threads=1))

    assert timed_inline(session, tmp_path / "model.onnx", 1.0) is None
