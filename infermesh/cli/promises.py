"""Whether a split, a shadow and an explanation are what was promised, as far as chance lets one tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from infermesh.cli.explanation import Explanation
from infermesh.cli.failure import Failure
from infermesh.cli.split import Promise

__all__ = ["check_shadows", "check_split", "check_sum", "is_chance"]

FIVE_SIGMA = 2.87e-7  # the tail of a normal distribution beyond five standard deviations, on one side
SUM_ACCURACY = 1e-6  # the terms telescope: what is left is rounding, of predictions that are FP32


def is_chance(count: int, calls: int, share: float) -> bool:
    """Whether so many of the calls may well be a fair draw: neither tail of the binomial distribution is beyond five sigma.

    The tails are summed, not taken from a normal distribution, by which even 0 of 200 would be no surprise at a share of 0.1.
    """
    at_most = math.fsum(_chance(k, calls, share) for k in range(count + 1))
    at_least = math.fsum(_chance(k, calls, share) for k in range(count, calls + 1))
    return min(at_most, at_least) > FIVE_SIGMA


def check_split(promise: Promise, counts: Mapping[str, int]) -> None:
    """Raise Failure unless the answers by each variant are a fair draw by the weights."""
    calls = sum(counts.values())
    names = {variant.name for variant in promise.variants}
    for name in sorted(counts.keys() - names):
        raise Failure(
            f"{counts[name]} calls were answered by variant {name or '(none)'}, which the route does not have"
        )
    for variant in promise.variants:
        got, share = counts.get(variant.name, 0), promise.share(variant)
        if not is_chance(got, calls, share):
            raise Failure(
                f"variant {variant.name} answered {got} of {calls} calls; "
                f"its weight promises about {calls * share:.0f}, and this is further off than chance"
            )


def check_shadows(promise: Promise, calls: int, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Raise Failure unless each shadow got its fraction of the calls, by chance, and answered some of its copies."""
    for shadow in promise.shadows:
        outcomes = counts.get(shadow.name, {})
        copies = sum(outcomes.values())
        if copies > calls or not is_chance(copies, calls, shadow.fraction):
            raise Failure(
                f"shadow {shadow.name} got {copies} copies of {calls} calls; "
                f"its fraction promises about {calls * shadow.fraction:.0f}, and this is further off than chance"
            )
        if copies and not outcomes.get("mirrored"):
            told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
            raise Failure(f"shadow {shadow.name} answered none of its {copies} copies: {told}")


def check_sum(explanation: Explanation) -> None:
    """Raise Failure unless base value and attributions add up to the prediction, for each row and output."""
    total = np.asarray(explanation.base_values, np.float64) + np.asarray(explanation.attributions, np.float64).sum(
        axis=1
    )
    off = np.abs(total - np.asarray(explanation.predictions, np.float64))
    if not np.all(off <= SUM_ACCURACY):  # also for NaN
        row, output = np.argwhere(~(off <= SUM_ACCURACY))[0].tolist()
        raise Failure(
            f"the explanation of {explanation.outputs[output]}: base value and attributions add up to "
            f"{total[row, output]:.6g}, and the prediction is {float(explanation.predictions[row, output]):.6g}"
        )


def _chance(count: int, calls: int, share: float) -> float:
    """The binomial probability."""
    if share <= 0.0 or share >= 1.0:
        return float(count == calls * (share > 0.0))
    ways = math.lgamma(calls + 1) - math.lgamma(count + 1) - math.lgamma(calls - count + 1)
    return math.exp(ways + count * math.log(share) + (calls - count) * math.log1p(-share))
