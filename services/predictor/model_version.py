"""One loaded version of a model: its session, its signature, its threads, its statistics."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort

from infermesh.call import Call
from infermesh.errors import Internal, InvalidRequest, Unavailable, quoted
from infermesh.tensors import DATATYPES, Array
from services.predictor.config import ExecutionConfig
from services.predictor.onnx_types import DATATYPE_OF, NEEDS_ORT_VALUE, from_ort_value, strings_from_bytes, to_ort_value
from services.predictor.statistics import Statistics
from services.predictor.threads import Threads

__all__ = ["LoadFailed", "ModelVersion", "TensorSpec", "cpu_quota"]


WARM_UP_RUNS = 50
WARM_UP_SECONDS = 0.25  # a slow model is not run fifty times to learn that it is slow
MAX_WARM_UP_ELEMENTS = 10_000_000
MAX_INLINE_CHARACTERS = 1024  # of all strings of a request together: what they cost is not told by their number

# A slow run inline adds to an account, a fast one takes 1 off: it overflows with the fourth of slow runs that come more often
# than one in fifty. While there is something on it only the thread's own CPU time counts: a process that waits for its core is
# no slow model. That clock is a system call, so it is not read for every run.
SLOW_RUN = 50
SLOW_ACCOUNT = 150

# The work of these operators depends on values, not only on shapes, so a short warm-up says nothing about the next run.
# In a model file an operator's name stands behind its tag (NodeProto.op_type = 4, length-delimited) and length.
_BY_VALUE = re.compile(
    rb"\x22(\x04Loop|\x04Scan|\x02If|\x0bSequenceMap|\x05Range|\x0fConstantOfShape|\x06Expand|\x04Tile|\x03Pad|\x06OneHot"
    rb"|\x06Resize|\x08Upsample|\x0eRegexFullMatch)"
)

_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


_REFUSED = (ort.capi.onnxruntime_pybind11_state.InvalidArgument,)
_FAILED = (ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.RuntimeException)


class LoadFailed(Exception):
    """A version that can't be loaded; the text is the reason in the index."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the graph; -1 in `shape` is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelVersion:
    """Runs one version. Made by `load`; `close` when nobody will call `run` again, what runs then is finished.

    Runs happen in threads of this version's own, so that a model that hangs holds up no other. A version that its warm-up
    showed to be tiny runs on the event loop, for inputs no larger than those of the warm-up, until runs take longer.
    """

    def __init__(self, model: str, version: int, path: Path, config: ExecutionConfig) -> None:
        self.model = model
        self.version = version
        self.version_text = str(version)
        self.statistics = Statistics()
        self._config = config
        try:
            self.size_bytes = path.stat().st_size
            options = _options(config)
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            raise LoadFailed(_reason(error, path)) from None
        self.inputs = _specs(self._session.get_inputs(), "input")
        self._shared = _shared_dimensions(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs(), "output")
        self.properties = {key: str(value) for key, value in self._session.get_modelmeta().custom_metadata_map.items()}
        self._by_name = {spec.name: spec for spec in self.inputs}
        self._fixed = {s.name: tuple((axis, d) for axis, d in enumerate(s.shape) if d >= 0) for s in self.inputs}
        self._output_names = [spec.name for spec in self.outputs]
        self._output_by_name = {spec.name: spec for spec in self.outputs}
        _check_together(self.inputs, self.outputs)
        self._needs_ort_value = any(spec.datatype in NEEDS_ORT_VALUE for spec in (*self.inputs, *self.outputs))
        self._strings = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]
        self._threads = Threads(f"model {quoted(model)} version {version}", config.instances, config.max_queue)
        self._slow = 0
        self._inline_below_s = config.inline_below
        self._inline_sizes = self._warm_up(path)

    @property
    def instances(self) -> int:
        """Runs at a time."""
        return self._config.instances

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._threads.waiting

    @property
    def runs_inline(self) -> bool:
        """Whether small requests run on the event loop."""
        return self._inline_sizes is not None

    def check(self, arrays: dict[str, Array]) -> None:
        """Raise InvalidRequest unless the arrays are exactly the model's inputs, in datatype, rank and fixed dimensions.

        Datatypes are compared by their numpy form, so BF16 and UINT16 are told apart by the caller (see `check_datatypes`).
        """
        specs = self._by_name
        if arrays.keys() != specs.keys():
            self._refuse_names(arrays)
        for name, array in arrays.items():
            shape = array.shape
            if len(shape) != len(specs[name].shape):
                self._refuse_shape(name, shape)
            for axis, size in self._fixed[name]:
                if shape[axis] != size:
                    self._refuse_shape(name, shape)
        for dimension, (first, axis), others in self._shared:
            size = arrays[first].shape[axis]
            for name, other_axis in others:
                if arrays[name].shape[other_axis] != size:
                    raise InvalidRequest(
                        f"{self._where(name)}: expected {size} in dimension {other_axis} ({dimension}), as input "
                        f"{quoted(first)} has, got shape {list(arrays[name].shape)[:16]}",
                        reason="INPUT_SHAPE",
                    )

    def check_datatypes(self, inputs: Sequence[Any]) -> None:
        """Raise InvalidRequest for a tensor of a request whose datatype is not the model's."""
        for tensor in inputs:
            spec = self._by_name.get(tensor.name)
            if spec is not None and spec.datatype != tensor.datatype and tensor.datatype in DATATYPES:
                raise InvalidRequest(
                    f"{self._where(tensor.name)}: expected {spec.datatype} {list(spec.shape)}, got {tensor.datatype} "
                    f"{list(tensor.shape)[:16]}",
                    reason="INPUT_DATATYPE",
                )

    def requested(self, names: Sequence[str]) -> list[str]:
        """The outputs that are asked for, in that order, each once; all when none is named."""
        if not names:
            return self._output_names
        asked = list(dict.fromkeys(names))
        for name in asked:
            if name not in self._output_by_name:
                raise InvalidRequest(
                    f"model {quoted(self.model)}: output {quoted(name)}: expected one of {', '.join(self._output_names)[:256]}",
                    reason="OUTPUT_UNKNOWN",
                )
        return asked

    def to_strings(self, arrays: dict[str, Array]) -> None:
        """Put the strings that ONNX Runtime takes in the place of BYTES arrays, before `run`; raises InvalidRequest."""
        for name in self._strings:
            arrays[name] = strings_from_bytes(arrays[name], self._where(name))

    async def run(self, arrays: dict[str, Array], outputs: list[str], call: Call) -> list[tuple[str, str, Array]]:
        """The outputs as (name, datatype, array). Cancelling drops the run, or ends it if it has begun in a thread."""
        if self._inline_sizes is not None and self._fits_inline(arrays, self._inline_sizes):
            suspected = self._slow > 0
            cpu = time.thread_time() if suspected else 0.0
            started = time.perf_counter()
            values = self._compute(arrays, outputs)
            waited, took = 0.0, time.perf_counter() - started
            if suspected or took > self._inline_below_s:
                self._account(time.thread_time() - cpu if suspected else took)
        else:
            values, waited, took = await self._threads.run(
                lambda options: self._compute(arrays, outputs, options), call
            )
        self.statistics.queue.add(waited)
        self.statistics.compute.add(took)
        specs = self._output_by_name
        return [(name, specs[name].datatype, value) for name, value in zip(outputs, values, strict=True)]

    def close(self, *, end_runs: bool = False) -> None:
        """Take no more runs; the session goes when the last one is done, or has been told to end."""
        self._threads.close(end_runs=end_runs)

    def _account(self, took: float) -> None:
        if took <= self._inline_below_s:
            self._slow -= 1
            return
        self._slow += SLOW_RUN
        if self._slow > SLOW_ACCOUNT:
            self._inline_sizes = None  # what the warm-up said is not true for these inputs: leave the loop

    def _fits_inline(self, arrays: dict[str, Array], sizes: dict[str, int]) -> bool:
        for name, array in arrays.items():
            if array.size > sizes[name]:
                return False
        characters = sum(len(text) for name in self._strings for text in arrays[name].ravel().tolist())
        return characters <= MAX_INLINE_CHARACTERS

    def _compute(
        self, arrays: dict[str, Array], outputs: list[str], options: ort.RunOptions | None = None
    ) -> list[Array]:
        try:
            if not self._needs_ort_value:
                results: list[Array] = self._session.run(outputs, arrays, options)
                return results
            feed = {name: to_ort_value(array, self._by_name[name].datatype) for name, array in arrays.items()}
            if self._strings:  # `run` takes them beside OrtValues, and then no output is BF16 (`_check_together`)
                mixed: list[Array] = self._session.run(outputs, feed, options)
                return mixed
            values = self._session.run_with_ort_values(outputs, feed, options)
            return [from_ort_value(v, self._output_by_name[n].datatype) for n, v in zip(outputs, values, strict=True)]
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            if options is not None and options.terminate:
                raise Unavailable(f"model {quoted(self.model)}: its run was ended, the predictor stops") from None
            raise self._run_failed(error, arrays) from None

    def _run_failed(self, error: Exception, arrays: dict[str, Array]) -> InvalidRequest | Internal:
        text = " ".join(str(error).split())
        where = f"model {quoted(self.model)} version {self.version}"
        refused = isinstance(error, _REFUSED) or (isinstance(error, _FAILED) and self._has_new_shape(arrays))
        if refused:
            return InvalidRequest(f"{where}: the model refused its input: {quoted(text, 300)}", reason="MODEL_REFUSED")
        return Internal(f"{where}: the model failed on this input: {text}", reason="MODEL_FAILED")

    def _has_new_shape(self, arrays: dict[str, Array]) -> bool:
        """Whether a free dimension past the first, which is the number of rows, is not what it was in the warm-up: the signature
        allows any size there, and the graph may not."""
        return any(
            spec.shape[axis] < 0 and arrays[spec.name].shape[axis] != 1
            for spec in self.inputs
            for axis in range(1, len(spec.shape))
        )

    def _refuse_shape(self, name: str, shape: tuple[int, ...]) -> NoReturn:
        spec = self._by_name[name]
        raise InvalidRequest(
            f"{self._where(name)}: expected {spec.datatype} {list(spec.shape)}, got shape {list(shape)[:16]}",
            reason="INPUT_SHAPE",
        )

    def _refuse_names(self, arrays: dict[str, Array]) -> None:
        expected = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in self.inputs)[:400]
        for name in arrays:
            if name not in self._by_name:
                raise InvalidRequest(
                    f"{self._where(name)}: no such input; expected {expected}", reason="INPUT_UNEXPECTED"
                )
        missing = next(name for name in self._by_name if name not in arrays)
        raise InvalidRequest(f"{self._where(missing)}: missing; expected {expected}", reason="INPUT_MISSING")

    def _where(self, name: str) -> str:
        return f"model {quoted(self.model)}: input {quoted(name)}"

    def _warm_up(self, path: Path) -> dict[str, int] | None:
        """Run on ones, in the smallest shapes; returns how many elements each input may have to run inline, None: never.

        A model that fails on made-up input is loaded all the same: only its own callers know what is valid.
        """
        arrays = {s.name: _ones(s) for s in self.inputs}
        if sum(a.size for a in arrays.values()) > MAX_WARM_UP_ELEMENTS:
            return None
        times: list[float] = []
        end = time.perf_counter() + WARM_UP_SECONDS
        try:
            while len(times) < WARM_UP_RUNS and (not times or time.perf_counter() < end):
                started = time.perf_counter()
                self._compute(arrays, self._output_names)
                times.append(time.perf_counter() - started)
        except (InvalidRequest, Internal):
            return None
        if len(times) < WARM_UP_RUNS or _BY_VALUE.search(path.read_bytes()):
            return None
        tail = sorted(times)[-2]  # the first, cold run is the slowest of fifty, and not what p99 is about
        return {name: a.size for name, a in arrays.items()} if tail < self._config.inline_below else None


