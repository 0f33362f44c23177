"""Request parameters: which are reserved, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest

__all__ = [
    "BY_FALLBACK",
    "FALLBACK",
    "FEATURES",
    "GENERATION",
    "MODEL",
    "PICKED_BY",
    "PRIORITY",
    "SEQUENCE",
    "TIMEOUT",
    "VARIANT",
    "check_parameters",
    "is_of_sequence",
    "priority_of",
    "unsigned",
]

TIMEOUT = "timeout"
PRIORITY = "priority"
SEQUENCE = "sequence_id"

# What the mesh adds to a response; callers must not rely on any other `infermesh_` key.
MODEL = "infermesh_model"
VARIANT = "infermesh_variant"
FALLBACK = "infermesh_fallback"
BY_FALLBACK = "fallback"  # stands for a variant where none of the route's answered
GENERATION = "infermesh_generation"  # of the route table; this and the next for who asks by x-infermesh-debug alone
PICKED_BY = "infermesh_picked_by"  # weight | sticky | rule <name> | version | header
FEATURES = "infermesh_features"  # present | stale | cached | defaulted | redis_unavailable: the worst row; given: by the caller
# The transformer's own: `infermesh_feature_status` asks for the status of each feature, `infermesh_feature_overrides` tells which
# were overridden.


def check_parameters(request: ModelInferRequest) -> None:
    """Raise InvalidRequest for a parameter without a value, or a reserved one with a value that it can't have."""
    if request.parameters:
        _check(request, request.parameters, "request")
        for name in (TIMEOUT, PRIORITY):
            if name in request.parameters:
                unsigned(request, name)
    for tensor in request.inputs:
        if tensor.parameters:
            _check(request, tensor.parameters, f"input {quoted(tensor.name)}")
    for output in request.outputs:
        if output.parameters:
            _check(request, output.parameters, f"output {quoted(output.name)}")


def priority_of(request: ModelInferRequest) -> int:
    """The request's priority, 1 the highest; 0: it names none. Raises InvalidRequest as `unsigned` does."""
    return unsigned(request, PRIORITY) if PRIORITY in request.parameters else 0


def is_of_sequence(request: ModelInferRequest) -> bool:
    """Whether the request is one of a sequence, for which the model keeps state; 0 and the empty text are none, as in Triton."""
    if SEQUENCE not in request.parameters:  # a look-up by index would add it to the caller's message
        return False
    parameter = request.parameters[SEQUENCE]
    kind = parameter.WhichOneof("parameter_choice")
    return kind is not None and bool(getattr(parameter, kind))


def unsigned(request: ModelInferRequest, name: str) -> int:
    """The value of a parameter that is a uint64 or a non-negative int64; raises InvalidRequest for anything else."""
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = parameter.int64_param if kind == "int64_param" else parameter.uint64_param if kind == "uint64_param" else -1
    if value < 0:
        came = f"{kind} {getattr(parameter, kind)!r}"[:64] if kind else "no value"
        raise InvalidRequest(
            f"model {quoted(request.model_name)}: parameter {quoted(name)}: expected a uint64 or a non-negative int64, "
            f"got {came}",
            reason="PARAMETER_INVALID",
        )
    return value


def _check(request: ModelInferRequest, parameters: Mapping[str, InferParameter], owner: str) -> None:
    for name, parameter in parameters.items():
        if parameter.WhichOneof("parameter_choice") is None:
            raise InvalidRequest(
                f"model {quoted(request.model_name)}: {owner}: parameter {quoted(name)}: expected a value, got none",
                reason="PARAMETER_UNSET",
            )
