"""Which steps are done for one request, and which outputs the model is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from services.transformer.after.bind import Placed
from services.transformer.after.outputs import Outputs
from services.transformer.after.step import Step

__all__ = ["Course", "check_wanted"]


class Course:
    """For these outputs, or for all when none is named: the steps that make them, and those of the model that they need.

    A name that no step makes or takes away may be the model's: it is asked, and says whether it has it.
    """

    def __init__(self, steps: Sequence[Placed], wanted: Sequence[str]) -> None:
        self.wanted = tuple(dict.fromkeys(wanted))
        chosen: list[Step] = []
        names = frozenset(self.wanted)
        for _, step in reversed(steps):
            before = step.before(names) if wanted else names
            if before is not None:
                chosen.insert(0, step)
                names = before
            elif not step.makes:
                chosen.insert(0, step)  # an output that goes may give its name to another one
        self.steps = chosen if not wanted or any(step.makes for step in chosen) else []
        self.asked = [*(name for name in self.wanted if name in names), *sorted(names - set(self.wanted))]
        """Outputs that the model is asked for; none: all."""
        self.takes = _taken(self.steps)
        """Outputs of the model whose values the steps need."""
        self.needs_classes = any(step.needs_classes for step in self.steps)

    def request(self, request: ModelInferRequest) -> ModelInferRequest:
        """The model's request: a copy if other outputs are to be asked for than the caller asks for."""
        if list(self.wanted) == self.asked:
            return request
        changed = ModelInferRequest()
        changed.CopyFrom(request)
        del changed.outputs[:]
        for name in self.asked:
            named = next((output for output in request.outputs if output.name == name), None)
            if named is not None:
                changed.outputs.append(named)  # with what else the caller says of it
            else:
                changed.outputs.add(name=name)
        return changed


def check_wanted(model: str, wanted: Sequence[str], after: Outputs) -> None:
    """Raise InvalidRequest for an output that the steps took away."""
    for name in wanted:
        if why := after.is_gone(name):
            there = ", ".join(after.known)[:256]
            raise InvalidRequest(
                f"model {quoted(model)}: output {quoted(name)}: {why}; there are {there}", reason="OUTPUT_UNKNOWN"
            )


def _taken(steps: Sequence[Step]) -> frozenset[str]:
    """Names of the model, behind those that steps gave to them."""
    names: frozenset[str] = frozenset()
    for step in reversed(steps):
        before = step.before(names)
        names = before if before is not None else names
        if step.makes and not step.renames:
            names |= frozenset(step.reads)
    return names
