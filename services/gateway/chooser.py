"""Which of a route's variants a call gets that leaves the choice to the gateway."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from services.gateway.conditions import Condition
from services.gateway.sticky import StickyKey
from services.gateway.weights import Weights

__all__ = ["Chooser", "Picked", "Rule"]


class Rule(NamedTuple):
    """Calls of which the condition holds go by these weights."""

    name: str
    condition: Condition
    weights: Weights


class Picked(NamedTuple):
    """A choice: the variant's index, what decided (`rule`, `sticky` or `weight`), and what a person may want to know."""

    at: int
    by: str
    rule: str = ""
    missed: bool = False  # it should have gone by a sticky key, and had none
    refused: bool = False  # the variant is not ready, and the route says that such calls fail


class Chooser:
    """The first rule that holds, else the route's weights; within either by the sticky key, else at random.

    It is shared by the ways to a model, to its explainer and to both under another name, so that a key gets the same variant on
    each of them.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        rules: Sequence[Rule] = (),
        sticky: StickyKey | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.weights = weights
        self.rules = tuple(rules)
        self._sticky = sticky
        self._draw = draw

    def pick(self, request: ModelInferRequest, call: Call) -> Picked:
        weights, by_rule, name = self.weights, False, ""
        for rule in self.rules:
            if rule.condition.holds(request, call):
                weights, by_rule, name = rule.weights, True, rule.name
                break
        at, by, missed = weights.only, "weight", False
        if at is None:
            if self._sticky is None:
                at = weights.at_random(self._draw())
            elif key := self._sticky.of(request, call):
                at, by = weights.of_key(key), "sticky"
            else:
                at, missed = weights.at_random(self._draw()), True
        return Picked(at, "rule" if by_rule else by, name, missed, at in weights.refused)

    def instead(self, request: ModelInferRequest, call: Call, passed: frozenset[int]) -> int | None:
        """The choice without these variants, in proportion to the others' weights, and by the sticky key where there is one; None
        where there is no other, or the route leaves the share of one that can't answer to nobody."""
        rule = next((each for each in self.rules if each.condition.holds(request, call)), None)
        weights = (rule.weights if rule else self.weights).without(passed)
        if weights is None:
            return None
        if weights.only is not None:
            return weights.only
        key = self._sticky.of(request, call) if self._sticky is not None else b""
        return weights.of_key(key) if key else weights.at_random(self._draw())

    def chances(self, request: ModelInferRequest, call: Call) -> list[float]:
        """With what probability each variant gets such a call; for people, since a call is picked for once."""
        weights = next((rule.weights for rule in self.rules if rule.condition.holds(request, call)), self.weights)
        if weights.only is None and self._sticky is not None and (key := self._sticky.of(request, call)):
            own = weights.of_key(key)
            return [float(at == own) for at in range(len(weights.names))]
        return weights.shares()
