"""The floor for a predictor: grpc.aio on uvloop, ONNX Runtime inline, no checks, no metrics, nothing else.

    python -m benchmarks.bare_predictor MODEL_FILE PORT [asyncio]

`asyncio`: on asyncio's own loop instead of uvloop's, as a user's first server is.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import numpy as np
import onnxruntime as ort
import uvloop

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}


class BarePredictor(pb_grpc.GRPCInferenceServiceServicer):
    """Takes raw FP32 tensors in the model's order and answers all outputs raw."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        if any(i.type != "tensor(float)" for i in self._session.get_inputs()):
            sys.exit("the bare predictor takes FP32 inputs only")
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._datatypes = [DATATYPES[o.type] for o in self._session.get_outputs()]

    async def ModelInfer(self, request, context):
        feed = {
            name: np.frombuffer(raw, np.float32).reshape(tuple(tensor.shape))
            for name, tensor, raw in zip(self._inputs, request.inputs, request.raw_input_contents, strict=True)
        }
        values = self._session.run(self._outputs, feed)
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        for name, datatype, value in zip(self._outputs, self._datatypes, values, strict=True):
            response.outputs.add(name=name, datatype=datatype, shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        return response


async def main(file: str, port: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(BarePredictor(file), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    loop = asyncio.new_event_loop if "asyncio" in sys.argv[3:] else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main(*sys.argv[1:3]))
