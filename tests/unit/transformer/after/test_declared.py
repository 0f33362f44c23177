"""Files whose steps can't be done: every fault at once, each with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.transformer.views import FeatureFile

AT: dict[str, Any] = {"of": "p", "at": [0.5], "decisions": ["no", "yes"]}
ISO = {"x": [0.0, 1.0], "y": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({}, "expected one of classes, threshold, calibrate, top_k, rename, drop, keep, hook, got none"),
        ({"drop": ["a"], "keep": ["b"]}, "got drop, keep"),
        ({"shrink": 1}, "shrink"),
        ({"drop": ["a", "a"]}, 'drop: "a" stands twice'),
        ({"drop": []}, "after.0.drop"),
        ({"rename": {"a": "c", "b": "c"}}, 'rename: "c" is the new name of more than one'),
        ({"rename": {"a": ""}}, "after.0.rename"),
        ({"rename": {"a": "infermesh_x"}}, 'rename: "infermesh_x" begins with infermesh_'),
        ({"classes": {"of": "a", "names": ["x", "x"]}}, '"x" stands twice'),
        ({"threshold": {**AT, "at": [0.5, 0.5]}}, "at: expected finite numbers that rise"),
        ({"threshold": {**AT, "at": [float("nan")]}}, "at: expected finite numbers that rise"),
        ({"threshold": {**AT, "decisions": ["a", "b", "c"]}}, "decisions: expected 2, one more than thresholds, got 3"),
        ({"threshold": {**AT, "decisions": [True, False]}}, "after.0.threshold.decisions"),
        ({"threshold": {**AT, "column": -1}}, "expected an index from 0"),
        ({"threshold": {**AT, "column": True}}, "after.0.threshold.column"),
        ({"threshold": {**AT, "column": "z", "names": ["a"]}}, 'column: "z" is none of the names'),
        ({"threshold": {**AT, "names": ["a"]}}, "names: says nothing without the name of a column"),
        ({"calibrate": {"of": "p"}}, "expected one of platt, isotonic"),
        ({"calibrate": {"of": "p", "isotonic": ISO, "platt": {"a": 1, "b": 0}}}, "expected one of platt, isotonic"),
        ({"calibrate": {"of": "p", "platt": {"a": 0, "b": 0}}}, "expected finite numbers, a not 0"),
        ({"calibrate": {"of": "p", "platt": {"a": float("inf"), "b": 0}}}, "expected finite numbers, a not 0"),
        ({"calibrate": {"of": "p", "isotonic": {"x": [1, 0], "y": [0, 1]}}}, "x: expected finite numbers that rise"),
        (
            {"calibrate": {"of": "p", "isotonic": {"x": [0, 1], "y": [1, 0]}}},
            "y: expected numbers from 0 to 1 that never",
        ),
        (
            {"calibrate": {"of": "p", "isotonic": {"x": [0, 1], "y": [0, 2]}}},
            "y: expected numbers from 0 to 1 that never",
        ),
        ({"calibrate": {"of": "p", "isotonic": {"x": [0, 1], "y": [0]}}}, "y: expected 2 numbers, as many as x, got 1"),
        ({"calibrate": {"of": "p", "isotonic": {"x": [0, 5e-324], "y": [0, 1]}}}, "neither so far apart nor so close"),
        ({"top_k": {"of": "p", "k": 0}}, "after.0.top_k.k"),
        ({"top_k": {"of": "p", "k": 3, "names": ["a", "b"]}}, "k: 3 of 2 names"),
        ({"top_k": {"of": "p", "k": 1, "values": "v", "classes": "v"}}, 'classes: values is "v" too'),
        ({"hook": {"function": "f", "outputs": ["p"], "returns": {"q": "FP32"}}}, 'expected module:function, got "f"'),
        ({"hook": {"function": "m:f", "outputs": ["p", "p"], "returns": {"q": "FP32"}}}, 'outputs: "p": stands twice'),
        ({"hook": {"function": "m:f", "outputs": ["p"], "returns": {"q": "FP31"}}}, "after.0.hook.returns.q"),
    ],
)
def test_a_step_that_says_nothing_that_can_be_done(faults_of: Any, step: dict[str, Any], words: str) -> None:
    """What is wrong with a step in itself."""
    assert words in faults_of(step)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [{"drop": ["p"]}, {"threshold": AT}],
            'services.m.after.1.threshold.of: "p" is no more: after.0.drop took it away',
        ),
        (
            [{"keep": ["x"]}, {"threshold": AT}],
            'services.m.after.1.threshold.of: "p" is no more: after.0.keep does not keep it',
        ),
        (
            [{"rename": {"p": "q"}}, {"classes": {"of": "p"}}],
            'services.m.after.1.classes.of: "p" is no more: after.0.rename took it away',
        ),
        (
            [{"threshold": AT}, {"threshold": AT}],
            'services.m.after.1.threshold.as: there is an output "decision" already',
        ),
        ([{"threshold": {**AT, "as": "p"}}], 'services.m.after.0.threshold.as: there is an output "p" already'),
        ([{"threshold": AT}, {"rename": {"p": "decision"}}], 'after.1.rename: there is an output "decision" already'),
        (
            [{"threshold": AT}, {"calibrate": {"of": "decision", "isotonic": ISO}}],
            'services.m.after.1.calibrate.of: "decision" is BYTES; expected FP16, BF16, FP32, FP64',
        ),
        (
            [{"top_k": {"of": "p", "k": 2}}, {"threshold": {**AT, "of": "top_values"}}],
            "services.m.after.1.threshold.column: which of 2 columns is meant?",
        ),
        (
            [{"top_k": {"of": "p", "k": 2}}, {"threshold": {**AT, "of": "top_values", "column": 2}}],
            "services.m.after.1.threshold.column: 2 of 2 columns, from 0 on",
        ),
        (
            [{"top_k": {"of": "p", "k": 2}}, {"top_k": {"of": "top_values", "k": 3, "values": "v", "classes": "c"}}],
            'services.m.after.1.top_k.k: 3 of 2 columns of "top_values"',
        ),
        (
            [{"top_k": {"of": "p", "k": 2}}, {"classes": {"of": "top_values", "names": ["a", "b", "c"]}}],
            "services.m.after.1.classes.names: 3 names for 2 classes",
        ),
    ],
)
def test_steps_that_can_not_follow_each_other(faults_of: Any, steps: list[Any], expected: str) -> None:
    """Names, datatypes and widths as steps before leave them, whatever the model is."""
    assert expected in faults_of(*steps)


def test_all_faults_are_told_at_once(faults_of: Any) -> None:
    """Of several steps, one line each."""
    said = faults_of({"drop": ["p"]}, {"threshold": AT}, {"classes": {"of": "p", "as": "c"}}, {"keep": ["q", "p"]})

    assert [place for place in ("after.1.threshold.of", "after.2.classes.of", "after.3.keep:") if place in said] == [
        "after.1.threshold.of",
        "after.2.classes.of",
        "after.3.keep:",
    ]


def test_a_service_needs_inputs_or_steps() -> None:
    """One that has neither says nothing; with steps alone it may say `inputs: {}` or leave them out."""
    for service in ({"inputs": {}}, {}):
        with pytest.raises(
            ValidationError, match=r"services\.m\.inputs: expected one or more, or steps after the model"
        ):
            FeatureFile.model_validate({"services": {"m": service}})
        FeatureFile.model_validate({"services": {"m": {**service, "after": [{"drop": ["x"]}]}}})


def test_what_is_written_of_a_file_can_be_read_again() -> None:
    """`features apply` keeps services as they are dumped, and compares them so."""
    steps = [
        {"classes": {"of": "p", "as": "c"}},
        {"threshold": {**AT, "as": "d"}},
        {"calibrate": {"of": "p", "as": "q"}},
    ]
    steps[2]["calibrate"]["isotonic"] = ISO
    file = FeatureFile.model_validate({"services": {"m": {"after": steps}}})

    dumped = file.model_dump(mode="json", exclude_defaults=True)

    assert dumped["services"]["m"]["after"] == steps
    assert FeatureFile.model_validate(dumped) == file


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.sampled_from(["", "p", "q", "model"]))
WORDS = """classes threshold calibrate top_k rename drop keep hook of names as column at decisions platt isotonic a b x y k
values function outputs returns p q"""
KEYS = st.sampled_from(WORDS.split())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(ANYTHING)
def test_no_file_does_anything_but_load_or_be_refused(after: Any) -> None:
    """Whatever stands there: a ValidationError with the place, or steps; never another error."""
    text = yaml.safe_dump({"services": {"m": {"after": after}}})

    try:
        file = FeatureFile.model_validate(yaml.safe_load(text))
    except ValidationError as refused:
        assert "services.m" in ".".join(str(part) for part in refused.errors()[0]["loc"]) + str(refused)
    else:
        assert file.services["m"].after
