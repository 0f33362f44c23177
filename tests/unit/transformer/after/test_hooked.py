"""A function of the operator's own among the steps after the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.config import ConfigError
from infermesh.errors import Internal, InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.transformer.after.build import after_models
from services.transformer.config import TransformerConfig
from services.transformer.hooks import HookFault

_modules = (f"after_hook_{number}" for number in itertools.count())

MARGIN = """
import numpy as np

def made(columns):
    assert not columns["p"].flags.writeable
    return {"margin": np.abs(columns["p"][:, 0] - columns["p"][:, 1]), "p": columns["p"][:, ::-1]}
"""


@pytest.fixture
def hook_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A step with the function `made` of a module with this text."""
    monkeypatch.syspath_prepend(tmp_path)

    def hook(text: str, **given: Any) -> dict[str, Any]:
        module = next(_modules)
        (tmp_path / f"{module}.py").write_text(text)
        returns = {"margin": "FP32", "p": {"datatype": "FP32", "shape": [2]}}
        return {"hook": {"function": f"{module}:made", "outputs": ["p"], "returns": returns, **given}}

    return hook


@pytest.mark.parametrize("raw", [True, False])
async def test_what_it_returns_are_outputs(answered: Any, scores: Any, hook_of: Any, raw: bool) -> None:
    """[N] and [N, k]; one under the name of what it took is in that one's place, and later steps take both."""
    decide = {"threshold": {"of": "margin", "at": [0.5], "decisions": ["unsure", "sure"]}}

    outputs = await answered({"p": scores, "x": np.ones(3)}, hook_of(MARGIN), decide, raw=raw)

    assert list(outputs) == ["p", "x", "margin", "decision"]
    assert np.array_equal(outputs["p"], scores[:, ::-1])
    assert outputs["margin"].shape == (3,)
    assert outputs["decision"].tolist() == [b"sure", b"unsure", b"sure"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("def made(columns): raise ValueError('secret')", Internal, "^a feature hook failed$"),
        ("def made(columns): return {'margin': [1]}", Internal, "^a feature hook failed$"),
        (
            "from infermesh.errors import InvalidRequest\ndef made(columns): raise InvalidRequest('no such card')",
            InvalidRequest,
            '^model "m": no such card$',
        ),
    ],
)
async def test_a_function_that_fails(
    answered: Any, scores: Any, hook_of: Any, text: str, error: type[Exception], words: str
) -> None:
    """Its errors are INTERNAL and in the log alone, but for those that are meant for the caller."""
    with pytest.raises(error, match=words):
        await answered({"p": scores}, hook_of(text))


async def test_outputs_with_other_rows_are_not_given_to_it(answered: Any, scores: Any, hook_of: Any) -> None:
    """A function that gets three rows of one and two of another would make nonsense of them."""
    with pytest.raises(Internal, match='output "x": expected 3 rows, got'):
        await answered({"p": scores, "x": np.ones(2)}, hook_of(MARGIN, outputs=["p", "x"]))


async def test_it_is_tried_against_the_models_metadata(after_of: Any, model_of: Any, scores: Any, hook_of: Any) -> None:
    """What a model's outputs make of it is told before there is a request; once, however often it is looked at."""
    text = "calls = []\ndef made(columns):\n calls.append(1)\n return {'margin': columns['p'][:, 5], 'p': columns['p']}"
    step = hook_of(text)
    after = after_of(step)
    metadata = await model_of({"p": scores}).metadata(pb.ModelMetadataRequest(name="m"), Call())

    faults = [after.faults(metadata), after.faults(metadata)]

    assert "after.0.hook.function: " in faults[0][0]
    assert "fails on 2 rows of zeros: IndexError" in faults[0][0]
    assert faults[0] == faults[1]
    assert len(__import__(step["hook"]["function"].partition(":")[0]).calls) == 1


def test_it_is_tried_at_start_on_what_steps_before_it_make(after_of: Any, hook_of: Any) -> None:
    """The shapes of those are known without the model."""
    decide = {"threshold": {"of": "s", "at": [0.5], "decisions": ["no", "yes"], "as": "p"}}

    with pytest.raises(HookFault, match=r"after\.1\.hook\.function: .*expected the columns margin, p, got none"):
        after_of(decide, hook_of("def made(columns): return {}"))


def test_explanations_have_no_steps(tmp_path: Path) -> None:
    """A service by the name of an explainer is refused, unless explainers are models like any other."""
    (tmp_path / "features.yaml").write_text("services: {m-explainer: {after: [{drop: [x]}]}}")
    config = TransformerConfig(features=tmp_path / "features.yaml")
    plain = TransformerConfig(features=tmp_path / "features.yaml", routing={"explanations": ""})

    with pytest.raises(
        ConfigError, match=r"services\.m-explainer\.after: there are no steps on the answers of an explai"
    ):
        after_models(config, Metrics("transformer"))
    assert list(after_models(plain, Metrics("transformer"))) == ["m-explainer"]


def test_functions_that_can_not_be_loaded_are_all_told_at_start(tmp_path: Path) -> None:
    """As faults of the feature file, each with its service and step."""
    hook = "{hook: {function: 'no_such_module:f', outputs: [p], returns: {q: FP32}}}"
    text = f"services:\n  one: {{after: [{{drop: [x]}}, {hook}]}}\n  two: {{after: [{hook}]}}\n"
    (tmp_path / "features.yaml").write_text(text)
    config = TransformerConfig(features=tmp_path / "features.yaml")

    with pytest.raises(ConfigError) as refused:
        after_models(config, Metrics("transformer"))

    assert [fault.partition(": no module")[0] for fault in refused.value.faults] == [
        "services.one.after.1.hook: no_such_module:f",
        "services.two.after.0.hook: no_such_module:f",
    ]
