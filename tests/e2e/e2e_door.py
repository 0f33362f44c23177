"""A caller at the gateway's public door, and the golden values that its answers are checked against."""

from __future__ import annotations

import json
from typing import Any

import grpc
import numpy as np

from infermesh.cli.processes import SERVICES, samples_folder
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.tensors import add_inputs, read_outputs

__all__ = ["CALLER", "DRAINED", "KEY", "NO_LIMIT", "SAMPLES", "VARIANT", "Door", "check_golden", "golden", "request_of"]

SAMPLES = samples_folder()
KEY = "infermesh-demo-key"
CALLER = (("x-api-key", KEY),)
VARIANT = "infermesh_variant"  # written out: it is what clients look for
NO_LIMIT = {"gateway": {"INFERMESH_GATEWAY__RATE_LIMIT__MODE": "off"}}  # the samples' is 500 calls a second
# The same, with time for callers to see that a replica goes: a call that arrives while a server stops is CANCELLED by grpc core
# (github.com/grpc/grpc/issues/41785).
DRAINED = {
    service: {f"INFERMESH_{service.upper()}__SERVER__DRAIN": "300ms", **NO_LIMIT.get(service, {})}
    for service in SERVICES
}
TIMEOUT_S = 20.0
DTYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}


class Door:
    """Calls as a client makes them: a plain channel, messages, a key in the metadata. Every answer has to name its variant."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: pb.ModelInferRequest, *metadata: tuple[str, str]) -> pb.ModelInferResponse:
        response: pb.ModelInferResponse = self.stub.ModelInfer(
            request, timeout=TIMEOUT_S, metadata=(*CALLER, *metadata)
        )
        assert response.parameters[VARIANT].string_param, f"{request.model_name}: no variant in {response.parameters}"
        return response

    def close(self) -> None:
        self._channel.close()


def golden(model: str) -> list[dict[str, Any]]:
    """The cases that scikit-learn answered when the samples were made."""
    cases: list[dict[str, Any]] = json.loads((SAMPLES / "golden" / f"{model}.json").read_text())["cases"]
    return cases


def request_of(
    model: str, tensors: list[dict[str, Any]], version: str = "", *, raw: bool = True
) -> pb.ModelInferRequest:
    """A request of tensors as the samples' JSON files write them."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    add_inputs(request, {tensor["name"]: _array(tensor) for tensor in tensors}, raw=raw)
    return request


def check_golden(response: pb.ModelInferResponse, case: dict[str, Any]) -> None:
    """Fail unless the outputs are scikit-learn's, to the accuracy of FP32."""
    outputs = read_outputs(response)
    assert set(outputs) == set(case["outputs"])
    for name, expected in case["outputs"].items():
        np.testing.assert_allclose(outputs[name], _array(expected), atol=1e-5, err_msg=name)


def _array(tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
