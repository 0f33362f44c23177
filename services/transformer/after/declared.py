"""Steps on a model's answer as a feature file declares them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictInt, StringConstraints, field_validator, model_validator

from infermesh.config import Model
from services.transformer.declaring import FUNCTION, MAX_WIDTH, Sized, refuse, twice

__all__ = [
    "Calibrate",
    "Classes",
    "Hooked",
    "Isotonic",
    "OutputName",
    "Platt",
    "Scored",
    "StepConfig",
    "Threshold",
    "TopK",
]

RESERVED = "infermesh_"  # outputs that the mesh adds

OutputName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Names = Annotated[list[Word], Field(min_length=1, max_length=MAX_WIDTH)]


class _Step(Model):
    model_config = ConfigDict(serialize_by_alias=True)  # what is written of a file can be read again


class Classes(_Step):
    """The names of classes, for what an integer output has the index of, or for the likeliest column of a float one."""

    of: OutputName
    """The output: integers of any shape, indices from 0 on; or floats [N, C]: the highest counts, the first of equals."""
    names: Names | None = None
    """By index; left out: those of the model's property `infermesh.classes`."""
    as_: OutputName | None = Field(None, alias="as")
    """A further output of this name; left out: the names take the place of `of`."""

    @field_validator("names")
    @classmethod
    def _once(cls, names: list[str] | None) -> list[str] | None:
        return _distinct(names)


class Scored(_Step):
    """Takes one number of each row."""

    of: OutputName
    """The output: numbers [N], [N, 1] or [N, C]."""
    column: StrictInt | str | None = None
    """Of [N, C]: the index of the column from 0 on, or the name of its class; left out: there is one alone."""
    names: Names | None = None
    """The names by which `column` goes; left out: those of the model's property `infermesh.classes`."""

    @field_validator("names")
    @classmethod
    def _once(cls, names: list[str] | None) -> list[str] | None:
        return _distinct(names)

    @field_validator("column")
    @classmethod
    def _index(cls, column: int | str | None) -> int | str | None:
        if isinstance(column, int) and not 0 <= column < MAX_WIDTH:
            raise ValueError(f"expected an index from 0 to {MAX_WIDTH - 1}")
        return column

    @model_validator(mode="after")
    def _named(self) -> Scored:
        faults = []
        if self.names is not None and not isinstance(self.column, str):
            faults.append("names: says nothing without the name of a column")
        if isinstance(self.column, str) and self.names is not None and self.column not in self.names:
            faults.append(f'column: "{self.column}" is none of the names')
        refuse(faults)
        return self


class Threshold(Scored):
    """A word for each row, by how high a number is."""

    at: list[float] = Field(min_length=1, max_length=64)
    """Rising thresholds; one is reached by what is equal to it or above, as the output's datatype has it."""
    decisions: list[Word] = Field(min_length=2, max_length=65)
    """One word more than thresholds: for what reaches none of them, then for what reaches the first, and so on."""
    as_: OutputName = Field("decision", alias="as")
    """Name of the output, BYTES [N]."""

    @model_validator(mode="after")
    def _whole(self) -> Threshold:
        faults = []
        if not all(map(math.isfinite, self.at)) or not _rises(self.at):
            faults.append("at: expected finite numbers that rise")
        if len(self.decisions) != len(self.at) + 1:
            faults.append(
                f"decisions: expected {len(self.at) + 1}, one more than thresholds, got {len(self.decisions)}"
            )
        refuse(faults)
        return self


class Platt(Model):
    """1 / (1 + exp(a·s + b)), as Platt (1999) and scikit-learn's `_SigmoidCalibration` write it: a is below 0 as a rule."""

    a: float
    """Slope; not 0."""
    b: float
    """Shift."""

    @model_validator(mode="after")
    def _finite(self) -> Platt:
        if not (math.isfinite(self.a) and math.isfinite(self.b)) or self.a == 0:
            raise ValueError("expected finite numbers, a not 0")
        return self


class Isotonic(Model):
    """A line through knots, level before the first and after the last: `X_thresholds_`, `y_thresholds_` of scikit-learn."""

    x: list[float] = Field(min_length=1, max_length=MAX_WIDTH)
    """Scores; rising."""
    y: list[float] = Field(min_length=1, max_length=MAX_WIDTH)
    """Probabilities, 0 to 1; never falling."""

    @model_validator(mode="after")
    def _whole(self) -> Isotonic:
        faults = []
        if len(self.x) != len(self.y):
            faults.append(f"y: expected {len(self.x)} numbers, as many as x, got {len(self.y)}")
        if not all(map(math.isfinite, self.x)) or not _rises(self.x):
            faults.append("x: expected finite numbers that rise")
        elif not math.isfinite(self.x[-1] - self.x[0]) or any(1 / (b - a) == math.inf for a, b in _pairs(self.x)):
            faults.append("x: expected numbers that are neither so far apart nor so close")
        if not all(0 <= each <= 1 for each in self.y) or any(b < a for a, b in _pairs(self.y)):
            faults.append("y: expected numbers from 0 to 1 that never fall")
        refuse(faults)
        return self


