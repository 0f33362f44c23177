"""The models of a route's rules: which calls get a variant, or other weights, for what they say about themselves."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from infermesh.config import Model
from services.gateway.targets import NAME, MetadataKey, Weight

__all__ = ["ParameterTest", "RuleConfig", "TextTest", "WhenConfig"]

MAX_TESTS = 16  # of one rule: each costs every call of the route that comes so far
MAX_VALUES = 256  # of `one_of`, which is a look-up by hash
MAX_TEXT = 256

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Value = StrictBool | Number | Annotated[StrictStr, Field(max_length=MAX_TEXT)]


def _in_full(value: Any) -> Any:
    """`acme` for `{exact: acme}`, `[acme, globex]` for `{one_of: [acme, globex]}`."""
    if isinstance(value, str | int | float):
        return {"exact": value}
    return {"one_of": value} if isinstance(value, list) else value


class TextTest(Model):
    """What a text has to be: one of these. A text alone stands for `exact`, a list for `one_of`."""

    exact: Text | None = None
    """The whole text."""
    prefix: Text | None = None
    """How it begins."""
    one_of: list[Text] | None = Field(None, min_length=1, max_length=MAX_VALUES)
    """Whole texts, of which it is one."""
    present: bool | None = None
    """`true`: there is one, whatever it says; `false`: there is none, or an empty one."""

    @model_validator(mode="after")
    def _one(self) -> TextTest:
        if len(self.model_fields_set) != 1 or None in (getattr(self, name) for name in self.model_fields_set):
            raise ValueError("expected exactly one of exact, prefix, one_of and present")
        return self


class ParameterTest(Model):
    """What a request parameter has to be: one of these, or bounds for a number. Kinds are never mixed: `1` is a number, `"1"` a
    text, `true` neither; the number 1 is both a whole one and one with a point. A value alone stands for `exact`, a list for
    `one_of`."""

    exact: Value | None = None
    """The value."""
    prefix: Text | None = None
    """How a text begins."""
    one_of: list[Value] | None = Field(None, min_length=1, max_length=MAX_VALUES)
    """Values, of which it is one."""
    less_than: Number | None = None
    """A number below this one."""
    at_most: Number | None = None
    """A number not above this one."""
    more_than: Number | None = None
    """A number above this one."""
    at_least: Number | None = None
    """A number not below this one."""
    present: bool | None = None
    """Whether there is one, whatever its value."""

    @model_validator(mode="after")
    def _one(self) -> ParameterTest:
        given = self.model_fields_set
        bounds = {"less_than", "at_most", "more_than", "at_least"}
        if any(getattr(self, name) is None for name in given) or not given or not (given <= bounds or len(given) == 1):
            raise ValueError("expected exactly one of exact, prefix, one_of and present, or bounds")
        if given <= bounds:
            self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        lower = [each for each in (self.more_than, self.at_least) if each is not None]
        upper = [each for each in (self.less_than, self.at_most) if each is not None]
        if len(lower) > 1 or len(upper) > 1:
            raise ValueError("expected at most one bound below and one above")
        if lower and upper and (lower[0], self.at_least is None or self.at_most is None) >= (upper[0], True):
            raise ValueError("expected bounds with a number in between")


class WhenConfig(Model):
    """What has to hold of a call, all of it."""

    tenant: Annotated[TextTest, BeforeValidator(_in_full)] | None = None
    """The caller's tenant."""
    metadata: dict[MetadataKey, Annotated[TextTest, BeforeValidator(_in_full)]] = {}
    """The call's metadata by keys in lower case, credentials and `x-infermesh-*` excepted."""
    parameters: dict[Annotated[str, Field(min_length=1)], Annotated[ParameterTest, BeforeValidator(_in_full)]] = {}
    """The request's parameters by name."""

    @model_validator(mode="after")
    def _some(self) -> WhenConfig:
        tests = len(self.metadata) + len(self.parameters) + (self.tenant is not None)
        if not tests:
            raise ValueError("expected at least one test, of tenant, metadata or parameters")
        if tests > MAX_TESTS:
            raise ValueError(f"expected at most {MAX_TESTS} tests")
        if "" in self.metadata:
            raise ValueError("expected keys of metadata, got an empty one")
        return self


class RuleConfig(Model):
    """Calls that get a variant, or other weights than the route's."""

    name: str = Field("", pattern=rf"{NAME}|^$")
    """For people: `infermesh routes show` and answers to who may debug name it."""
    when: WhenConfig
    """What has to hold of a call."""
    variant: str = ""
    """The variant that all these calls get, one of weight 0 too."""
    weights: dict[str, Weight] = {}
    """Instead: the weights by variant that count for these calls, the sticky key's as well; left out is 0."""

    @model_validator(mode="after")
    def _one(self) -> RuleConfig:
        if bool(self.variant) == bool(self.weights):
            raise ValueError("expected either variant or weights")
        total = sum(self.weights.values())
        if self.weights and not 0 < total < math.inf:
            raise ValueError("weights: expected one over 0, and a sum that is a number")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The weights by variant, where the rule names but one too."""
        return {self.variant: 1.0} if self.variant else self.weights
