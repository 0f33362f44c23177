"""Execution providers: what is asked for, what is there, and what each is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from services.predictor.config import ExecutionConfig
from services.predictor.load_failed import LoadFailed

__all__ = ["CPU", "Choice", "choose", "device_numbers", "named", "with_options"]

CPU = "cpu"
_ORT_NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_NAMES = {ort_name: name for name, ort_name in _ORT_NAMES.items()}
_INSTALL: Mapping[str, str] = {
    "cuda": "install the extra infermesh[gpu] instead of infermesh[predictor], and CUDA with cuDNN",
    "tensorrt": "install the extra infermesh[gpu] instead of infermesh[predictor], and TensorRT",
    "openvino": "install onnxruntime-openvino instead of onnxruntime",
}
_NUMBERED = ("cuda", "tensorrt")  # whose devices have numbers


class Choice(NamedTuple):
    """Providers by our names: those to use, the preferred one first and the CPU always among them; and those not there."""

    use: tuple[str, ...]
    missing: tuple[str, ...]


def choose(wanted: Sequence[str], there: Sequence[str], missing_provider: Literal["fail", "fall_back"]) -> Choice:
    """Those of `wanted` that are `there` (by our names), in the order of `wanted`, each once; the CPU last unless it is named.

    Raises LoadFailed when one is not there and that is to fail.
    """
    asked = tuple(dict.fromkeys(wanted))
    missing = tuple(name for name in asked if name not in there and name != CPU)
    if missing and missing_provider == "fail":
        first = missing[0]
        raise LoadFailed(
            f"execution provider {', '.join(missing)} is not there, this ONNX Runtime can use {', '.join(there) or CPU}: "
            f"{_INSTALL.get(first, f'install an ONNX Runtime with {first}')}, or set execution.missing_provider to fall_back"
        )
    use = tuple(name for name in asked if name not in missing)
    return Choice(use if CPU in use else (*use, CPU), missing)


def named(ort_names: Sequence[str]) -> tuple[str, ...]:
    """Our names of ONNX Runtime's; those that we have none for are left out."""
    return tuple(_NAMES[name] for name in ort_names if name in _NAMES)


def device_numbers(use: Sequence[str], config: ExecutionConfig) -> tuple[int, ...]:
    """The devices of the first provider, for each of which a session is made; (0,) for the CPU, which is one.

    Raises LoadFailed for a provider that chooses its device by itself.
    """
    if use[0] == CPU:
        return (0,)
    if use[0] not in _NUMBERED:
        if list(config.devices) != [0]:
            raise LoadFailed(
                f"execution.devices: {list(config.devices)}: {use[0]} chooses its device by itself, expected [0]"
            )
        return (0,)
    return tuple(dict.fromkeys(config.devices))


def with_options(use: Sequence[str], device: int, memory_limit: int) -> list[tuple[str, dict[str, Any]]]:
    """The providers as a session takes them, all on one device; `memory_limit` in bytes, 0: none."""
    return [(_ORT_NAMES[name], _options(name, device, memory_limit)) for name in use]


def _options(name: str, device: int, memory_limit: int) -> dict[str, Any]:
    if name not in _NUMBERED:
        return {}
    options: dict[str, Any] = {"device_id": device}
    if memory_limit and name == "cuda":
        options |= {"gpu_mem_limit": memory_limit, "arena_extend_strategy": "kSameAsRequested"}
    if memory_limit and name == "tensorrt":
        options["trt_max_workspace_size"] = memory_limit
    return options
