"""The outputs of an explainer, and the response that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np

from infermesh.errors import InvalidRequest, ResourceExhausted, quoted
from infermesh.parameters import MODEL
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import Array, add_outputs, uses_raw
from services.explainer.estimate import Estimate, Floats
from services.explainer.parameters import Parameters
from services.explainer.reasons import Reasons

__all__ = ["NAMED_ONLY", "OUTPUTS", "Explanation", "OutputSpec", "check_size", "requested_outputs", "response_of"]


class OutputSpec(NamedTuple):
    """An output; its shape in letters: N rows, M features, K classes, R reasons."""

    name: str
    datatype: str
    shape: str


OUTPUTS = (
    OutputSpec("attributions", "FP64", "NMK"),
    OutputSpec("base_values", "FP64", "NK"),
    OutputSpec("predictions", "FP64", "NK"),
    OutputSpec("std_error", "FP64", "NMK"),
    OutputSpec("additivity_error", "FP64", "NK"),
    OutputSpec("feature_names", "BYTES", "M"),
    OutputSpec("output_names", "BYTES", "K"),
)
NAMED_ONLY = (
    OutputSpec("feature_values", "BYTES", "NM"),
    OutputSpec("reasons", "BYTES", "NR"),
    OutputSpec("reason_features", "BYTES", "NR"),
)
"""Outputs that only those get who name them."""

TEXT_BYTES = {"feature_values": 32, "reasons": 128, "reason_features": 32}
"""About what a text of them has; those of the request's own texts are added."""


def check_size(request: pb.ModelInferRequest, rows: int, features: int, classes: int, most_bytes: int) -> None:
    """Raise ResourceExhausted for an answer that would be larger, about: with all outputs, a name counting like a number, and
    those that are named."""
    count = {"N": rows, "M": features, "K": classes}
    size = 8 * sum(prod(count[letter] for letter in output.shape) for output in OUTPUTS)
    named = {output.name for output in request.outputs}
    if texts := [output for output in NAMED_ONLY if output.name in named]:
        count["R"] = min(Parameters.of(request).reasons, features)
        size += sum(TEXT_BYTES[output.name] * prod(count[letter] for letter in output.shape) for output in texts)
        size += request.ByteSize() if "feature_values" in named else 0
    if size > most_bytes:
        raise ResourceExhausted(
            f"model {quoted(request.model_name)}: the answer for {rows} rows, {features} features and {classes} classes "
            f"would have {size >> 20} MiB, the limit is {most_bytes >> 20} MiB; ask for fewer rows or classes",
            reason="ANSWER_TOO_LARGE",
        )


@dataclass(frozen=True)
class Explanation:
    """Everything that was found out about one request, so far or in the end."""

    estimate: Estimate
    base: Floats  # [columns]
    predictions: Floats  # [rows, columns]
    features: Sequence[str]
    classes: Sequence[str]
    model: str
    version: str
    method: str
    seed: int
    rows_sent: int
    reasons: Reasons
    link: str = "identity"
    told: Mapping[str, str] = field(default_factory=dict)
    """Response parameters that only some methods have."""

    @property
    def additivity_error(self) -> Floats:
        """How far base value and attributions together are from the prediction; rounding, when all is well."""
        error: Floats = np.abs(self.base + self.estimate.attributions.sum(axis=1) - self.predictions)
        return error

    @cached_property
    def _reasons(self) -> tuple[Array, Array]:
        return self.reasons.of(self.estimate)

    def array(self, output: str) -> Array:
        """The tensor of one of `OUTPUTS` or `NAMED_ONLY`."""
        match output:
            case "attributions":
                return self.estimate.attributions
            case "base_values":
                return np.broadcast_to(self.base, self.predictions.shape)
            case "predictions":
                return self.predictions
            case "std_error":
                return self.estimate.std_error
            case "additivity_error":
                return self.additivity_error
            case "feature_names":
                return _texts(self.features)
            case "output_names":
                return _texts(self.classes)
            case "feature_values":
                return self.reasons.values
            case "reasons":
                return self._reasons[0]
            case "reason_features":
                return self._reasons[1]
        raise KeyError(output)


def requested_outputs(request: pb.ModelInferRequest) -> list[OutputSpec]:
    """The outputs that are asked for, in that order, each once; all when none is named. Raises InvalidRequest."""
    if not request.outputs:
        return list(OUTPUTS)
    named = {spec.name: spec for spec in (*OUTPUTS, *NAMED_ONLY)}
    asked = dict.fromkeys(output.name for output in request.outputs)
    for name in asked:
        if name not in named:
            raise InvalidRequest(
                f"model {quoted(request.model_name)}: output {quoted(name)}: expected one of {', '.join(named)}",
                reason="OUTPUT_UNKNOWN",
            )
    return [named[name] for name in asked]


def response_of(
    request: pb.ModelInferRequest, explanation: Explanation, outputs: Sequence[OutputSpec], seconds: float
) -> pb.ModelInferResponse:
    """The response: raw or typed as the request, with parameters that say how the attributions came about."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=explanation.version, id=request.id)
    told = response.parameters
    told[MODEL].string_param = explanation.model
    told["infermesh_model_version"].string_param = explanation.version
    told["infermesh_method"].string_param = explanation.method
    told["infermesh_link"].string_param = explanation.link
    for name, text in explanation.told.items():
        told[name].string_param = text
    told["infermesh_evaluations"].int64_param = explanation.estimate.evaluations
    told["infermesh_rows_sent"].int64_param = explanation.rows_sent
    told["infermesh_converged"].bool_param = explanation.estimate.converged
    if explanation.classes and {"reasons", "reason_features"} & {spec.name for spec in outputs}:
        told["infermesh_reasons_class"].string_param = explanation.classes[explanation.reasons.subject.position]
    if explanation.seed < 2**63:
        told["infermesh_seed"].int64_param = explanation.seed
    else:
        told["infermesh_seed"].uint64_param = explanation.seed
    told["infermesh_milliseconds"].double_param = seconds * 1000
    arrays = [(spec.name, spec.datatype, explanation.array(spec.name)) for spec in outputs]
    add_outputs(response, arrays, raw=uses_raw(request))
    return response


def _texts(names: Sequence[str]) -> Array:
    array = np.empty(len(names), np.object_)
    array[:] = [name.encode() for name in names]
    return array
