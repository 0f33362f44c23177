"""The optimised graph beside the model: when it is written, used, replaced and done without."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.predictor.config import ExecutionConfig
from services.predictor.execution.optimized_graph import with_optimized_graph
from services.predictor.execution.session import Session
from services.predictor.load_failed import LoadFailed
from services.predictor.source import Folder

ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
FEED = {"x": np.random.default_rng(0).random((3, 8), np.float32)}


class Machine:
    """Makes real sessions on a clock that says how long each took."""

    def __init__(self, plain_s: float = 1.0, cached_s: float = 0.1) -> None:
        self.now = 0.0
        self.made: list[tuple[str, Any]] = []
        self._plain_s = plain_s
        self._cached_s = cached_s

    def make(self, path: Path, level: Any, save_to: Path | None = None) -> Any:
        self.made.append((path.name, level))
        self.now += self._cached_s if level == NONE else self._plain_s
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def open(self, folder: Path, level: Any = ALL) -> Any:
        self.made.clear()
        return with_optimized_graph(self.make, folder / "model.onnx", level, lambda: self.now)


def gelu(seed: int = 0, *, external: Path | None = None) -> bytes:
    """A layer whose operators ONNX Runtime fuses."""
    weights = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    tensor = numpy_helper.from_array(weights, "w")
    if external is not None:
        external.write_bytes(weights.tobytes())
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=external.name)
    half, one, root = (numpy_helper.from_array(np.float32(v), n) for v, n in ((0.5, "h"), (1, "o"), (2**0.5, "r")))
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Div", ["m", "r"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "o"], ["a"]),
            node("Mul", ["m", "a"], ["p"]),
            node("Mul", ["p", "h"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [tensor, half, one, root],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    made.metadata_props.add(key="author", value="somebody")
    return bytes(made.SerializeToString())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(gelu())
    yield folder
    folder.chmod(0o755)


def hidden(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.name.startswith("."))


def test_the_second_start_loads_the_graph_of_the_first(folder: Path) -> None:
    """It is loaded without being optimised, and answers and describes itself bit for bit as the model's own file does."""
    machine = Machine()
    plain = machine.make(folder / "model.onnx", ALL)

    first, second = machine.open(folder), machine.open(folder)

    assert [level for _, level in machine.made] == [NONE]
    assert machine.made[0][0].startswith(".optimized-") and hidden(folder) == [".onnx"]
    for session in (first, second):
        assert session.run(None, FEED)[0].tobytes() == plain.run(None, FEED)[0].tobytes()
        assert session.get_modelmeta().custom_metadata_map == {"author": "somebody"}
        assert [(n.name, n.type, n.shape) for n in (*session.get_inputs(), *session.get_outputs())] == [
            (n.name, n.type, n.shape) for n in (*plain.get_inputs(), *plain.get_outputs())
        ]


def test_the_graph_is_no_change_of_the_version(folder: Path) -> None:
    """It is hidden: whoever watches the folder does not load the version again because of it."""
    source = Folder(str(folder.parent.parent))
    before = source.look("m")

    Machine().open(folder)

    assert hidden(folder) == [".onnx"]
    assert source.look("m") == before


def test_a_model_that_loads_fast_is_left_alone(folder: Path) -> None:
    """Nothing is written, and no file is read to be hashed, where no start would notice."""
    machine = Machine(plain_s=0.1)

    machine.open(folder)

    assert [name for name, _ in machine.made] == ["model.onnx"]
    assert hidden(folder) == []


def test_a_graph_that_saves_nothing_is_not_kept_nor_tried_again(folder: Path) -> None:
    """A model whose loading is reading: an empty mark says so, until the model is another."""
    machine = Machine(plain_s=1.0, cached_s=0.9)

    machine.open(folder)
    assert hidden(folder) == [".none"]
    machine.open(folder)

    assert [name for name, _ in machine.made] == ["model.onnx"]
    (folder / "model.onnx").write_bytes(gelu(seed=1))
    machine.open(folder)
    assert len(machine.made) == 3
    assert hidden(folder) == [".none"]


@pytest.mark.parametrize("damage", [b"", b"garbage" * 50, "truncated"])
def test_a_damaged_graph_is_removed_and_the_model_loaded(folder: Path, damage: bytes | str) -> None:
    """Whatever somebody, or a crash, did to the file: it is no failure of the model, and the graph is made anew."""
    machine = Machine()
    expected = machine.open(folder).run(None, FEED)[0]
    (cached,) = folder.glob(".optimized-*.onnx")
    cached.write_bytes(cached.read_bytes()[:-20] if isinstance(damage, str) else damage)

    session = machine.open(folder)

    assert session.run(None, FEED)[0].tobytes() == expected.tobytes()
    assert cached.stat().st_size > 100
    machine.open(folder)
    assert [level for _, level in machine.made] == [NONE]


