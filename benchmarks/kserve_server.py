"""A peer: KServe's SDK serving an ONNX file. Runs in an environment of its own, `.venv-kserve`.

    python -m benchmarks.kserve_server MODEL_FILE NAME PORT [--tuned]

As KServe's guide "Custom predictor" has it: a `kserve.Model` whose `predict` takes `InferRequest` and gives `InferResponse`,
under `kserve.ModelServer`, one worker. Raw tensors come in and go out raw: `as_numpy` views the bytes, and an output that is set
from numpy travels raw. `--tuned` is what an operator who knows the SDK would change: no log lines per call, and its gRPC server
on uvloop (the SDK's `--event-loop` is for REST alone). Its REST server can't be turned off; nobody calls it.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import onnxruntime as ort
import uvloop
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.numpy_codec import from_np_dtype


class OnnxModel(Model):
    """One ONNX file, run inline: with one core to serve from, a thread would only add its hops."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """All outputs of one run."""
        values = self._session.run(self._outputs, {i.name: i.as_numpy() for i in payload.inputs})
        outputs = []
        for name, value in zip(self._outputs, values, strict=True):
            output = InferOutput(name=name, shape=list(value.shape), datatype=from_np_dtype(value.dtype))
            output.set_data_from_numpy(value, binary_data=True)
            outputs.append(output)
        return InferResponse(
            response_id=payload.id, model_name=self.name, model_version=payload.model_version, infer_outputs=outputs
        )


def main(file: str, name: str, port: str, *options: str) -> None:
    tuned = "--tuned" in options
    if tuned:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(uvloop.new_event_loop())  # the SDK asks for a current loop before it runs its own
    server = ModelServer(http_port=0, grpc_port=int(port), workers=1, enable_latency_logging=not tuned)
    if tuned:  # after the server, which sets the levels
        logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([OnnxModel(name, file)])


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv[1:] = []  # the SDK reads the command line too
    main(*arguments)
