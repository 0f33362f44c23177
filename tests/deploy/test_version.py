"""One version, everywhere that an image is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import infermesh

FILES = ("Dockerfile", "docker-compose.yml", "docs/deployment.md", "deploy/k8s")


@pytest.mark.parametrize("name", FILES)
def test_images_are_named_with_the_project_s_version(root: Path, project: dict[str, Any], name: str) -> None:
    """What the files and the guide call an image is what the project's version makes it."""
    place = root / name
    texts = [
        each.read_text(encoding="utf-8") for each in ([place] if place.is_file() else sorted(place.rglob("*.yaml")))
    ]

    tags = {tag for text in texts for tag in re.findall(r"\binfermesh-[a-z]+:([0-9][\w.]*)", text)}

    assert tags == {project["project"]["version"]}


def test_the_code_says_the_same_version(project: dict[str, Any]) -> None:
    """The version that a running service reports is the one of its image."""
    assert infermesh.__version__ == project["project"]["version"]
