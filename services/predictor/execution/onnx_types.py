"""ONNX Runtime's types ↔ the datatypes of the protocol, and values ↔ arrays where numpy alone does not do."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort

from infermesh.errors import InvalidRequest, quoted
from infermesh.tensors import Array

__all__ = ["DATATYPE_OF", "NEEDS_ORT_VALUE", "from_ort_value", "strings_from_bytes", "to_ort_value"]

DATATYPE_OF: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

NEEDS_ORT_VALUE = frozenset({"BF16"})  # numpy has no such type, so ONNX Runtime's numpy interface refuses it

_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


def to_ort_value(array: Array, datatype: str) -> Any:
    """An OrtValue over the array's memory, which is to outlive the run; strings stay an array, there is no OrtValue of them in
    Python. BF16 is a uint16 array of the same bits."""
    if datatype == "BF16":
        array = array if array.flags.c_contiguous else array.copy()  # `ascontiguousarray` makes a vector of a scalar
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
    return array if datatype == "BYTES" else ort.OrtValue.ortvalue_from_numpy(array)


def from_ort_value(value: Any, datatype: str) -> Array:
    """The array of an OrtValue on the CPU."""
    if datatype != "BF16":
        array: Array = value.numpy()
        return array
    shape: Sequence[int] = value.shape()
    size = 2 * prod(shape)
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, np.uint16).reshape(shape)


def strings_from_bytes(array: Array, where: str) -> Array:
    """The str elements that ONNX Runtime wants; raises InvalidRequest for bytes that are not UTF-8, and alters none."""
    strings = np.empty(array.size, np.object_)
    try:
        for i, element in enumerate(array.ravel().tolist()):
            strings[i] = element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"{where}: BYTES: an ONNX string is UTF-8, element {i} is not: {quoted(element)}", reason="BYTES_NOT_UTF8"
        ) from None
    return strings.reshape(array.shape)
