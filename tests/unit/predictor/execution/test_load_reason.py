"""Why a model is not loaded: words that say what is wrong and what would be right, and nothing of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.predictor.config import ExecutionConfig
from services.predictor.execution.load_reason import load_reason
from services.predictor.execution.session import Session
from services.predictor.load_failed import LoadFailed


def changed(content: bytes, **what: Any) -> bytes:
    proto = onnx.load_from_string(content)
    if "opset" in what:
        proto.opset_import[0].version = what["opset"]
    if "ir" in what:
        proto.ir_version = what["ir"]
    if "operator" in what:
        proto.graph.node[0].op_type = what["operator"]
    if "domain" in what:
        proto.graph.node[0].domain = what["domain"]
        proto.opset_import.append(helper.make_opsetid(what["domain"], 1))
    return bytes(proto.SerializeToString())


def external(location: str) -> bytes:
    """A thousand weights in another file."""
    weights = numpy_helper.from_array(np.ones(1000, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["rows", 1000])],
        [value("y", TensorProto.FLOAT, ["rows", 1000])],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return bytes(made.SerializeToString())


def reason(folder: Path, content: bytes) -> str:
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(LoadFailed) as error:
        Session("m", 1, folder / "model.onnx", ExecutionConfig(intra_op_threads=1))
    text = str(error.value)
    assert str(folder) not in text and "/onnxruntime_src" not in text, text
    assert "\n" not in text and len(text) <= 500
    return text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"opset": 99},
            r"model\.onnx needs opset 99 of domain ai\.onnx, this ONNX Runtime knows \d+: export it with opset",
        ),
        ({"ir": 99}, r"model\.onnx has IR version 99, this ONNX Runtime reads up to \d+"),
        ({"operator": "Nope"}, r"model\.onnx uses operator Nope, which opset 16 does not have"),
        ({"domain": "com.acme"}, r"model\.onnx uses operator com\.acme:Add, which this ONNX Runtime does not have"),
    ],
)
def test_a_model_that_needs_another_runtime_says_which(
    tmp_path: Path, models: Any, change: dict[str, Any], words: str
) -> None:
    """Opset, IR version and operators: what the file needs, and what is here."""
    assert re.match(words, reason(tmp_path, changed(models.add(1), **change)))


@pytest.mark.parametrize("part", ["empty", "text", "half", "less the end"])
def test_a_file_that_is_no_model_says_so(tmp_path: Path, models: Any, part: str) -> None:
    """Empty, something else, or copied incompletely."""
    whole = models.add(1)
    content = {"empty": b"", "text": b"hello" * 99, "half": whole[: len(whole) // 2], "less the end": whole[:-7]}[part]

    assert (
        "expected an ONNX model" in reason(tmp_path, content)
        if not content
        else "is no ONNX model" in reason(tmp_path, content)
    )


def test_external_data_is_named_when_it_is_missing_short_or_elsewhere(tmp_path: Path) -> None:
    """By the file's name; a file outside the version's folder is not read, wherever the model says that it is."""
    assert reason(tmp_path, external("w.bin")) == (
        "weight weights of model.onnx is in w.bin, which is not there: put it beside model.onnx"
    )
    (tmp_path / "w.bin").write_bytes(b"short")
    assert "shorter than the model says" in reason(tmp_path, external("w.bin"))
    outside = tmp_path / "version"
    outside.mkdir()
    for elsewhere in ("../w.bin", "/etc/hostname"):
        assert "in a file outside the version's folder" in reason(outside, external(elsewhere))


def test_memory_that_was_not_there_is_the_reason(tmp_path: Path) -> None:
    """Of Python, of the operating system, and of the limit."""
    path = tmp_path / "model.onnx"

    assert load_reason(MemoryError(), path) == "model.onnx does not fit into this machine's memory"
    assert load_reason(RuntimeError("std::bad_alloc"), path) == (
        "model.onnx does not fit into memory: this machine did not give the memory"
    )
    limited = RuntimeError("Available memory of 1024 is smaller than requested bytes of 2048")
    assert load_reason(limited, path, 4096) == (
        "model.onnx does not fit into memory: 2KiB more are needed, 1KiB are left of execution.memory_limit, which is 4KiB"
    )


def test_what_is_not_foreseen_is_quoted_without_paths(tmp_path: Path) -> None:
    """One line, with the kind of error, and no place of this machine or of ONNX Runtime's source."""
    error = ValueError(f"bad {tmp_path}/model.onnx:\n /onnxruntime_src/core/x.cc:12 void f(int) Something is odd")

    assert load_reason(error, tmp_path / "model.onnx") == "ValueError: bad model.onnx: Something is odd"
