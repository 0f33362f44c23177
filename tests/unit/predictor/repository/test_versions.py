"""Which versions are loaded, and what labels stand for."""

from __future__ import annotations

import pytest

from services.predictor.model_config import VersionPolicy
from services.predictor.repository.versions import plan, point


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), (2, 9, 10)),
        (VersionPolicy(latest=1), (10,)),
        (VersionPolicy(latest=2), (9, 10)),
        (VersionPolicy(latest=9), (2, 9, 10)),
        (VersionPolicy(specific=[10, 2]), (2, 10)),
    ],
)
def test_the_policy_chooses_by_number(policy: VersionPolicy, wanted: tuple[int, ...]) -> None:
    """All, the newest by number, or those that are named; the oldest first, whatever the names sort like."""
    chosen = plan("m", ["10", "2", "9"], policy)

    assert chosen.wanted == wanted
    assert chosen.left_out == {2, 9, 10} - set(wanted)
    assert chosen.reasons == {}


def test_a_version_that_the_policy_names_and_is_not_there_is_told() -> None:
    """A specific version without a folder has its reason; the others are chosen all the same."""
    chosen = plan("m", ["1"], VersionPolicy(specific=[1, 4]))

    assert chosen.wanted == (1,)
    assert chosen.reasons == {"4": "versions.specific of config.yaml names it, and there is no folder m/4/"}


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("stable", "is a number"),
        ("1.0", "is a number"),
        ("-1", "is a number"),
        ("٣", "is a number"),
        ("01", "without zeros before it: 1"),
        ("00", "without zeros before it: 0"),
        ("9" * 19, "at most 18 digits"),
        ("0" * 30 + "7", "without zeros before it: 7"),
    ],
)
def test_a_folder_that_is_no_version_is_told(folder: str, reason: str) -> None:
    """Two spellings of one number can't both be there, so there is one spelling; what breaks it has a reason that says how."""
    chosen = plan("m", ["1", folder], VersionPolicy())

    assert chosen.wanted == (1,)
    assert list(chosen.reasons) == [folder]
    assert reason in chosen.reasons[folder]


def test_a_model_without_a_version_is_told() -> None:
    """An empty folder, or none, has one reason for the model."""
    assert plan("m", [], VersionPolicy()).reasons == {"": "no version folder in m/"}


def test_labels_point_to_loaded_versions() -> None:
    """A label that names a version that is loaded points to it."""
    assert point({"stable": 1, "canary": 2}, {1, 2}, {}) == ({"stable": 1, "canary": 2}, {})


def test_a_label_does_not_move_to_a_version_that_is_not_loaded() -> None:
    """It stays where it was while that is loaded; else it stands for nothing. The version that it names says so."""
    labels, reasons = point({"stable": 3, "canary": 3, "old": 2}, {1}, {"stable": 1, "old": 5}, left_out={2})

    assert labels == {"stable": 1}
    assert reasons == {
        3: "label stable is to point to this version, which is not loaded; it stays at version 1; "
        "label canary is to point to this version, which is not loaded",
        2: "label old is to point to this version, which the version policy leaves out",
    }


def test_a_label_that_is_no_longer_declared_is_gone() -> None:
    """Where a label was does not matter when the configuration has it no more."""
    assert point({}, {1}, {"stable": 1}) == ({}, {})
