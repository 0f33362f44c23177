"""ONNX Runtime's session of one model file: making it, and one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

from infermesh.errors import Internal, InvalidRequest, Unavailable, quoted
from infermesh.tensors import Array
from services.predictor.config import ExecutionConfig
from services.predictor.cpu import cpu_quota
from services.predictor.load_failed import LoadFailed
from services.predictor.onnx_types import NEEDS_ORT_VALUE, from_ort_value, to_ort_value
from services.predictor.signature import Signature

__all__ = ["Session"]

_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_REFUSED = (ort.capi.onnxruntime_pybind11_state.InvalidArgument,)
_FAILED = (ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.RuntimeException)


class Session:
    """One model file on its devices. Runs may happen in several threads at a time, also on one device.

    Made in a thread: it blocks. Raises LoadFailed with the reason for the index.
    """

    def __init__(self, model: str, version: int, path: Path, config: ExecutionConfig) -> None:
        self._model = model
        self._where = f"model {quoted(model)} version {version}"
        try:
            self.size_bytes = path.stat().st_size
            self._session = ort.InferenceSession(str(path), _options(config), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            raise LoadFailed(_reason(error, path)) from None
        self.signature = Signature(model, self._session.get_inputs(), self._session.get_outputs())
        self.properties = {key: str(value) for key, value in self._session.get_modelmeta().custom_metadata_map.items()}
        specs = (*self.signature.inputs, *self.signature.outputs)
        self._needs_ort_value = any(spec.datatype in NEEDS_ORT_VALUE for spec in specs)

    def run(
        self, arrays: dict[str, Array], outputs: list[str], options: ort.RunOptions | None = None, device: int = 0
    ) -> list[Array]:
        """One run on one device (its position in `devices`). Raises InvalidRequest for inputs that the graph refuses, Internal
        for a run that failed, Unavailable when it was told to end by `options.terminate`."""
        try:
            if not self._needs_ort_value:
                results: list[Array] = self._session.run(outputs, arrays, options)
                return results
            inputs, by_name = self.signature.input_by_name, self.signature.output_by_name
            feed = {name: to_ort_value(array, inputs[name].datatype) for name, array in arrays.items()}
            if self.signature.strings:  # `run` takes them beside OrtValues, and then no output is BF16 (see Signature)
                mixed: list[Array] = self._session.run(outputs, feed, options)
                return mixed
            values = self._session.run_with_ort_values(outputs, feed, options)
            return [from_ort_value(v, by_name[n].datatype) for n, v in zip(outputs, values, strict=True)]
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            if options is not None and options.terminate:
                raise Unavailable(f"model {quoted(self._model)}: its run was ended, the predictor stops") from None
            raise self._run_failed(error, arrays) from None

    def _run_failed(self, error: Exception, arrays: dict[str, Array]) -> InvalidRequest | Internal:
        text = " ".join(str(error).split())
        refused = isinstance(error, _REFUSED) or (isinstance(error, _FAILED) and self.signature.has_new_shape(arrays))
        if refused:
            return InvalidRequest(
                f"{self._where}: the model refused its input: {quoted(text, 300)}", reason="MODEL_REFUSED"
            )
        return Internal(f"{self._where}: the model failed on this input: {text}", reason="MODEL_FAILED")


def _options(config: ExecutionConfig) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads or cpu_quota()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[config.graph_optimization]
    options.log_severity_level = 4  # errors come as exceptions, with the same words
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes the CPU from other models
    return options


def _reason(error: Exception, path: Path) -> str:
    text = " ".join(str(error).replace(str(path), path.name).split())
    return f"{type(error).__name__}: {text}"[:500]
