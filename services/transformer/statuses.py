"""What is known of each value that a model gets: whether it is the stored one, and if it is a default, why."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_outputs, uses_raw

__all__ = ["FEATURE_STATUS", "NAMES", "Matrix", "Status", "add_statuses", "take_wish", "wants_statuses"]

FEATURE_STATUS = (
    "infermesh_feature_status"  # a parameter of the request or an output that it asks for; and the output itself
)
NAMES = "names"  # parameter of that output: the features in the order of its columns

Matrix = NDArray[np.uint8]  # (N, features)


class Status(IntEnum):
    """Of one value. NULL, MISSING and DEFAULTED are the declared default, and say why it is."""

    PRESENT = 0  # the stored value
    NULL = 1  # the row says that there is no value
    MISSING = 2  # there is no row, or none that can be read
    STALE = 3  # the stored value, older than the view allows
    DEFAULTED = 4  # something may be stored, but it is too old, or the store could not be asked
    OVERRIDDEN = 5  # the request brought it
    CACHED = 6  # the value that was stored when Redis went away

    @property
    def word(self) -> str:
        return self.name.lower()


def wants_statuses(request: ModelInferRequest) -> bool:
    """Whether a request asks for the status of each feature. Raises InvalidRequest for a parameter that is no boolean."""
    if FEATURE_STATUS in request.parameters:
        parameter = request.parameters[FEATURE_STATUS]
        if parameter.WhichOneof("parameter_choice") != "bool_param":
            raise InvalidRequest(
                f'model {quoted(request.model_name)}: parameter "{FEATURE_STATUS}": expected true or false',
                reason="PARAMETER_INVALID",
            )
        if parameter.bool_param:
            return True
    return any(output.name == FEATURE_STATUS for output in request.outputs)


def take_wish(request: ModelInferRequest) -> None:
    """Take the wish for statuses out of a request of our own: it is nothing that the model knows."""
    request.parameters.pop(FEATURE_STATUS, None)
    for position in reversed(range(len(request.outputs))):
        if request.outputs[position].name == FEATURE_STATUS:
            del request.outputs[position]


def add_statuses(
    request: ModelInferRequest, response: ModelInferResponse, statuses: Matrix, names: Sequence[str]
) -> None:
    """Add the output with the statuses, raw if the other outputs are; it stands alone where the request asked for it alone."""
    raw = bool(response.raw_output_contents) or (not response.outputs and uses_raw(request))
    if request.outputs and all(output.name == FEATURE_STATUS for output in request.outputs):
        del response.outputs[:]
        del response.raw_output_contents[:]
    add_outputs(response, [(FEATURE_STATUS, "UINT8", statuses)], raw=raw)
    response.outputs[-1].parameters[NAMES].string_param = ",".join(names)
