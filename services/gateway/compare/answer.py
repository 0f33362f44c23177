"""An answer as arrays, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import read_outputs

__all__ = ["Output", "Unreadable", "read"]

FLOATS = {"FP16": 2**-10, "BF16": 2**-7, "FP32": 2**-23, "FP64": 2**-52}  # datatype → relative step


class Unreadable(ValueError):
    """An answer that breaks the protocol; the text says how."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of an answer; BF16 is widened to FP32."""

    datatype: str
    array: NDArray[Any]

    @property
    def is_float(self) -> bool:
        return self.datatype in FLOATS

    @property
    def step(self) -> float:
        """Relative distance of neighbouring numbers of a floating datatype."""
        return FLOATS[self.datatype]

    def rows(self) -> NDArray[Any]:
        """As [rows, columns]: the first dimension is that of rows, a scalar is one row."""
        array = self.array
        if array.ndim == 2:
            return array
        rows = array.shape[0] if array.ndim else 1
        return array.reshape(rows, array.size // rows if rows else 0)


def read(message: ModelInferResponse | bytes, wanted: Collection[str] = ()) -> dict[str, Output]:
    """The outputs by name, in the order of the answer; only those wanted, if any are named. Raises Unreadable."""
    try:
        answer = ModelInferResponse.FromString(message) if isinstance(message, bytes) else message
        arrays = read_outputs(answer)
    except DecodeError:
        raise Unreadable("is no message of the protocol") from None
    except InvalidRequest as error:
        raise Unreadable(f"breaks the protocol: {quoted(str(error), 160)}") from None
    if len(arrays) < len(answer.outputs):
        raise Unreadable("has an output twice")
    return {
        each.name: Output(each.datatype, _widened(arrays[each.name]) if each.datatype == "BF16" else arrays[each.name])
        for each in answer.outputs
        if not wanted or each.name in wanted
    }


def _widened(bits: NDArray[Any]) -> NDArray[Any]:
    """BF16 is the upper half of an FP32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
