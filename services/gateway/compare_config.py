"""How a shadow's answers are compared with the primary's: its part of the route file. No numpy here: the gateway reads it too."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from infermesh.config import Model

__all__ = ["CompareConfig", "ThresholdConfig"]


class ThresholdConfig(Model):
    """A line that somebody acts on: rows that cross it in one answer and not in the other are counted, by direction."""

    output: str = Field(min_length=1)
    """Floating output that is looked at."""
    column: Annotated[int, Field(ge=0, le=65_535)] | Annotated[str, Field(min_length=1)] = 0
    """Column of it, as an index or as one of `classes`; 0 for an output with one value per row."""
    at: float = Field(allow_inf_nan=False)
    """A value that is at or over this is over the line."""


class CompareConfig(Model):
    """What of the answers is compared, and what counts as a difference."""

    outputs: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=32)
    """Outputs that are compared; left out: all, at most 32."""
    rtol: float = Field(1e-5, ge=0, le=1)
    """Relative tolerance of floating outputs: |shadow − primary| ≤ atol + rtol·|primary| is equal. For FP16 and BF16 at least
    two steps of the datatype."""
    atol: float = Field(1e-6, ge=0, allow_inf_nan=False)
    """Absolute tolerance, in units of the output."""
    classes: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field([], max_length=1024)
    """Names for the columns of floating outputs that have as many; left out: columns are numbers."""
    thresholds: list[ThresholdConfig] = Field([], max_length=16)
    """Lines whose crossing is counted; left out: none."""
    top_k: int = Field(3, ge=1, le=100)
    """How many of a row's largest columns are compared as a set, where there are more columns."""
    columns: int = Field(8, ge=1, le=64)
    """Columns of an output, from the first, whose distribution is watched."""
    repeat: float = Field(0.1, ge=0, le=1)
    """Share of the mirrored calls that are asked of the primary a second time: how much it differs from itself is the noise
    floor. 0: none, and the report says that it does not know."""
    worst: int = Field(32, ge=1, le=1000)
    """Disagreements that are kept, with request ids; the largest."""
    alpha: float = Field(0.05, gt=0, le=0.5)
    """Chance that a report on two equal models finds anything at all."""
    bins: int = Field(10, ge=2, le=20)
    """Bins of a distribution: quantiles of what both answered first."""
    bin_from: int = Field(500, ge=50, le=10_000)
    """Pairs that the bins are made from; before there are as many, nothing is said about distributions."""
    min_pairs: int = Field(200, ge=50)
    """Pairs before anything is judged."""
    min_repeats: int = Field(20, ge=20)
    """Repeats before anything is held against the noise floor."""

    @model_validator(mode="after")
    def _known(self) -> CompareConfig:
        faults = []
        for at, each in enumerate(self.thresholds):
            if isinstance(each.column, str) and each.column not in self.classes:
                faults.append(f"thresholds.{at}: no class {each.column}; expected an index, or one of classes")
            if self.outputs and each.output not in self.outputs:
                faults.append(f"thresholds.{at}: output {each.output} is not among outputs")
        if len(set(self.classes)) < len(self.classes):
            faults.append("classes: expected each name once")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def column_of(self, threshold: ThresholdConfig) -> int:
        """The index of a threshold's column."""
        return self.classes.index(threshold.column) if isinstance(threshold.column, str) else threshold.column

    def column_name(self, column: int, width: int) -> str:
        """What a column of an output of this width is called: its class, or its number."""
        return self.classes[column] if len(self.classes) == width else str(column)
