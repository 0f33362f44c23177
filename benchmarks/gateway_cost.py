"""CPU per call of the gateway (key check, rate limit, split; mirroring off) beside a bare grpc.aio proxy that passes bytes.

Both stand before the same backend, which answers iris' raw 1×4 with bytes that were made once; what it costs is not counted.

    python -m benchmarks.gateway_cost [--pairs 7] [--seconds 5] [--in-flight 64]
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.pairs import LOAD_CORE, Contender, compare, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_inputs, add_outputs

BOUND = 1.5
KEY = "a-key-for-measuring"
ROUTES = """
routes:
  - model: iris
    backend: predictor
    sticky: {metadata: x-user-id}
    variants:
      - {name: stable, version: "2", weight: 90}
      - {name: canary, version: "2", weight: 10}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    request = ModelInferRequest(model_name="iris", id="1")
    add_inputs(request, {"features": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)})
    ours, bare, backend = free_port(), free_port(), free_port()
    with (
        tempfile.TemporaryDirectory() as name,
        # The backend shares the load's core, so that both contenders have core 0 to themselves.
        process(["-m", "benchmarks.canned_backend", _response(Path(name)), str(backend)], backend, core=LOAD_CORE),
        process(["-m", "services.gateway"], ours, _gateway(Path(name), ours, backend)) as our_pid,
        process(["-m", "benchmarks.bare_proxy", f"127.0.0.1:{backend}", str(bare)], bare) as bare_pid,
    ):
        file = Path(name) / "request.bin"
        file.write_bytes(request.SerializeToString())
        ratio = compare(
            Contender("infermesh gateway", (our_pid,), f"127.0.0.1:{ours}", KEY),
            Contender("bare grpc.aio proxy", (bare_pid,), f"127.0.0.1:{bare}"),
            file,
            pairs=options.pairs,
            seconds=options.seconds,
            in_flight=options.in_flight,
        )
    print(f"bound {BOUND}: {'met' if ratio <= BOUND else 'NOT met'}")


def _response(folder: Path) -> str:
    """The file with what the backend answers."""
    response = ModelInferResponse(model_name="iris", model_version="2", id="1")
    label, probabilities = np.array([0]), np.array([[0.9, 0.1, 0.0]], np.float32)
    add_outputs(response, [("label", "INT64", label), ("probabilities", "FP32", probabilities)], raw=True)
    file = folder / "response.bin"
    file.write_bytes(response.SerializeToString())
    return str(file)


def _gateway(folder: Path, port: int, backend: int) -> dict[str, str]:
    """Write routes and keys; returns the gateway's environment."""
    (folder / "routes.yaml").write_text(ROUTES)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "keys.yaml").write_text(f"keys: [{{sha256: {digest}, caller: load, scopes: [infer]}}]\n")
    settings = {
        "SERVER__HOST": "127.0.0.1",
        "SERVER__GRPC_PORT": str(port),
        "SERVER__HTTP_PORT": "0",
        "SERVER__DRAIN": "0s",
        "ROUTES": str(folder / "routes.yaml"),
        "AUTH__KEYS": str(folder / "keys.yaml"),
        "RATE_LIMIT__RATE": "1000000",
        "RATE_LIMIT__BURST": "1000000",
        "BACKENDS__PREDICTOR__TARGET": f"127.0.0.1:{backend}",
    }
    return {f"INFERMESH_GATEWAY__{name}": value for name, value in settings.items()}


if __name__ == "__main__":
    main()
