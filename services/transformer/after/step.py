"""What a step on a model's answer is made of."""

from __future__ import annotations

from typing import Protocol

from services.transformer.after.answer import Answer
from services.transformer.after.outputs import Outputs

__all__ = ["Step"]


class Step(Protocol):
    """One step, bound at load."""

    reads: tuple[str, ...]
    """The outputs that it takes."""
    makes: tuple[str, ...]
    """The outputs that there are by it."""
    renames: bool = False
    """Whether it needs no values: those outputs have other names behind it."""
    needs_classes: bool
    """Whether it takes names from the model's property."""

    def follow(self, outputs: Outputs) -> None:
        """Do to what is known of the outputs what `apply` does to them, and name what can't be."""

    def apply(self, answer: Answer) -> None:
        """Do it. Raises Internal, FailedPrecondition, InvalidRequest."""

    def before(self, wanted: frozenset[str]) -> frozenset[str] | None:
        """The outputs that are needed before it, if these are wanted after it; None: it is not needed for them."""
        makes = frozenset(self.makes)
        return (wanted - makes) | frozenset(self.reads) if wanted & makes else None
