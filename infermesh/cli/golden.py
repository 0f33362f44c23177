"""What the sample models answer according to scikit-learn, which trained them: what an answer of the mesh is held to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.processes import samples_folder
from infermesh.cli.request import from_json
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import Array, read_outputs

__all__ = ["PROBABILITIES", "Golden", "read_request"]

PROBABILITIES = "probabilities"
ACCURACY = 1e-5  # of FP32 in ONNX Runtime, as the scripts that made the samples promise it


@dataclass(frozen=True)
class Golden:
    """One row for a model as a client sends it, and the right probabilities by the version that answers."""

    model: str
    tensors: list[dict[str, Any]]
    right: Mapping[str, Array]

    @classmethod
    @cache
    def of(cls, model: str) -> Golden:
        """The first case of one row in `samples/golden/<model>.json`."""
        cases = json.loads((samples_folder() / "golden" / f"{model}.json").read_text(encoding="utf-8"))["cases"]
        single = [case for case in cases if _sent(case)[0]["shape"][0] == 1]
        tensors = _sent(single[0])
        right = {case["version"]: _array(case["outputs"][PROBABILITIES]) for case in single if _sent(case) == tensors}
        return cls(model, tensors, right)

    def request(self, **inputs: str) -> ModelInferRequest:
        """The row as a request, with other values for some of its inputs; golden it is without them."""
        tensors = [
            {**each, "data": [inputs[each["name"]]]} if each["name"] in inputs else each for each in self.tensors
        ]
        return from_json(self.model, {"inputs": tensors}, {})

    @property
    def values(self) -> dict[str, Any]:
        """The first value of each input."""
        return {each["name"]: each["data"][0] for each in self.tensors}

    def check(self, response: ModelInferResponse) -> Array:
        """The probabilities of an answer, one row. Raises Failure when they are not the right ones."""
        outputs = read_outputs(response)
        if PROBABILITIES not in outputs:
            raise Failure(f"{self.model}: its answer has no {PROBABILITIES}; it has {', '.join(outputs) or 'nothing'}")
        return self.check_values(response.model_version, np.asarray(outputs[PROBABILITIES], np.float64))

    def check_values(self, version: str, got: Array) -> Array:
        """The one row of an array [1, classes] that a version answered. Raises Failure when it is not the right one."""
        if version not in self.right:
            known = ", ".join(self.right)
            raise Failure(
                f"{self.model}: version {version or '(none)'} answered; the samples have golden values of {known}"
            )
        right = self.right[version]
        if got.shape != right.shape or not np.allclose(got, right, rtol=0.0, atol=ACCURACY):
            raise Failure(
                f"{self.model} version {version} answered {PROBABILITIES} {_listed(got)}; "
                f"the samples promise {_listed(right)}"
            )
        row: Array = got[0]
        return row


def read_request(model: str) -> ModelInferRequest:
    """The sample's own request, `samples/requests/<model>.json`: a client's, who sends ids."""
    text = (samples_folder() / "requests" / f"{model}.json").read_text(encoding="utf-8")
    return from_json(model, json.loads(text), {})


def _sent(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a client sends: without the features that are looked up."""
    tensors: list[dict[str, Any]] = case.get("request") or case["inputs"]
    return tensors


def _array(tensor: Mapping[str, Any]) -> Array:
    return np.array(tensor["data"], np.float64).reshape(tensor["shape"])


def _listed(values: Array) -> str:
    return ", ".join(f"{value:.6g}" for value in values.ravel().tolist())
