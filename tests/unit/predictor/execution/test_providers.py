"""Execution providers: choice, order, fallback and refusal, against given lists of what is there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.predictor.config import ExecutionConfig
from services.predictor.execution.providers import choose, device_numbers, named, with_options
from services.predictor.execution.session import Session
from services.predictor.load_failed import LoadFailed

GPU = ("tensorrt", "cuda", "cpu")
CUDA_LISTED = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # by a machine that this one only says it is


@pytest.mark.parametrize(
    ("wanted", "use"),
    [
        (["cpu"], ("cpu",)),
        (["cuda"], ("cuda", "cpu")),
        (["cuda", "cpu"], ("cuda", "cpu")),
        (["cuda", "tensorrt"], ("cuda", "tensorrt", "cpu")),
        (["tensorrt", "cuda", "cpu"], ("tensorrt", "cuda", "cpu")),
        (["cpu", "cuda"], ("cpu", "cuda")),
        (["cuda", "cuda"], ("cuda", "cpu")),
    ],
)
def test_providers_are_used_in_the_order_that_is_asked_for(wanted: list[str], use: tuple[str, ...]) -> None:
    """The CPU is last when it is not named: some operator always needs it."""
    assert choose(wanted, GPU, "fail") == (use, ())


def test_a_missing_provider_is_refused_with_what_is_there_and_what_to_install() -> None:
    """`fail`: the reason says what is missing, what this ONNX Runtime has, and how to get the other."""
    with pytest.raises(LoadFailed, match=r"cuda is not there, this ONNX Runtime can use cpu: .*infermesh\[gpu\]"):
        choose(["cuda", "cpu"], ("cpu",), "fail")
    with pytest.raises(LoadFailed, match=r"openvino is not there.*onnxruntime-openvino.*fall_back"):
        choose(["openvino"], GPU, "fail")


def test_a_missing_provider_may_be_gone_without() -> None:
    """`fall_back`: those that are there, in order; what is missing is told."""
    assert choose(["openvino", "cuda"], GPU, "fall_back") == (("cuda", "cpu"), ("openvino",))
    assert choose(["tensorrt", "cuda"], ("cpu",), "fall_back") == (("cpu",), ("tensorrt", "cuda"))


def test_the_names_of_onnx_runtime_are_ours() -> None:
    """Providers that we have no name for, such as Azure's, are none to choose."""
    assert named(["AzureExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]) == ("cuda", "cpu")


def test_each_device_of_the_first_provider_is_told_its_number_and_limit() -> None:
    """A session for each device; the CPU is one, and takes no options."""
    config = ExecutionConfig(providers=["cuda"], devices=[0, 2])

    assert device_numbers(("cuda", "cpu"), config) == (0, 2)
    assert device_numbers(("cpu", "cuda"), config) == (0,)
    assert with_options(("cuda", "cpu"), 2, 2**20) == [
        (
            "CUDAExecutionProvider",
            {"device_id": 2, "gpu_mem_limit": 2**20, "arena_extend_strategy": "kSameAsRequested"},
        ),
        ("CPUExecutionProvider", {}),
    ]
    with pytest.raises(LoadFailed, match=r"execution.devices: \[0, 2\]: openvino chooses its device by itself"):
        device_numbers(("openvino", "cpu"), config)


def session(folder: Path, models: Any, available: list[str] | None, **execution: Any) -> Session:
    (folder / "model.onnx").write_bytes(models.add(1))
    return Session("m", 1, folder / "model.onnx", ExecutionConfig(**execution), available)


def test_the_log_says_which_providers_are_in_use(tmp_path: Path, models: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO for each version: providers in use, and those that were asked for and are missing."""
    caplog.set_level(logging.INFO, "services.predictor")

    made = session(tmp_path, models, None, providers=["cuda", "cpu"], missing_provider="fall_back")

    (line,) = [record for record in caplog.records if "execution provider" in record.message]
    assert (line.__dict__["providers"], line.__dict__["missing"]) == (["cpu"], ["cuda"])
    assert (line.__dict__["model"], line.__dict__["version"]) == ("m", "1")
    assert (made.providers_in_use, made.devices) == (("cpu",), (0,))


def test_a_model_whose_provider_is_missing_is_not_loaded(tmp_path: Path, models: Any) -> None:
    """The default is to fail: a model that quietly runs on the CPU is found out by its users."""
    with pytest.raises(LoadFailed, match="tensorrt is not there, this ONNX Runtime can use cpu"):
        session(tmp_path, models, None, providers=["tensorrt"])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_listed_and_does_not_start_counts_as_missing(tmp_path: Path, models: Any) -> None:
    """ONNX Runtime goes on with the CPU when CUDA can't be initialised; what the session has is compared with what was asked."""
    with pytest.raises(LoadFailed, match=r"cuda is installed and does not start: .*driver"):
        session(tmp_path, models, CUDA_LISTED, providers=["cuda"])

    made = session(tmp_path, models, CUDA_LISTED, providers=["cuda"], devices=[0, 1], missing_provider="fall_back")

    assert (made.providers_in_use, made.devices) == (("cpu",), (0,))
    assert made.run({"x": np.ones(2, np.float32)}, ["y"])[0].tolist() == [2, 2]


def test_a_broken_file_is_not_blamed_on_the_provider(tmp_path: Path) -> None:
    """Falling back ends at the CPU, and the reason is the file's."""
    (tmp_path / "model.onnx").write_bytes(b"no model")

    with pytest.raises(LoadFailed, match="is no ONNX model"), pytest.warns(UserWarning, match="Specified provider"):
        Session(
            "m",
            1,
            tmp_path / "model.onnx",
            ExecutionConfig(providers=["cuda"], missing_provider="fall_back"),
            CUDA_LISTED,
        )
