"""What a method says about the attributions, so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Floats"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Attributions [rows, players, classes] with their standard error of the same shape; 0: exact, inf: not known.

    `evaluations` counts the coalitions per row whose value was taken, none and all among them. `converged`: everything that
    was asked for was reached.
    """

    attributions: Floats
    std_error: Floats
    evaluations: int
    converged: bool
