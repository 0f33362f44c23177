"""Runs before a version is ready, from its configuration; and the data that is made up for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from services.predictor.config import ExecutionConfig
from services.predictor.execution.made_up import made_up
from services.predictor.execution.session import Session
from services.predictor.execution.warm_up import warm_up
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import WarmUp

ANY = ["rows", "columns"]
TYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT64", "UINT16", "BOOL", "STRING")


class Recorded:
    """Remembers what a real session was run with."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session = session
        self.runs: list[dict[str, Any]] = []
        run = session.run

        def recording(arrays: dict[str, Any], *arguments: Any, **named: Any) -> Any:
            self.runs.append(arrays)
            return run(arrays, *arguments, **named)

        monkeypatch.setattr(session, "run", recording)


@pytest.fixture
def echo(tmp_path: Path, models: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`echo(TensorProto.FLOAT, shape)`: the recorded session of a model that answers with its input."""

    def echo(kind: int, shape: Any = ("rows", "columns")) -> Recorded:
        return opened(models.echo(kind, shape))

    def opened(content: bytes) -> Recorded:
        folder = tmp_path / "m" / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(content)
        return Recorded(Session("m", 1, folder / "model.onnx", ExecutionConfig(intra_op_threads=1)), monkeypatch)

    echo.content = opened  # type: ignore[attr-defined]
    return echo


def go(recorded: Recorded, folder: Path, **wanted: Any) -> list[dict[str, Any]]:
    warm_up(recorded.session, [WarmUp.model_validate(wanted)], folder / "m")
    return recorded.runs


def test_every_size_is_run_as_often_as_it_says(echo: Any, tmp_path: Path) -> None:
    """Also no rows at all, and more than one entry."""
    runs = go(echo(TensorProto.FLOAT), tmp_path, rows=[1, 8, 0], runs=2)

    assert [run["x"].shape for run in runs] == [(1, 1)] * 2 + [(8, 1)] * 2 + [(0, 1)] * 2


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("data", ["random", "zero"])
def test_data_is_made_for_every_datatype(echo: Any, tmp_path: Path, kind: str, data: str) -> None:
    """Random or zero, the same at every start, in the shape that is asked for; a real model takes it."""
    recorded = echo(getattr(TensorProto, kind))
    wanted = {"rows": [5], "runs": 1, "inputs": {"x": {"data": data, "shape": [20]}}}

    first, second = go(recorded, tmp_path, **wanted)[0], go(recorded, tmp_path, **wanted)[1]

    assert first["x"].shape == (5, 20)
    assert np.array_equal(first["x"], second["x"])
    different = len(set(first["x"].ravel().tolist()))
    assert different == 1 if data == "zero" else different > 1
    if data == "zero":
        assert not any(first["x"].ravel().tolist())


@pytest.mark.parametrize("kind", TYPES)
def test_made_up_rows_fit_the_signature(echo: Any, models: Any, kind: str) -> None:
    """The rows that a check of the model runs: free first dimensions are rows, floats from 0 to 1, integers 0 or 1."""
    session = echo(getattr(TensorProto, kind), ["rows", 3]).session

    arrays = made_up(session.signature, 4)

    session.signature.check(arrays)
    assert arrays["x"].shape == (4, 3)
    assert np.array_equal(arrays["x"], made_up(session.signature, 4)["x"])
    assert not np.array_equal(made_up(session.signature, 50, seed=1)["x"], made_up(session.signature, 50, seed=2)["x"])
    if kind == "BFLOAT16":
        values = arrays["x"].view(ml_dtypes.bfloat16).astype(np.float32)
        assert ((values >= 0) & (values < 1)).all()
    elif kind != "STRING":
        assert ((arrays["x"] >= 0) & (arrays["x"] <= 1)).all()
    assert session.run(arrays, ["y"])[0].shape == (4, 3)


@pytest.mark.parametrize(("shape", "made"), [([], ()), ([2, 3], (2, 3)), ([2, "free"], (2, 1)), (["r"], (7,))])
def test_fixed_dimensions_are_kept(echo: Any, tmp_path: Path, shape: list[Any], made: tuple[int, ...]) -> None:
    """A scalar stays one, and a first dimension that the model fixes is no number of rows."""
    assert go(echo(TensorProto.FLOAT, shape), tmp_path, rows=[7], runs=1)[0]["x"].shape == made


def test_a_file_gives_as_many_rows_as_are_wanted(echo: Any, tmp_path: Path) -> None:
    """From the first one on, and again from there; the file stands beside the versions."""
    recorded = echo(TensorProto.FLOAT)
    folder = tmp_path / "m" / "warm_up"
    folder.mkdir()
    np.save(folder / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))

    runs = go(recorded, tmp_path, rows=[2, 5], runs=1, inputs={"x": {"file": "warm_up/x.npy"}})

    assert runs[0]["x"].tolist() == [[0, 1], [2, 3]]
    assert runs[1]["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("kind", "saved", "given"),
    [
        ("STRING", np.array([["ä", "bc"]]), [["ä", "bc"]]),
        ("STRING", np.array([["ä".encode(), b"bc"]]), [["ä", "bc"]]),
        ("BFLOAT16", np.array([[1.0, 2.0]], ml_dtypes.bfloat16), [[0x3F80, 0x4000]]),
        ("BFLOAT16", np.array([[0x3F80, 0x4000]], np.uint16), [[0x3F80, 0x4000]]),
        ("FLOAT16", np.array([[1, 2]], np.float16), [[1, 2]]),
        ("BOOL", np.array([[True, False]]), [[True, False]]),
    ],
)
def test_files_may_hold_any_datatype(echo: Any, tmp_path: Path, kind: str, saved: Any, given: Any) -> None:
    """Strings as numpy's text or bytes, BF16 as ml_dtypes saves it or as its bits."""
    recorded = echo(getattr(TensorProto, kind))
    np.save(tmp_path / "m" / "x.npy", saved)

    assert go(recorded, tmp_path, runs=1, inputs={"x": {"file": "x.npy"}})[0]["x"].tolist() == given


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((2, 2)), r"x\.npy: expected FP32 \[-1, -1\], got float64 \[2, 2\]"),
        (np.ones(2, np.float32), r"expected FP32 \[-1, -1\], got float32 \[2\]"),
        (np.ones((0, 2), np.float32), "expected at least one row"),
        (np.array([[{}]], object), "without objects"),
    ],
)
def test_a_file_that_does_not_suit_the_input_is_refused(echo: Any, tmp_path: Path, array: Any, words: str) -> None:
    """With what was expected and what is there; objects are never unpickled."""
    recorded = echo(TensorProto.FLOAT)
    np.save(tmp_path / "m" / "x.npy", array, allow_pickle=True)

    with pytest.raises(LoadFailed, match=words) as error:
        go(recorded, tmp_path, inputs={"x": {"file": "x.npy"}})

    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("file", ["../x.npy", "/etc/hostname", "link.npy", "1/../../x.npy"])
