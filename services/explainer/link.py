"""The scale on which an answer is explained."""

from __future__ import annotations

from typing import Literal

import numpy as np

from infermesh.errors import FailedPrecondition, quoted
from services.explainer.estimate import Floats

__all__ = ["LINKS", "Link", "linked"]

Link = Literal["identity", "logit"]
LINKS: tuple[Link, ...] = ("identity", "logit")


def linked(values: Floats, link: Link, model: str, output: str) -> Floats:
    """Mean answers on the scale of the link: `logit` is ln(p / (1 − p)).

    The link is applied to the mean over the background and not to each answer, as shap's KernelExplainer does it: the mean of
    log-odds is infinite as soon as one background row is certain. Raises FailedPrecondition where a mean is not between 0 and 1;
    it is not moved there, since the attributions would then be those of the bound that somebody chose.
    """
    if link == "identity":
        return values
    outside = ~((values > 0) & (values < 1))
    if outside.any():
        raise FailedPrecondition(
            f'model {quoted(model)}: output {quoted(output)}: link "logit" takes mean answers above 0 and below 1, got '
            f'{float(values[outside].flat[0])!r}; explain it with link "identity"',
            reason="OUTPUT_NOT_PROBABILITY",
        )
    odds: Floats = np.log(values) - np.log1p(-values)
    return odds
