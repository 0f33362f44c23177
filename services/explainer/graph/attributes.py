"""Attributes of nodes and constants of a graph, as Python and numpy values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import get_attribute_value

from infermesh.errors import quoted
from services.explainer.graph.refusal import NotReadable

__all__ = ["Attributes", "constant", "described"]


class Attributes:
    """Of one node, by name."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self._values = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The value as onnx gives it: texts are bytes, lists are lists, tensors TensorProto."""
        return self._values.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def array(self, name: str, dtype: Any) -> NDArray[Any]:
        """A list, or a tensor under the same name or `<name>_as_tensor`, flat; empty when there is neither."""
        value = self._values.get(name, self._values.get(f"{name}_as_tensor"))
        if value is None:
            return np.zeros(0, dtype)
        if isinstance(value, TensorProto):
            return np.asarray(constant(value, described(self.node))).ravel().astype(dtype)
        return np.asarray(value, dtype).ravel()

    def floats(self, name: str) -> NDArray[Any]:
        """FP32, unless they are held as FP64."""
        tensor = self._values.get(f"{name}_as_tensor", self._values.get(name))
        is_double = isinstance(tensor, TensorProto) and tensor.data_type == TensorProto.DOUBLE
        return self.array(name, np.float64 if is_double else np.float32)


def constant(tensor: Any, where: str) -> NDArray[Any]:
    """The values of a tensor. Raises NotReadable for those that lie in another file, and for broken ones."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise NotReadable(f"{where}: its data lie in another file, which is not read")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise NotReadable(f"{where}: the tensor can't be read: {str(error)[:200]}") from None


def described(node: NodeProto) -> str:
    """How a node is called in reasons: by its operator and its name, or its first output's."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node {quoted(name)} ({node.domain + '.' if node.domain else ''}{node.op_type})"
