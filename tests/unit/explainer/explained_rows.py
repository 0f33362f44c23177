"""The rows that the tests of the explainer explain, and the outputs of an explanation of them."""

from __future__ import annotations

import numpy as np

__all__ = ["OUTPUTS", "ROWS"]


OUTPUTS = {
    "attributions": ("FP64", [2, 3, 1]),
    "base_values": ("FP64", [2, 1]),
    "predictions": ("FP64", [2, 1]),
    "std_error": ("FP64", [2, 3, 1]),
    "additivity_error": ("FP64", [2, 1]),
    "feature_names": ("BYTES", [3]),
    "output_names": ("BYTES", [1]),
}
ROWS = {"x": np.arange(6.0).reshape(2, 3)}
