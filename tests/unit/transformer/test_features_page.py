"""docs/features.md beside the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from services.transformer.statuses import Status
from services.transformer.transforms import Transform
from services.transformer.transforms.steps import bucket_of
from services.transformer.views import FeatureFile

PAGE = (Path(__file__).parents[3] / "docs" / "features.md").read_text()


def test_the_example_is_a_feature_file() -> None:
    """What the page shows first can be loaded as it stands."""
    (example,) = re.findall(r"```yaml\n(views:.*?)```", PAGE, re.DOTALL)

    assert list(FeatureFile.model_validate(yaml.safe_load(example)).services) == ["fraud-detector"]


def test_the_statuses_are_those_of_the_page() -> None:
    """Numbers and names of the table are those of the code."""
    listed = re.findall(r"^\| (\d) \| ([A-Z]+) \|", PAGE, re.MULTILINE)

    assert listed == [(str(status.value), status.name) for status in Status]


def test_the_transforms_are_those_of_the_page() -> None:
    """Each transform has a row, and each row is one that can be loaded."""
    table = PAGE[PAGE.index("| transform |") : PAGE.index("Numbers are computed")]
    listed = [yaml.safe_load(text) for text in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)]

    declared = []
    for each in listed:
        if isinstance(each, dict) and "scale" in each:
            each["scale"] = {name: at + 1 for at, name in enumerate(each["scale"])}  # the page has letters
        if each == {"clip": ["low", "high"]}:
            each = {"clip": [0, 1]}
        declared.append(Transform.model_validate(each).name)
    assert set(declared) == set(Transform.model_fields)


def test_the_hash_is_that_of_the_page() -> None:
    """The bucket that the page gives is the one that a model gets."""
    ((buckets, text, bucket),) = re.findall(r"% (\d+)`; `(\w+)` is in bucket (\d+)", PAGE)

    assert bucket_of(text.encode(), int(buckets)) == int(bucket)