def cpu_quota() -> int:
    """CPUs that this container may use, from the cgroup's quota rather than the node's cores; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, round(int(quota) / int(period))))


def _options(config: ExecutionConfig) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads or cpu_quota()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[config.graph_optimization]
    options.log_severity_level = 4  # errors come as exceptions, with the same words
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes the CPU from other models
    return options


def _specs(nodes: Sequence[Any], kind: str) -> tuple[TensorSpec, ...]:
    specs = []
    for node in nodes:
        if node.type not in DATATYPE_OF:
            raise LoadFailed(f"{kind} {node.name}: {node.type} has no datatype in the Open Inference Protocol")
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in node.shape)
        specs.append(TensorSpec(node.name, DATATYPE_OF[node.type], shape))
    return tuple(specs)


def _check_together(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise LoadFailed for a signature that would fail on every call: ONNX Runtime's `run` has no array for a BF16 output, and
    `run_with_ort_values`, which has, can't be given strings (an OrtValue of strings can't be made in Python, 1.32)."""
    string = next((spec.name for spec in inputs if spec.datatype == "BYTES"), None)
    bf16 = next((spec.name for spec in outputs if spec.datatype == "BF16"), None)
    if string is not None and bf16 is not None:
        raise LoadFailed(
            f"input {string} is a string and output {bf16} is bfloat16: the Python interface of ONNX Runtime can't do both "
            "in one run"
        )


def _shared_dimensions(nodes: Sequence[Any]) -> list[tuple[str, tuple[str, int], list[tuple[str, int]]]]:
    """Named dimensions that stand in several inputs, such as `rows`: name, where it is first, where else.

    In ONNX equal names mean equal sizes, but ONNX Runtime does not compare them: it fails somewhere inside the graph.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    for node in nodes:
        for axis, dimension in enumerate(node.shape):
            if isinstance(dimension, str):
                places.setdefault(dimension, []).append((node.name, axis))
    return [(name, first, others) for name, (first, *others) in places.items() if others]


def _ones(spec: TensorSpec) -> Array:
    shape = tuple(1 if d < 0 else d for d in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "", np.object_)
    return np.ones(shape, DATATYPES[spec.datatype].dtype)


def _reason(error: Exception, path: Path) -> str:
    text = " ".join(str(error).replace(str(path), path.name).split())
    return f"{type(error).__name__}: {text}"[:500]