class Calibrate(Scored):
    """Makes a probability of the score in one column; exactly one of the two ways."""

    platt: Platt | None = None
    """A logistic curve."""
    isotonic: Isotonic | None = None
    """A curve through knots."""
    as_: OutputName | None = Field(None, alias="as")
    """A further output of this name; left out: in the place of `of`."""

    @model_validator(mode="after")
    def _one(self) -> Calibrate:
        if (self.platt is None) is (self.isotonic is None):
            raise ValueError("expected one of platt, isotonic")
        return self


class TopK(Model):
    """The k highest of each row, highest first, the first of equals before the others: two outputs."""

    of: OutputName
    """The output: floats [N, C]."""
    k: int = Field(ge=1, le=MAX_WIDTH)
    """How many."""
    names: Names | Literal["model"] | None = None
    """Names of the columns; `model`: those of the model's property `infermesh.classes`; left out: their indices."""
    values: OutputName = "top_values"
    """Name of the output with the values, FP32 [N, k]."""
    classes: OutputName = "top_classes"
    """Name of the output with the classes, BYTES [N, k] where they have names, else INT64."""

    @model_validator(mode="after")
    def _whole(self) -> TopK:
        faults = []
        if isinstance(self.names, list) and self.k > len(self.names):
            faults.append(f"k: {self.k} of {len(self.names)} names")
        if isinstance(self.names, list) and (again := twice(self.names)):
            faults.append(f'names: "{again[0]}" stands twice')
        if self.values == self.classes:
            faults.append(f'classes: values is "{self.values}" too')
        refuse(faults)
        return self


class Hooked(Model):
    """A function of your own, for what no declared step does."""

    function: str
    """`module:function`, on the path of Python where the transformer runs."""
    outputs: list[OutputName] = Field(min_length=1, max_length=64)
    """The outputs that it gets, as they are then."""
    returns: dict[OutputName, Sized] = Field(min_length=1)
    """The outputs that it makes, [N] or [N, k]; one that it got under this name is replaced."""

    @model_validator(mode="after")
    def _whole(self) -> Hooked:
        faults = [f'outputs: "{name}": stands twice' for name in twice(self.outputs)]
        if not FUNCTION.fullmatch(self.function):
            faults.append(f'function: expected module:function, got "{self.function}"')
        refuse(faults)
        return self


class StepConfig(Model):
    """One step; exactly one of these."""

    classes: Classes | None = None
    """Names for the indices of classes, or for the likeliest class."""
    threshold: Threshold | None = None
    """A decision by thresholds."""
    calibrate: Calibrate | None = None
    """A probability of a score."""
    top_k: TopK | None = None
    """The highest of each row."""
    rename: dict[OutputName, OutputName] | None = Field(None, min_length=1)
    """Other names for outputs, by the old ones; all at once."""
    drop: list[OutputName] | None = Field(None, min_length=1)
    """Outputs that go."""
    keep: list[OutputName] | None = Field(None, min_length=1)
    """Outputs that stay; all others go."""
    hook: Hooked | None = None
    """A function of your own."""

    @model_validator(mode="after")
    def _one(self) -> StepConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(type(self).model_fields)}, got {', '.join(given) or 'none'}")
        faults = [f'{self.name}: "{name}" begins with {RESERVED}' for name in self.makes if name.startswith(RESERVED)]
        for key in ("drop", "keep"):
            faults += [f'{key}: "{name}" stands twice' for name in twice(getattr(self, key) or ())]
        faults += [f'rename: "{name}" is the new name of more than one' for name in twice((self.rename or {}).values())]
        refuse(faults)
        return self

    @property
    def name(self) -> str:
        """Which of them it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def makes(self) -> list[str]:
        """The names that it gives to outputs."""
        step: Any = getattr(self, self.name)
        if isinstance(step, Classes | Calibrate | Threshold):
            return [step.as_] if step.as_ else []
        if isinstance(step, TopK):
            return [step.values, step.classes]
        if isinstance(step, Hooked):
            return list(step.returns)
        return list(step.values()) if isinstance(step, dict) else []


def _distinct(names: list[str] | None) -> list[str] | None:
    if names and (again := twice(names)):
        raise ValueError(f'"{again[0]}" stands twice')
    return names


def _pairs(numbers: list[float]) -> list[tuple[float, float]]:
    return list(pairwise(numbers))


def _rises(numbers: list[float]) -> bool:
    return all(a < b for a, b in _pairs(numbers))