def test_another_model_or_level_has_another_graph(folder: Path) -> None:
    """The key is of contents: a new file is never answered from the old one's graph, and what is stale is removed."""
    machine = Machine()
    machine.open(folder)
    abandoned, in_work = folder / ".optimized-abandoned.tmp", folder / ".optimized-in-work.tmp"
    for file, hours in ((abandoned, 2), (in_work, 0)):
        file.touch()
        os.utime(file, (0, time.time() - 3600 * hours))
    (folder / "model.onnx").write_bytes(gelu(seed=1))
    expected = machine.make(folder / "model.onnx", ALL).run(None, FEED)[0]

    assert machine.open(folder).run(None, FEED)[0].tobytes() == expected.tobytes()
    assert hidden(folder) == [".onnx", ".tmp"]
    assert in_work.exists()  # of another process

    machine.open(folder, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    assert len(machine.made) == 3
    assert hidden(folder) == [".onnx", ".onnx", ".tmp"]


@pytest.mark.parametrize(("cached_s", "kind"), [(0.1, ".onnx"), (0.9, ".none")])
def test_nodes_of_two_kinds_share_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cached_s: float, kind: str
) -> None:
    """Each has its graph, or its mark, and takes nobody else's away; of many kinds the four that are newest stay."""
    machine = Machine(cached_s=cached_s)

    def start(cpu: str) -> int:
        monkeypatch.setattr("services.predictor.execution.optimized_graph._cpu", lambda: cpu)
        machine.open(folder)
        newest_first = sorted(folder.glob(".opt*"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for age, file in enumerate(newest_first, 1):  # as if a second passed between two starts
            os.utime(file, ns=(0, time.time_ns() - age * 10**9))
        return len(machine.made)

    made = [start(cpu) for cpu in "ABABAB"]

    assert made == [3, 3, 1, 1, 1, 1]
    assert hidden(folder) == [kind, kind]
    for cpu in "CDE":
        start(cpu)
    assert hidden(folder) == [kind] * 4
    assert [start(cpu) for cpu in "EDCB"] == [1, 1, 1, 1]


def test_external_data_is_part_of_the_key(folder: Path) -> None:
    """Weights that changed in a file of their own change the answers, cached graph or not."""
    (folder / "model.onnx").write_bytes(gelu(external=folder / "w.bin"))
    machine = Machine()
    first = machine.open(folder).run(None, FEED)[0]
    assert machine.open(folder).run(None, FEED)[0].tobytes() == first.tobytes()
    (folder / "w.bin").write_bytes(np.ones((8, 8), np.float32).tobytes())

    second = machine.open(folder).run(None, FEED)[0]

    assert second.tobytes() == machine.make(folder / "model.onnx", ALL).run(None, FEED)[0].tobytes()
    assert second.tobytes() != first.tobytes()


def test_a_folder_that_can_not_be_written_has_no_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only volume is the rule in Kubernetes: the model loads as it is, and only once."""
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    machine = Machine()

    machine.open(folder)

    assert [name for name, _ in machine.made] == ["model.onnx"]
    assert hidden(folder) == []


def test_a_full_disk_leaves_nothing_behind(folder: Path) -> None:
    """The write fails half way: the model is served from its own file, and no part of the graph stays."""

    class FullDisk(Machine):
        def make(self, path: Path, level: Any, save_to: Path | None = None) -> Any:
            if save_to is not None:
                save_to.write_bytes(b"half of")
                raise OSError(28, "No space left on device")
            return super().make(path, level)

    session = FullDisk().open(folder)

    assert session.run(None, FEED)[0].shape == (3, 8)
    assert hidden(folder) == []


def test_a_broken_model_is_no_matter_of_the_cache(folder: Path) -> None:
    """The reason is the model's, with the setting on or off; and small models are served with it on by default."""
    config = ExecutionConfig(intra_op_threads=1)
    Session("m", 1, folder / "model.onnx", config)
    (folder / "model.onnx").write_bytes(b"garbage")

    with pytest.raises(LoadFailed, match=r"model\.onnx is no ONNX model"):
        Session("m", 1, folder / "model.onnx", config)
