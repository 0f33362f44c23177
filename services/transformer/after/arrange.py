"""Outputs that get another name, or go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.transformer.after.answer import Answer
from services.transformer.after.outputs import Outputs
from services.transformer.after.step import Step

__all__ = ["Drop", "Keep", "Rename"]


class Rename(Step):
    """All names at once, so that two may be exchanged; the outputs stay in their places."""

    renames = True
    needs_classes = False

    def __init__(self, names: Mapping[str, str]) -> None:
        self.reads, self.makes = tuple(names), tuple(names.values())
        self._names = names
        self._old = {new: old for old, new in names.items()}

    def follow(self, outputs: Outputs) -> None:
        for name in self._names:
            outputs.use("", name)
        outputs.rename(self._names)

    def apply(self, answer: Answer) -> None:
        if answer.is_whole:
            for old, new in self._names.items():
                if old not in answer.outputs:
                    raise answer.misfit(old, "is not in the model's answer, and is to be renamed")
                if new in answer.outputs and new not in self._names:
                    raise answer.misfit(new, "is the new name of another output, and is in the answer too")
        answer.outputs = {self._names.get(name, name): held for name, held in answer.outputs.items()}

    def before(self, wanted: frozenset[str]) -> frozenset[str] | None:
        if not wanted & self._old.keys():
            return None
        return frozenset(self._old.get(name, name) for name in wanted)


class Drop(Step):
    """One that is not there is as good as gone, in an answer; that the model has it is checked by its metadata."""

    needs_classes = False

    def __init__(self, names: Sequence[str]) -> None:
        self.reads, self.makes = tuple(names), ()

    def follow(self, outputs: Outputs) -> None:
        for name in self.reads:
            outputs.use("", name)
            outputs.remove(name)

    def apply(self, answer: Answer) -> None:
        for name in self.reads:
            answer.outputs.pop(name, None)

    def before(self, wanted: frozenset[str]) -> frozenset[str] | None:
        return None


class Keep(Step):
    """In the order of the answer."""

    needs_classes = False

    def __init__(self, names: Sequence[str]) -> None:
        self.reads, self.makes = tuple(names), ()

    def follow(self, outputs: Outputs) -> None:
        for name in self.reads:
            outputs.use("", name)
        outputs.keep(self.reads)

    def apply(self, answer: Answer) -> None:
        for name in self.reads:
            if answer.is_whole and name not in answer.outputs:
                raise answer.misfit(name, "is not in the model's answer, and is to be kept")
        answer.outputs = {name: held for name, held in answer.outputs.items() if name in self.reads}

    def before(self, wanted: frozenset[str]) -> frozenset[str] | None:
        return None
