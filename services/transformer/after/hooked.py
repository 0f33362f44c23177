"""A function of the operator's own among the steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from infermesh.errors import InvalidRequest, quoted
from infermesh.tensors import DATATYPES, Array
from services.transformer.after.answer import Answer, Held
from services.transformer.after.declared import Hooked
from services.transformer.after.numbers import as_doubles
from services.transformer.after.outputs import ANY, Outputs, OutputType
from services.transformer.after.step import Step
from services.transformer.hooks import TRIED_ROWS, Hook, HookFault

__all__ = ["RunHook"]


class RunHook(Step):
    """Gives a function outputs as they are, and takes outputs of it, [N] or [N, k].

    `load` imports the function: to check a file is not to run what it names. It is tried when the shapes of what it takes are
    known, by what steps before it make or from the model's metadata.
    """

    needs_classes = False

    def __init__(self, declared: Hooked) -> None:
        self.reads, self.makes = tuple(declared.outputs), tuple(declared.returns)
        self._declared = declared
        self._hook: Hook | None = None
        self._tried: tuple[Mapping[str, OutputType], str] = ({}, "")

    def load(self) -> None:
        """Import the function. Raises HookFault."""
        self._hook = Hook(self._declared, None)

    def follow(self, outputs: Outputs) -> None:
        takes = {name: outputs.use("outputs", name) for name in self.reads}
        if fault := self._fault(takes):
            outputs.fault("function", fault)
        for name, of in self._declared.returns.items():
            instead = name if name in self.reads else None
            outputs.put("returns", name, OutputType(of.datatype, (ANY, *of.shape)), instead=instead)

    def apply(self, answer: Answer) -> None:
        assert self._hook is not None, "load comes first"
        columns: dict[str, Array] = {}
        rows: int | None = None
        for name in self.reads:
            datatype, array = answer.take(name)
            if array.ndim == 0 or rows not in (None, len(array)):
                raise answer.misfit(
                    name, f"expected {'a row for each' if rows is None else rows} rows, got {array.shape}"
                )
            rows = len(array)
            columns[name] = _given(datatype, array)
        try:
            made = self._hook(columns, rows or 0)
        except InvalidRequest as error:
            raise InvalidRequest(f"model {quoted(answer.model)}: {error.message}", reason=error.reason) from None
        for name, of in self._declared.returns.items():
            held = Held(of.datatype, made[name] if of.shape else made[name].reshape(-1))
            if name in self.reads:
                answer.put(name, held)
            else:
                answer.add(name, held)

    def _fault(self, takes: Mapping[str, OutputType]) -> str:
        """What is wrong with the function for outputs like these; empty where that can't be told."""
        if self._hook is None or not all(of.datatype in DATATYPES and of.shape for of in takes.values()):
            return ""
        if any(ANY in (of.shape or ())[1:] for of in takes.values()):
            return ""
        if self._tried[0] != takes:  # metadata are asked for often, and tell the same
            try:
                self._hook.tried({name: _zeros(of) for name, of in takes.items()})
                self._tried = (takes, "")
            except HookFault as fault:
                self._tried = (takes, str(fault))
        return self._tried[1]


def _given(datatype: str, array: Array) -> Array:
    given = as_doubles(datatype, array).astype(np.float32) if datatype == "BF16" else array.view()
    given.flags.writeable = False  # it may be the answer's own bytes
    return given


def _zeros(of: OutputType) -> Array:
    shape = (TRIED_ROWS, *(of.shape or ())[1:])
    if of.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return _given(of.datatype, np.zeros(shape, DATATYPES[of.datatype].dtype))
