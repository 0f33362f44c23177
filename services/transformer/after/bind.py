"""From declared steps to steps that can be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.transformer.after.arrange import Drop, Keep, Rename
from services.transformer.after.calibrate import CalibrateScore
from services.transformer.after.classes import NameClasses
from services.transformer.after.declared import StepConfig
from services.transformer.after.hooked import RunHook
from services.transformer.after.outputs import Outputs
from services.transformer.after.step import Step
from services.transformer.after.threshold import Decide
from services.transformer.after.top_k import TakeTop

__all__ = ["Placed", "bound", "faults_of_steps", "followed"]


class Placed(NamedTuple):
    """A step, and where in the service it stands."""

    place: str
    step: Step


def bound(declared: Sequence[StepConfig]) -> list[Placed]:
    """The steps in their order; no function of the operator's is loaded."""
    return [Placed(f"after.{at}.{each.name}", _step_of(each)) for at, each in enumerate(declared)]


def followed(steps: Sequence[Placed], outputs: Outputs) -> Outputs:
    """What is known of the outputs after all steps, with the faults of each at its place."""
    for place, step in steps:
        outputs.place = place
        step.follow(outputs)
    return outputs


def faults_of_steps(declared: Sequence[StepConfig]) -> list[str]:
    """What is wrong with steps whatever the model's outputs are: names, their order, widths as far as they are known."""
    return followed(bound(declared), Outputs()).faults


def _step_of(declared: StepConfig) -> Step:
    if declared.classes is not None:
        return NameClasses(declared.classes)
    if declared.threshold is not None:
        return Decide(declared.threshold)
    if declared.calibrate is not None:
        return CalibrateScore(declared.calibrate)
    if declared.top_k is not None:
        return TakeTop(declared.top_k)
    if declared.rename is not None:
        return Rename(declared.rename)
    if declared.drop is not None:
        return Drop(declared.drop)
    if declared.keep is not None:
        return Keep(declared.keep)
    assert declared.hook is not None
    return RunHook(declared.hook)
