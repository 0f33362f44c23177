"""Tests of the settings of a comparison."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from services.gateway.compare_config import CompareConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"thresholds": [{"output": "p", "column": "fraud", "at": 0.5}]}, "no class fraud; expected an index"),
        ({"outputs": ["p"], "thresholds": [{"output": "q", "at": 0.5}]}, "output q is not among outputs"),
        ({"classes": ["a", "a"]}, "expected each name once"),
        ({"repeat": 1.5}, "less than or equal to 1"),
        ({"rtol": float("nan")}, "less than or equal to 1"),
        ({"atol": float("inf")}, "finite number"),
        ({"thresholds": [{"output": "p", "at": float("nan")}]}, "finite number"),
        ({"min_pairs": 10}, "greater than or equal to 50"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    """With the reason."""
    with pytest.raises(ValidationError, match=words):
        CompareConfig(**settings)


def test_a_column_goes_by_its_class_where_widths_agree() -> None:
    """Names are those of outputs with as many columns; other outputs have numbers."""
    config = CompareConfig(classes=["genuine", "fraud"])

    assert (config.column_name(1, 2), config.column_name(1, 3)) == ("fraud", "1")


def test_the_settings_need_no_numpy() -> None:
    """The gateway's own configuration reads them, and its process has no tensors."""
    code = "import sys, services.gateway.compare_config; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