def test_a_file_outside_the_models_folder_is_refused(echo: Any, tmp_path: Path, file: str) -> None:
    """Whoever may write a model's configuration may not read the machine with it; links are followed before it is decided."""
    recorded = echo(TensorProto.FLOAT)
    np.save(tmp_path / "x.npy", np.ones((1, 1), np.float32))
    (tmp_path / "m" / "link.npy").symlink_to(tmp_path / "x.npy")

    with pytest.raises(LoadFailed, match="expected a file inside the model's folder"):
        go(recorded, tmp_path, inputs={"x": {"file": file}})


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_refused(echo: Any, tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, something else, or half of one."""
    recorded = echo(TensorProto.FLOAT)
    if content is not None:
        (tmp_path / "m" / "x.npy").write_bytes(content)

    with pytest.raises(LoadFailed, match=r"warm_up: input x: x\.npy: (no such file|expected an array)"):
        go(recorded, tmp_path, inputs={"x": {"file": "x.npy"}})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"z": {}}, "warm_up: no input z, expected one of x"),
        (
            {"x": {"shape": [2, 2]}},
            r"input x: shape: expected the dimensions after the rows of \[-1, 3\], got \[2, 2\]",
        ),
        ({"x": {"shape": [2]}}, r"expected the dimensions after the rows of \[-1, 3\], got \[2\]"),
    ],
)
def test_a_configuration_that_does_not_suit_the_model_is_refused(
    echo: Any, tmp_path: Path, inputs: Any, words: str
) -> None:
    """Not at the first request."""
    with pytest.raises(LoadFailed, match=words):
        go(echo(TensorProto.FLOAT, ["rows", 3]), tmp_path, inputs=inputs)


def test_a_run_that_fails_keeps_the_version_from_being_ready(echo: Any, models: Any, tmp_path: Path) -> None:
    """The reason says with how many rows, and what the model said."""
    reshape = models.model(
        [helper.make_node("Reshape", ["x", "to"], ["y"])],
        {"x": (TensorProto.FLOAT, ["rows"])},
        {"y": (TensorProto.FLOAT, [2, 2])},
        to=np.array([2, 2]),
    )

    with pytest.raises(LoadFailed, match=r'warm_up with 3 rows: model "m" version 1: .*[Rr]eshape'):
        go(echo.content(reshape), tmp_path, rows=[4, 3], runs=1)


async def test_a_version_is_ready_after_its_warm_up(
    put: Any, serve: Any, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the model's own configuration; one that fails keeps the version out of the index's READY, with the reason."""
    put("good", 1, models.add(1))
    put("bad", 1, models.add(1))
    np.save(tmp_path / "good" / "x.npy", np.ones(3, np.float32))
    (tmp_path / "good" / "config.yaml").write_text("warm_up: [{rows: [1, 5], inputs: {x: {file: x.npy}}}]")
    (tmp_path / "bad" / "config.yaml").write_text("warm_up: [{inputs: {y: {}}}]")
    seen: set[tuple[int, ...]] = set()
    run = Session.run

    def recording(self: Session, arrays: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        seen.add(arrays["x"].shape)
        return run(self, arrays, *arguments, **named)

    monkeypatch.setattr(Session, "run", recording)

    predictor = await serve()

    assert {(1,), (5,)} <= seen
    states = {model.name: (model.state, model.reason) for model in predictor.repository.index().models}
    assert states["good"][0] == "READY"
    assert states["bad"] == ("UNAVAILABLE", "warm_up: no input y, expected one of x")
