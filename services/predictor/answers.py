"""Answers of a model version, of which most is the same each time."""

from __future__ import annotations

from collections.abc import Sequence

from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import DATATYPES, Array, add_outputs, raw_of, uses_raw

__all__ = ["Answers"]

MAX_KNOWN = 256  # a caller can ask for any number of rows

Values = Sequence[tuple[str, str, Array]]


class Answers:
    """Makes raw answers from a head, which is everything but the id and the outputs' bytes.

    There is one for each set of outputs and their shapes. To parse it takes a third of the time that it takes to put names,
    datatypes and shapes together once more.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._heads: dict[tuple[object, ...], bytes] = {}

    def answer(self, request: ModelInferRequest, values: Values) -> ModelInferResponse:
        """The answer with these outputs: raw to a raw request, typed to a typed one."""
        if not uses_raw(request):
            response = ModelInferResponse(model_name=request.model_name, model_version=self._version, id=request.id)
            add_outputs(response, values, raw=False)
            return response
        key = (request.model_name, *[(name, array.shape) for name, _, array in values])
        head = self._heads.get(key)
        if head is None:
            head = self._head(key, request.model_name, values)
        response = ModelInferResponse.FromString(head)
        response.id = request.id
        raws = response.raw_output_contents
        for _, datatype, array in values:
            raws.append(raw_of(array, DATATYPES[datatype]))
        return response

    def _head(self, key: tuple[object, ...], model: str, values: Values) -> bytes:
        head = ModelInferResponse(model_name=model, model_version=self._version)
        for name, datatype, array in values:
            head.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if len(self._heads) >= MAX_KNOWN:
            self._heads.clear()
        data = self._heads[key] = head.SerializeToString()
        return data
