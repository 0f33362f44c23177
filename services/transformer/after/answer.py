"""A model's answer while steps are done on it: arrays of those outputs that they take, the rest as it came."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import FailedPrecondition, Internal, InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import Array, add_outputs, read_outputs

__all__ = ["Answer", "Held", "Words"]

RAW_ONLY = ("FP16", "BF16")

Tensor = ModelInferResponse.InferOutputTensor


class Words:
    """Texts that outputs have by their codes: they are made into arrays and into raw contents without a look at each."""

    def __init__(self, words: Sequence[str]) -> None:
        self.names = tuple(words)
        encoded = [word.encode() for word in words]
        self.texts = _objects(encoded)
        self.prefixed = _objects([struct.pack("<I", len(word)) + word for word in encoded])

    def __len__(self) -> int:
        return len(self.names)

    def held(self, codes: NDArray[np.intp]) -> Held:
        """An output with the text of each code."""
        return Held("BYTES", words=self, codes=codes)


@dataclass(slots=True)
class Held:
    """One output: as it came (`tensor`, and `raw` if it has), as an array, or as codes of words."""

    datatype: str
    array: Array | None = None
    words: Words | None = None
    codes: NDArray[np.intp] | None = None
    tensor: Tensor | None = None
    raw: bytes | None = None

    def values(self) -> Array | None:
        """The array, BYTES as objects."""
        if self.array is None and self.words is not None and self.codes is not None:
            self.array = self.words.texts[self.codes]
        return self.array


class Answer:
    """The outputs of a response by name, in their order.

    `takes` are those of the model that steps take: they alone are read. `classes` are the names in the model's property, none
    where it has none or no step needs them. `is_whole` is false for an answer with those outputs alone that were asked for. `raw`
    is how an answer without outputs is written. `counted` gathers decisions, which count when all steps are done.

    An answer that does not fit is INTERNAL, since model and file disagree; a value that a step has no answer for is
    FAILED_PRECONDITION.
    """

    def __init__(
        self,
        response: ModelInferResponse,
        takes: Collection[str],
        classes: Words,
        *,
        model: str,
        is_whole: bool = True,
        raw: bool = True,
    ) -> None:
        self.model = model
        self.classes = classes
        self.is_whole = is_whole
        self.counted: list[tuple[Sequence[str], NDArray[np.intp]]] = []
        self._response = response
        self._raw = raw if not response.outputs else bool(response.raw_output_contents)
        self.outputs = self._held(response, takes)

    def take(self, name: str) -> tuple[str, Array]:
        """Datatype and array of an output."""
        held = self.outputs.get(name)
        array = held.values() if held is not None else None
        if held is None or array is None:
            there = ", ".join(self.outputs)[:256] or "none"
            raise self.misfit(name, f"is not in the model's answer; there are {there}")
        return held.datatype, array

    def put(self, name: str, held: Held) -> None:
        """Add an output, or put it in the place of the one that has its name."""
        self.outputs[name] = held

    def add(self, name: str, held: Held) -> None:
        """Add an output whose name is not taken."""
        if name in self.outputs:
            raise self.misfit(name, "is made by a step, and the model's answer has one of this name too")
        self.outputs[name] = held

    def misfit(self, name: str, what: str) -> Internal:
        """The error about an output that is not what the feature file expects."""
        return Internal(f"model {quoted(self.model)}: output {quoted(name)}: {what}", reason="ANSWER_MISFIT")

    def refused(self, name: str, what: str) -> FailedPrecondition:
        """The error about a value that a step has no answer for."""
        return FailedPrecondition(f"model {quoted(self.model)}: output {quoted(name)}: {what}", reason="ANSWER_VALUE")

    def write(self, wanted: Sequence[str]) -> ModelInferResponse:
        """The response with the outputs as they are now: those that are wanted, in that order, or all; raw if it was."""
        if wanted:
            for name in wanted:
                if name not in self.outputs:
                    raise self.misfit(name, "is not in the model's answer")
            chosen = {name: self.outputs[name] for name in wanted}
        else:
            chosen = self.outputs
        raw = self._raw or any(held.datatype in RAW_ONLY for held in chosen.values())
        if raw is not self._raw:  # an output that travels raw alone takes the others with it
            came = read_outputs(self._response)
            for held in chosen.values():
                if held.tensor is not None and held.array is None:
                    held.array = came[held.tensor.name]
        made = ModelInferResponse()
        for name, held in chosen.items():
            self._add(made, name, held, raw=raw)
        response = self._response
        del response.outputs[:]
        del response.raw_output_contents[:]
        response.outputs.extend(made.outputs)
        response.raw_output_contents.extend(made.raw_output_contents)
        return response

    def _add(self, made: ModelInferResponse, name: str, held: Held, *, raw: bool) -> None:
        tensor = held.tensor
        if tensor is not None and raw is self._raw:
            made.outputs.append(tensor)
            made.outputs[-1].name = name
            if held.raw is not None:
                made.raw_output_contents.append(held.raw)
        elif held.words is not None and held.codes is not None and raw:
            made.outputs.add(name=name, datatype=held.datatype, shape=held.codes.shape)
            made.raw_output_contents.append(b"".join(held.words.prefixed[held.codes.ravel()].tolist()))
        else:
            array = held.values()
            assert array is not None
            add_outputs(made, [(name, held.datatype, array)], raw=raw)
            if tensor is not None:
                for key, parameter in tensor.parameters.items():
                    made.outputs[-1].parameters[key].CopyFrom(parameter)

    def _held(self, response: ModelInferResponse, takes: Collection[str]) -> dict[str, Held]:
        raws = response.raw_output_contents
        held: dict[str, Held] = {}
        taken = ModelInferResponse(model_name=response.model_name)
        for at, tensor in enumerate(response.outputs):
            if tensor.name in held:
                raise self.misfit(tensor.name, "is twice in the model's answer")
            raw = raws[at] if at < len(raws) else None
            held[tensor.name] = Held(tensor.datatype, tensor=tensor, raw=raw)
            if tensor.name in takes:
                taken.outputs.append(tensor)
                if raw is not None:
                    taken.raw_output_contents.append(raw)
        if raws and len(raws) != len(response.outputs):
            text = f"{len(raws)} raw contents for {len(response.outputs)} outputs"
            raise Internal(f"model {quoted(self.model)}: the answer has {text}", reason="ANSWER_MISFIT")
        try:
            for name, array in read_outputs(taken).items():
                held[name].array = array
        except InvalidRequest as error:
            text = f"model {quoted(self.model)}: the model's answer can't be read: {error.message}"
            raise Internal(text, reason="ANSWER_MISFIT") from None
        return held


def _objects(values: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array
