"""The floor for a predictor: grpc.aio on uvloop, ONNX Runtime inline, no checks, no metrics, nothing else.

python -m benchmarks.bare_predictor MODEL_FILE PORT
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


class BarePredictor(pb_grpc.GRPCInferenceServiceServicer):
    """Takes one raw FP32 tensor and answers the model's INT64 and FP32 outputs raw."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [o.name for o in self._session.get_outputs()]

    async def ModelInfer(self, request, context):
        tensor = request.inputs[0]
        array = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(tensor.shape))
        values = self._session.run(self._outputs, {self._input: array})
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="2", id=request.id)
        for name, value in zip(self._outputs, values, strict=True):
            response.outputs.add(name=name, datatype="INT64" if value.dtype == np.int64 else "FP32", shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        return response


async def main(file: str, port: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(BarePredictor(file), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))
