"""docs/explanations.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from services.explainer.answer import NAMED_ONLY, OUTPUTS
from services.explainer.config import ExplainerConfig
from services.explainer.parameters import METHODS, Parameters

PAGE = (Path(__file__).parents[3] / "docs" / "explanations.md").read_text(encoding="utf-8")


def test_every_output_is_described_with_its_datatype_and_shape() -> None:
    """In the order in which they come."""
    rows = re.findall(r"^\| `(\w+)` \| (FP64|BYTES) \| \[([NMKR, ]+)\] \|", PAGE, re.MULTILINE)

    described = [(name, datatype, shape.replace(", ", "")) for name, datatype, shape in rows]
    assert described == [*map(tuple, (*OUTPUTS, *NAMED_ONLY))]


def test_every_parameter_and_method_is_described() -> None:
    """None is left out, and none is made up."""
    table = PAGE.split("| parameter | type | meaning |")[1].split("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Parameters.__slots__)
    for method in METHODS:
        assert f"**{method}**" in PAGE


def test_every_setting_that_is_named_exists() -> None:
    """`part.setting` as in the configuration file."""
    named = set(re.findall(r"`(backgrounds|methods|models|asking|limits|deadline|retry|server)\.(\w+)", PAGE))

    assert named
    for part, setting in named:
        fields = ExplainerConfig.model_fields[part].annotation.model_fields
        assert setting in fields, f"{part}.{setting}"
