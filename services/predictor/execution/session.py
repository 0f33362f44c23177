"""ONNX Runtime's session of one model file: making it, and one run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime as ort

from infermesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidRequest,
    MeshError,
    ResourceExhausted,
    Unavailable,
    quoted,
)
from infermesh.tensors import Array
from services.predictor.config import ExecutionConfig
from services.predictor.execution.arena import out_of_memory, shrink
from services.predictor.execution.load_reason import load_reason
from services.predictor.execution.made_up import made_up
from services.predictor.execution.onnx_types import NEEDS_ORT_VALUE, from_ort_value, to_ort_value
from services.predictor.execution.open_sessions import OpenSessions
from services.predictor.execution.profiling import PROFILE_SECONDS, Profile, profile_path
from services.predictor.execution.signature import Signature
from services.predictor.load_failed import LoadFailed

__all__ = ["Session"]

_REFUSED = (ort.capi.onnxruntime_pybind11_state.InvalidArgument,)
_FAILED = (ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.RuntimeException)

_log = logging.getLogger(__name__)


class Session:
    """One model file on its devices. Runs may happen in several threads at a time, also on one device.

    Made in a thread: it blocks. Raises LoadFailed with the reason for the index. `providers_in_use` are our names of the
    execution providers, the preferred one first, the CPU always among them; `devices` the numbers of the first one's devices,
    each with weights of its own, (0,) for the CPU. `available` stands for ONNX Runtime's list of providers.
    """

    def __init__(
        self, model: str, version: int, path: Path, config: ExecutionConfig, available: Sequence[str] | None = None
    ) -> None:
        self._model = model
        self._version = version
        self._path = path
        self._where = f"model {quoted(model)} version {version}"
        self._config = config
        try:
            self.size_bytes = path.stat().st_size
            self._open = OpenSessions(path, config, available)
            self._sessions = self._open.sessions
        except LoadFailed:
            raise
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            raise LoadFailed(load_reason(error, path, config.memory_limit)) from None
        self.providers_in_use = self._open.providers
        self.devices = self._open.devices
        _log.info(
            "execution provider of model version",
            extra={
                "model": model,
                "version": str(version),
                "providers": list(self.providers_in_use),
                "missing": list(self._open.missing),
                "devices": list(self.devices),
            },
        )
        first = self._sessions[0]
        self.signature = Signature(model, first.get_inputs(), first.get_outputs(), first.get_overridable_initializers())
        self.properties = {key: str(value) for key, value in first.get_modelmeta().custom_metadata_map.items()}
        specs = (*self.signature.inputs, *self.signature.outputs)
        self._needs_ort_value = any(spec.datatype in NEEDS_ORT_VALUE for spec in specs)
        self._nulls: dict[str, Any] = dict.fromkeys(self.signature.nullable)
        self._is_special = self._needs_ort_value or bool(self._nulls)
        self._profile: Profile | None = None
        self._profiling = threading.Lock()

    def run(
        self,
        arrays: dict[str, Array],
        outputs: list[str],
        options: ort.RunOptions | None = None,
        device: int = 0,
        requests: int = 1,
    ) -> list[Array]:
        """One run on one device (its position in `devices`), of so many requests. Optional inputs may be left out.

        Raises InvalidRequest for inputs that the graph refuses, ResourceExhausted for a run that needs more memory than there is,
        Internal for one that failed, Unavailable when it was told to end by `options.terminate`.
        """
        profile = self._profile  # once: its end, in another thread, may be between two readings
        if profile is not None and not device:
            return self._run_recorded(profile, arrays, outputs, options, requests)
        return self._run_on(self._sessions[device], arrays, outputs, options)

    def profile(self, requests: int, seconds: float = PROFILE_SECONDS) -> Path:
        """Record the runs of the next requests on the first device, this many or those of the next `seconds`; where the profile
        will be, in the Chrome trace form, when they have ended. A batch is one run, and counts as its requests.

        Blocks while a second session, with weights of its own, is made and run once on made-up data: call it in a thread. Raises
        FailedPrecondition while another profile of this version is open, InvalidRequest for a number that is not possible.
        """
        path = profile_path(self._config.profile_folder, self._model, self._version, requests)
        if not self._profiling.acquire(blocking=False):
            raise FailedPrecondition(
                f"{self._where}: a profile is being recorded, one at a time is possible", reason="PROFILE_OPEN"
            )
        try:
            recording = self._open.recording(path.with_suffix(""))
            # The first run plans memory, and would look like nothing that comes later.
            with suppress(MeshError):
                self._run_on(recording, made_up(self.signature, 1), self.signature.output_names, None)
        except Exception as error:
            self._profiling.release()
            reason = load_reason(error, self._path, self._config.memory_limit)
            raise FailedPrecondition(f"{self._where}: no session to record with: {reason}", reason="PROFILE") from None
        self._profile = profile = Profile(recording, requests, path, seconds, self._profiled)
        profile.start()
        return path

    def end_profile(self) -> None:
        """End the profile that is being recorded, if one is, with the runs that it has."""
        if (profile := self._profile) is not None:
            profile.end()

    def _profiled(self) -> None:
        self._profile = None
        self._profiling.release()

    def _run_recorded(
        self,
        profile: Profile,
        arrays: dict[str, Array],
        outputs: list[str],
        options: ort.RunOptions | None,
        requests: int,
    ) -> list[Array]:
        session = profile.take(requests)
        if session is None:
            return self._run_on(self._sessions[0], arrays, outputs, options)
        try:
            return self._run_on(session, arrays, outputs, options)
        finally:
            profile.give_back()

    def _run_on(
        self, session: Any, arrays: dict[str, Array], outputs: list[str], options: ort.RunOptions | None
    ) -> list[Array]:
        try:
            if not self._is_special:
                results: list[Array] = session.run(outputs, arrays, options)
                return results
            return self._run_special(session, arrays, outputs, options)
        except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
            failed = self._failure(error, arrays, options)
        if isinstance(failed, ResourceExhausted) and self._config.memory_limit:
            # The memory may be there, in pieces that earlier runs left. Once: what then is not there is in use, or not allowed.
            shrink(session, self._nulls | arrays)
            try:
                return self._run_special(session, arrays, outputs, options)
            except Exception as error:
                failed = self._failure(error, arrays, options)
        raise failed

    def _run_special(
        self, session: Any, arrays: dict[str, Array], outputs: list[str], options: ort.RunOptions | None
    ) -> list[Array]:
        """A run with what only some models have: optional inputs that are absent, datatypes that numpy has not."""
        inputs, by_name = self.signature.input_by_name, self.signature.output_by_name
        if not self._needs_ort_value:
            results: list[Array] = session.run(outputs, self._nulls | arrays, options)
            return results
        feed = self._nulls | {name: to_ort_value(array, inputs[name].datatype) for name, array in arrays.items()}
        if (
            self.signature.strings or self._nulls
        ):  # `run` takes them beside OrtValues; no output is BF16 (see Signature)
            mixed: list[Array] = session.run(outputs, feed, options)
            return mixed
        values = session.run_with_ort_values(outputs, feed, options)
        return [from_ort_value(v, by_name[n].datatype) for n, v in zip(outputs, values, strict=True)]

    def _failure(self, error: Exception, arrays: dict[str, Array], options: ort.RunOptions | None) -> MeshError:
        if options is not None and options.terminate:
            return Unavailable(f"model {quoted(self._model)}: its run was ended, the predictor stops")
        text = " ".join(str(error).split())
        memory = (
            "this machine did not give the memory"
            if isinstance(error, MemoryError)
            else out_of_memory(text, self._config.memory_limit)
        )
        if memory:
            return ResourceExhausted(
                f"{self._where}: this request takes more memory than there is: {memory}", reason="MODEL_MEMORY"
            )
        refused = isinstance(error, _REFUSED) or (isinstance(error, _FAILED) and self.signature.has_new_shape(arrays))
        if refused:
            return InvalidRequest(
                f"{self._where}: the model refused its input: {quoted(text, 300)}", reason="MODEL_REFUSED"
            )
        return Internal(f"{self._where}: the model failed on this input: {text}", reason="MODEL_FAILED")
