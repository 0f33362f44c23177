"""Transforms as a feature file declares them: one word, or one word and what it needs."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from infermesh.config import Model
from services.transformer.transforms.types import Datatype

__all__ = ["HourOfDay", "OneHot", "Scale", "Transform"]

BARE = ("log1p", "hour_of_day")  # those that need nothing more


class Scale(Model):
    """By `mean` and `std`: (x - mean) / std; or by `min` and `max`: (x - min) / (max - min). A list: a number for each column."""

    mean: float | list[float] | None = None
    """Subtracted."""
    std: float | list[float] | None = None
    """Divided by; not 0."""
    min: float | list[float] | None = None
    """Becomes 0."""
    max: float | list[float] | None = None
    """Becomes 1; above `min`."""

    @model_validator(mode="after")
    def _whole(self) -> Scale:
        given = {name for name in ("mean", "std", "min", "max") if getattr(self, name) is not None}
        if given not in ({"mean", "std"}, {"min", "max"}):
            raise ValueError("scale: expected mean and std, or min and max")
        shift, scale = self.shift_and_scale()
        if len(shift) != len(scale) and 1 not in (len(shift), len(scale)):
            raise ValueError("scale: the lists differ in length")
        if not all(map(math.isfinite, [*shift, *scale])):
            raise ValueError("scale: expected finite numbers")
        if any(each == 0 for each in scale) or (self.mean is None and any(each < 0 for each in scale)):
            raise ValueError("scale: std must not be 0, and max must be above min")
        return self

    def shift_and_scale(self) -> tuple[list[float], list[float]]:
        """What is subtracted, and what is divided by then."""
        if self.mean is not None and self.std is not None:
            return _listed(self.mean), _listed(self.std)
        low, high = _listed(self.min or 0.0), _listed(self.max or 0.0)
        width = max(len(low), len(high))
        low, high = (each * width if len(each) == 1 else each for each in (low, high))
        return low, [b - a for a, b in zip(low, high, strict=False)]


class OneHot(Model):
    """A column for each of the values, 1 where it is that value and 0 elsewhere."""

    values: list[StrictInt | str] = Field(min_length=1, max_length=4096)
    """The values, in the order of the columns; texts for BYTES, numbers for integers."""
    unknown: Literal["zeros", "column", "fail"] = "zeros"
    """Any other value: zeros in all columns; 1 in a further column, the last; or an error."""

    @field_validator("values")
    @classmethod
    def _once(cls, values: list[int | str]) -> list[int | str]:
        if len(set(values)) != len(values):
            raise ValueError("a value stands twice")
        if len({type(value) for value in values}) > 1:
            raise ValueError("expected texts or whole numbers, not both")
        return values


class HourOfDay(Model):
    """The hour, 0 to 23, at a point in time that is given since 1970-01-01T00:00:00Z."""

    timezone: str = "UTC"
    """Whose clocks: a name of the time zone database, such as `Europe/Berlin`."""
    unit: Literal["s", "ms", "us"] = "s"
    """What the points in time are counted in."""


class Transform(Model):
    """One step; exactly one of these."""

    log1p: Literal[True] | None = None
    """log(1 + x); NaN below -1."""
    clip: tuple[float | None, float | None] | None = None
    """[low, high]; null: no bound on this side."""
    scale: Scale | None = None
    """Shifted and scaled."""
    one_hot: OneHot | None = None
    """One column for each value; a list alone gives the values."""
    bucketise: list[float] | None = Field(None, min_length=1, max_length=4096)
    """Rising bounds: how many of them are at or below x, from 0 on; NaN is past the last one."""
    hash: int | None = Field(None, ge=2, le=2**31)
    """Number of buckets: BLAKE2b with a digest of 8 bytes, read little-endian, modulo this; an integer as its decimal text."""
    hour_of_day: HourOfDay | None = None
    """Hour of the day; a text alone gives the time zone."""
    cast: Datatype | None = None
    """Another datatype; floats are cut towards zero, and what an integer datatype can't hold is an error."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in BARE:
                known = ", ".join(cls.model_fields)
                raise ValueError(f'"{value}": expected {" or ".join(BARE)}, or one of {known} with what it needs')
            return {value: True if value == "log1p" else {}}
        if isinstance(value, dict):
            value = dict(value)
            if isinstance(value.get("one_hot"), list):
                value["one_hot"] = {"values": value["one_hot"]}
            if isinstance(value.get("hour_of_day"), str):
                value["hour_of_day"] = {"timezone": value["hour_of_day"]}
        return value

    @model_validator(mode="after")
    def _one(self) -> Transform:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(type(self).model_fields)}, got {', '.join(given) or 'none'}")
        if self.clip is not None:
            low, high = self.clip
            if (low is None and high is None) or (low is not None and high is not None and not low <= high):
                raise ValueError("clip: expected [low, high], at least one of them, low not above high")
        if self.bucketise is not None and not all(
            a < b for a, b in zip(self.bucketise, self.bucketise[1:], strict=False)
        ):
            raise ValueError("bucketise: expected bounds that rise")
        return self

    @property
    def name(self) -> str:
        """Which of them it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


def _listed(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]
