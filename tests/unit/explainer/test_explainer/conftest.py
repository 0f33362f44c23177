"""A model of three columns, and its explainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def model(lab: SimpleNamespace) -> Any:
    """The sum of three columns."""
    return lab.FunctionModel(
        lambda given: {"y": given["x"].sum(axis=1, keepdims=True)},
        properties={"infermesh.columns.x": ["a", "b", "c"], "infermesh.classes": ["total"]},
        versions=["1", "2"],
    )


@pytest.fixture
def service(lab: SimpleNamespace, model: Any) -> Any:
    return lab.explainer(model, {"x": np.zeros((1, 3))})
