"""CPU per call of the predictor beside a bare grpc.aio server with ONNX Runtime inline: iris version 2, raw 1×4.

python -m benchmarks.predictor_cost [--pairs 7] [--seconds 5] [--in-flight 64]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pairs import Contender, compare, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import add_inputs

BOUND = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    request = ModelInferRequest(model_name="iris", model_version="2", id="1")
    add_inputs(request, {"features": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)})
    ours, bare = free_port(), free_port()
    environment = {
        "INFERMESH_PREDICTOR__SERVER__HOST": "127.0.0.1",
        "INFERMESH_PREDICTOR__SERVER__GRPC_PORT": str(ours),
        "INFERMESH_PREDICTOR__SERVER__HTTP_PORT": "0",
        "INFERMESH_PREDICTOR__SERVER__DRAIN": "0s",
        "INFERMESH_PREDICTOR__REPOSITORY__ROOT": "samples/models",
        "INFERMESH_PREDICTOR__REPOSITORY__MODELS": '["iris"]',
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        process(["-m", "services.predictor"], ours, environment) as our_pid,
        process(["-m", "benchmarks.bare_predictor", "samples/models/iris/2/model.onnx", str(bare)], bare) as bare_pid,
    ):
        file = Path(folder) / "request.bin"
        file.write_bytes(request.SerializeToString())
        ratio = compare(
            Contender("infermesh predictor", (our_pid,), f"127.0.0.1:{ours}"),
            Contender("bare grpc.aio + ONNX Runtime", (bare_pid,), f"127.0.0.1:{bare}"),
            file,
            pairs=options.pairs,
            seconds=options.seconds,
            in_flight=options.in_flight,
        )
    print(f"bound {BOUND}: {'met' if ratio <= BOUND else 'NOT met'}")


if __name__ == "__main__":
    main()
