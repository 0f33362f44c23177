"""A peer: MLServer serving an ONNX file. Runs in an environment of its own, `.venv-mlserver`.

    python -m benchmarks.mlserver_server MODEL_FILE NAME PORT [--default]

As MLServer's guide "Custom inference runtimes" has it: an `MLModel` that decodes and encodes with the numpy codec, beside
`settings.json` and `model-settings.json`, under `mlserver start`. It runs on uvloop by itself. Settings for the least CPU:
`parallel_workers` 0 (with workers each tensor is pickled to another process and back), `debug` false (no access log), no
metrics endpoint. `--default` leaves those three as they are by default: one worker, debug, metrics.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
import uvloop
from mlserver import MLModel
from mlserver.cli import main as command_line
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.processes import free_port

if __name__ == "__mp_main__":
    # A worker, which imports this file before it starts. MLServer 1.7.1 asks for its current loop, and uvloop makes none unasked
    # since 0.22: without one every worker ends at once. The policy is the one that it would set, dropping a loop of another.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())

LEAST = {"parallel_workers": 0, "debug": False, "metrics_endpoint": None}


class OnnxModel(MLModel):
    """The file that `parameters.uri` names."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """All outputs of one run."""
        values = self._session.run(self._outputs, {i.name: NumpyCodec.decode_input(i) for i in payload.inputs})
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[_encoded(name, value) for name, value in zip(self._outputs, values, strict=True)],
        )


def _encoded(name, value) -> ResponseOutput:
    output = NumpyCodec.encode_output(name, value)
    output.shape = list(value.shape)  # the codec says [n, 1] of a vector, which is not what the model gave
    return output


def write_settings(folder: Path, file: str, name: str, port: int, *, default: bool) -> None:
    """Write the two files that `mlserver start` reads."""
    ports = {"http_port": free_port(), "grpc_port": port, "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "metrics_dir": str(folder / "metrics"), **({} if default else LEAST)}
    model = {
        "name": name,
        "implementation": "benchmarks.mlserver_server.OnnxModel",
        "parameters": {"uri": file, "version": "1"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))


def main(file: str, name: str, port: str, *options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_settings(Path(folder), file, name, int(port), default="--default" in options)
        sys.argv[1:] = ["start", folder]
        command_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
