"""Making ONNX Runtime's sessions of one model file, on the execution providers and devices that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from services.predictor.config import ExecutionConfig
from services.predictor.execution.arena import bounded_arena
from services.predictor.execution.cpu import cpu_quota
from services.predictor.execution.optimized_graph import with_optimized_graph
from services.predictor.execution.providers import CPU, choose, device_numbers, named, with_options
from services.predictor.load_failed import LoadFailed

__all__ = ["OpenSessions"]

_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class OpenSessions:
    """A session for each device. `providers` are those in use, `missing` those that were asked for and are not, by our names.

    Raises LoadFailed when a provider is missing and that is to fail, and whatever ONNX Runtime raises for the file.
    """

    def __init__(self, path: Path, config: ExecutionConfig, available: Sequence[str] | None = None) -> None:
        self._path = path
        self._config = config
        there = named(ort.get_available_providers() if available is None else available)
        self.providers, missing = choose(config.providers, there, config.missing_provider)
        while True:
            try:
                self.devices = device_numbers(self.providers, config)
                self.sessions = [self._on_device(device) for device in self.devices]
                break
            except Exception:
                if config.missing_provider == "fail" or self.providers[0] == CPU:
                    raise
                first, *rest = self.providers  # it is installed and does not start: the next one may
                missing, self.providers = (*missing, first), tuple(rest)
        self.missing = missing

    def recording(self, prefix: Path) -> Any:
        """Another session on the first device, whose runs are recorded; its profile's file begins with `prefix`."""
        return self._made(self.devices[0], self._path, _LEVELS[self._config.graph_optimization], record_to=prefix)

    def _on_device(self, device: int) -> Any:
        level = _LEVELS[self._config.graph_optimization]
        make = partial(self._made, device)
        if self._config.optimized_graph_cache and self._config.graph_optimization != "disabled" and self._is_cpu:
            session = with_optimized_graph(make, self._path, level)
        else:
            session = make(self._path, level)
        # ONNX Runtime goes on without a provider that is installed and can't be initialised, and says so in its own log at most.
        lost = [name for name in self.providers if name not in named(session.get_providers())]
        if lost:
            raise LoadFailed(
                f"execution provider {', '.join(lost)} is installed and does not start: expected its driver and libraries, and "
                "execution.devices that exist; or set execution.missing_provider to fall_back"
            )
        return session

    @property
    def _is_cpu(self) -> bool:
        return self.providers == (CPU,)

    def _made(
        self, device: int, path: Path, level: Any, save_to: Path | None = None, *, record_to: Path | None = None
    ) -> Any:
        options = _options(self._config)
        options.graph_optimization_level = level
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
        if record_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(record_to)
        limit = self._config.memory_limit
        with bounded_arena(options, limit):
            return ort.InferenceSession(
                str(path),
                options,
                providers=with_options(self.providers, device, limit),
                enable_fallback=0,  # it prints, and goes on with providers of its own choice
            )


def _options(config: ExecutionConfig) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads or cpu_quota()
    options.inter_op_num_threads = config.inter_op_threads
    if config.inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.log_severity_level = 4  # errors come as exceptions, with the same words
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")  # it takes the CPU from other models
    return options
