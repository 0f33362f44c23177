"""What answers for a model when all else fails, as the route file says it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infermesh.config import Duration, Mode, Model, Size
from infermesh.names import LABEL
from services.gateway.targets import Printable, StickyConfig

__all__ = ["CachedConfig", "ConstantConfig", "FallbackConfig", "FallbackStepConfig", "OutputConfig"]

MAX_ELEMENTS = 65_536  # of a constant answer, all outputs together; by-row outputs count for one row
MAX_TEXT_BYTES = 1 << 20

_RANGES = {
    "INT8": (-(2**7), 2**7 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT8": (0, 2**8 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
}


class OutputConfig(Model):
    """One output of a constant answer."""

    name: Printable = Field(min_length=1)
    """Name of the output."""
    datatype: Literal[
        "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64", "BYTES"
    ]
    """Datatype of the protocol; FP16 and BF16, which travel as bytes alone, are not to be had."""
    shape: list[int] = Field(max_length=8)
    """Dimensions; a first one of -1 stands for the rows of the request, each of which gets the same."""
    data: list[bool | int | float | str] = Field(max_length=65_536)
    """The elements in row-major order; with a first dimension of -1 those of one row."""

    @model_validator(mode="after")
    def _fits(self) -> OutputConfig:
        fixed = self.shape[1:] if self.is_by_row else self.shape
        if any(each < 0 for each in fixed):
            raise ValueError("shape: expected -1 as the first dimension alone, and no other that is negative")
        if len(self.data) != prod(fixed):
            raise ValueError(f"data: expected {prod(fixed)} elements for the shape {self.shape}, got {len(self.data)}")
        for each in self.data:
            if fault := self._fault(each):
                raise ValueError(f"data: expected {fault} for {self.datatype}, got {each!r}")
        return self

    @property
    def is_by_row(self) -> bool:
        return bool(self.shape) and self.shape[0] == -1

    def _fault(self, value: bool | int | float | str) -> str:
        if self.datatype in ("BOOL", "BYTES"):
            kind: type = bool if self.datatype == "BOOL" else str
            if type(value) is not kind:
                return {bool: "true or false", str: "text"}[kind]
            return "text that UTF-8 can carry" if isinstance(value, str) and not _is_sendable(value) else ""
        if self.datatype in _RANGES:
            low, high = _RANGES[self.datatype]
            return "" if type(value) is int and low <= value <= high else f"whole numbers from {low} to {high}"
        if type(value) not in (int, float):
            return "numbers"
        try:
            struct.pack("<f" if self.datatype == "FP32" else "<d", value)
        except (OverflowError, struct.error):  # the latter for a whole number that no float can be
            return f"numbers that fit in {'four' if self.datatype == 'FP32' else 'eight'} bytes"
        return ""


class ConstantConfig(Model):
    """An answer that is always the same."""

    outputs: list[OutputConfig] = Field(min_length=1, max_length=256)
    """Its outputs, all that the model has; a call that asks for others is not answered by it."""

    @field_validator("outputs")
    @classmethod
    def _distinct(cls, outputs: list[OutputConfig]) -> list[OutputConfig]:
        if len({each.name for each in outputs}) < len(outputs):
            raise ValueError("expected each name once")
        if (elements := sum(len(each.data) for each in outputs)) > MAX_ELEMENTS:
            raise ValueError(f"expected at most {MAX_ELEMENTS} elements in all outputs together, got {elements}")
        texts = sum(len(text.encode()) for each in outputs for text in each.data if isinstance(text, str))
        if texts > MAX_TEXT_BYTES:
            raise ValueError(f"expected at most {MAX_TEXT_BYTES} bytes of text in all outputs together, got {texts}")
        return outputs


def _is_sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, by an escape in the file
        return False
    return True


class CachedConfig(Model):
    """The last answer that was given to the same question."""

    by: Literal["request", "sticky"] = "request"
    """What makes a question the same, besides the tenant: `request`, all of the message but its id; `sticky`, the last
    answer for this entity: the route's sticky key with all of the message but the values of its inputs. It is for requests
    of exactly one row, and others are not kept; the key may not be the tenant, which is many entities."""
    max_age: Duration = Field("5m", gt=0)  # type: ignore[assignment]
    """Older answers are not given."""
    max_bytes: Size = Field("16MiB", ge=1024, le=2**30)  # type: ignore[assignment]
    """Memory of the answers; the one that was asked for longest ago goes first."""
    max_entry: Size = Field("256KiB", ge=64)  # type: ignore[assignment]
    """Larger requests and answers are not kept."""


class FallbackStepConfig(Model):
    """One thing to try: exactly one of variant, model, cached and constant."""

    variant: str = ""
    """A variant of the route, by its name; its weight may be 0."""
    model: Printable = ""
    """Another model, by its name at the backend."""
    backend: str = ""
    """With `model`: the backend that has it; left out: the route's."""
    version: Annotated[
        str,
        BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
        Field(pattern=rf"^(0|[1-9][0-9]{{0,17}}|{LABEL})?$"),
    ] = ""
    """With `model`: the version that is asked for, or the label of one; left out: the backend's own choice."""
    cached: CachedConfig | None = None
    """An answer that was given before; `{}` for one by the defaults."""
    constant: ConstantConfig | None = None
    """An answer that stands here."""

    @model_validator(mode="after")
    def _one(self) -> FallbackStepConfig:
        if sum((bool(self.variant), bool(self.model), self.cached is not None, self.constant is not None)) != 1:
            raise ValueError("expected exactly one of variant, model, cached and constant")
        if (self.backend or self.version) and not self.model:
            raise ValueError("backend and version go with `model`")
        return self


class FallbackConfig(Model):
    """What answers when the variant that was picked can't: it is away, defect, overloaded or too slow.

    Never for a fault of the caller, when no time is left, or for a call that names a version or a variant.
    """

    mode: Mode = "enforce"
    """`observe` counts the calls that would need it, and tells their errors."""
    steps: list[FallbackStepConfig] = Field(min_length=1, max_length=8)
    """What is tried, in this order; the answer says which it was in the parameter `infermesh_fallback`."""
    reserve: Duration = "20ms"  # type: ignore[assignment]
    """What is kept back of the call's time for the steps, when it has more than twice as much."""

    @property
    def backends(self) -> set[str]:
        """Every backend that its steps name."""
        return {step.backend for step in self.steps} - {""}

    def faults(
        self, variants: Mapping[str, tuple[str, str, str]], *, backend: str, sticky: StickyConfig | None
    ) -> list[str]:
        """What is wrong with it in a route of these variants (their backend, model and version by name), with this backend and
        sticky key."""
        faults = []
        for at, step in enumerate(self.steps):
            if step.variant and step.variant not in variants:
                faults.append(f"fallback.steps.{at}: no variant {step.variant}, the route has {', '.join(variants)}")
            if step.model and not (step.backend or backend):
                faults.append(f"fallback.steps.{at}: expected a backend, of the step or of the route")
            same = [
                name for name, each in variants.items() if each == (step.backend or backend, step.model, step.version)
            ]
            if step.model and same:
                faults.append(
                    f"fallback.steps.{at}: {step.model} is what the variant {same[0]} asks: it would be asked again"
                )
            if step.cached is not None and step.cached.by == "sticky":
                if sticky is None:
                    faults.append(f"fallback.steps.{at}: cached by sticky: the route has no sticky key")
                elif sticky.tenant:
                    faults.append(
                        f"fallback.steps.{at}: cached by sticky: a tenant is no entity, one would get another's answer"
                    )
        return faults
