"""What the parts of a feature file have in common: names, sizes of values, and how faults are told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import Field, field_validator, model_validator

from infermesh.config import Model
from services.transformer.transforms.types import ColumnType, Datatype

__all__ = ["FUNCTION", "MAX_WIDTH", "NAME", "NOT_A_NAME", "Sized", "refuse", "twice"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")  # no dot and no colon: they part names in columns and keys
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
NOT_A_NAME = "expected letters, digits, _ and -, beginning with a letter or _"
MAX_WIDTH = 65_536  # elements of one row of one field


class Sized(Model):
    """A datatype, and how many values stand in each row. A text alone is the datatype."""

    datatype: Datatype
    """Datatype of each value."""
    shape: list[int] = Field(default_factory=list, max_length=1)
    """Left out: one value in a row; [k]: a vector of k."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"datatype": value} if isinstance(value, str) else value

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: list[int]) -> list[int]:
        if any(not 0 < size <= MAX_WIDTH for size in shape):
            raise ValueError(f"expected sizes from 1 to {MAX_WIDTH}")
        return shape

    @property
    def type(self) -> ColumnType:
        return ColumnType(self.datatype, self.shape[0] if self.shape else 1)


def refuse(faults: list[str]) -> None:
    """Raise a ValueError with every fault on a line of its own; without any, do nothing."""
    if faults:
        raise ValueError("\n  ".join(faults))


def twice(names: Iterable[str]) -> list[str]:
    """The names that stand more than once, sorted."""
    seen: set[str] = set()
    return sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
