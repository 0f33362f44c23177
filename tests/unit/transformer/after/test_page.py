"""What docs/features.md says of steps after the model, beside the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from services.transformer.after.declared import StepConfig
from services.transformer.views import FeatureFile

PAGE = (Path(__file__).parents[4] / "docs" / "features.md").read_text()
SECTION = PAGE.partition("### After the model")[2].partition("\n### ")[0]


def test_the_example_has_every_step_but_keep() -> None:
    """It can be loaded as it stands; what is kept is said as what is dropped."""
    (example,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)

    after = FeatureFile.model_validate(yaml.safe_load(example)).services["fraud-detector"].after

    assert {step.name for step in after} == set(StepConfig.model_fields) - {"keep"}


def test_the_steps_are_those_of_the_page() -> None:
    """Each has a row."""
    rows = re.findall(r"^\| (`.*?) \| ", SECTION, re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(StepConfig.model_fields)
