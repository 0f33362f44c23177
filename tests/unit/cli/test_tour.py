"""What the tour shows beside what was promised."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from infermesh.cli.failure import Failure
from infermesh.cli.processes import samples_folder
from infermesh.cli.split import Promise, Shadow, Variant, read_promise
from infermesh.cli.tour import shadow_table, split_table

PROMISE = Promise((Variant("stable", "1", 9), Variant("canary", "2", 1)), (Shadow("candidate", "3", 0.5),))


def rows(view) -> list[list[str]]:
    console = Console(width=100, file=StringIO())
    console.print(view)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_split_beside_its_weights():
    """Each variant has its weight, what is to be expected of a fair draw, and what came."""
    found = rows(split_table(PROMISE, {"stable": 183, "canary": 17}))

    assert found[2][:8] == ["stable", "1", "9", "180", "±", "8", "183", "91.5%"]
    assert found[3][:8] == ["canary", "2", "1", "20", "±", "8", "17", "8.5%"]


def test_a_variant_that_nobody_promised_is_shown():
    """An answer by a variant that the route does not have is not hidden."""
    found = rows(split_table(PROMISE, {"stable": 9, "stranger": 1}))

    assert found[-1] == ["stranger", "1", "10.0%"]


def test_shadow_beside_its_fraction():
    """Copies by what became of them, beside the fraction of the calls."""
    found = rows(shadow_table(PROMISE, 200, {"candidate": {"mirrored": 97, "shed": 2}}))

    assert " ".join(found[2]) == "candidate 3 50% 100 ± 14 99 97 mirrored, 2 shed"


def test_promises_of_the_samples():
    """The tour reads variants and shadows from the file that the gateway reads."""
    promise = read_promise(samples_folder() / "config" / "routes.yaml", "fraud-detector")

    assert [(v.name, v.version) for v in promise.variants] == [("stable", "1"), ("canary", "2")]
    assert [promise.share(v) for v in promise.variants] == pytest.approx([0.9, 0.1])
    assert promise.largest == "stable"
    assert [(s.name, s.version) for s in promise.shadows] == [("candidate", "3")]


def test_a_model_without_a_route(tmp_path: Path):
    """A route file without the model is named."""
    with pytest.raises(Failure, match=r"routes\.yaml: no route for nobody"):
        read_promise(samples_folder() / "config" / "routes.yaml", "nobody")
