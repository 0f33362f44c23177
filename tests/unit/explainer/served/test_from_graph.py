"""Attributions out of the model's own file, beside what the served model answers."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, FailedPrecondition
from services.explainer.methods import from_graph as module


@pytest.mark.parametrize(
    ("model", "version", "method"), [("fraud-detector", "1", "linear"), ("fraud-detector", "2", "tree")]
)
async def test_the_margin_is_explained_and_is_that_of_the_model(
    served: SimpleNamespace, model: str, version: str, method: str
) -> None:
    """Predictions are the log-odds of what the model answers, attributions add up to them, and nothing but the rows and the
    background was asked for."""
    service = await served.explainer(served.models)

    margin = await served.explain(service, model, version, method=method)
    plain = await served.explain(service, model, version, method="kernel", max_evals=100)

    assert margin.parameters["infermesh_method"] == method
    assert margin.parameters["infermesh_link"] == "logit"
    assert margin.parameters["infermesh_feature_perturbation"] == "interventional"
    assert margin.parameters["infermesh_rows_sent"] == 103
    assert margin.parameters["infermesh_evaluations"] == 2
    assert margin.parameters["infermesh_converged"] is True
    assert 1 / (1 + np.exp(-margin.predictions)) == pytest.approx(plain.predictions, abs=1e-5)
    assert margin.additivity_error.max() <= 1e-9 * np.abs(margin.attributions).sum(axis=1).max()
    assert not margin.std_error.any()
    assert margin.attributions.shape == (3, 12, 2)
    assert margin.attributions[:, :, 0] == pytest.approx(-margin.attributions[:, :, 1], abs=1e-9)


async def test_trees_and_all_coalitions_say_the_same_where_the_margin_is_the_answer(served: SimpleNamespace) -> None:
    """A forest's mean vote, by its nodes and by 16 coalitions, within an FP32's rounding; with groups, too."""
    service = await served.explainer(served.models)

    for groups in ("none", "inputs", '{"sepal": [0, 1]}'):
        tree = await served.explain(service, "iris", "2", groups=groups)
        exact = await served.explain(service, "iris", "2", groups=groups, method="exact")

        assert tree.parameters["infermesh_method"] == "tree"
        assert tree.parameters["infermesh_link"] == "identity"
        assert tree.attributions == pytest.approx(exact.attributions, abs=1e-5)
        assert tree.base_values == pytest.approx(exact.base_values, abs=1e-5)
        assert tree.feature_names.tolist() == exact.feature_names.tolist()


async def test_classes_pick_columns_of_the_margin(served: SimpleNamespace) -> None:
    """As of any other answer."""
    service = await served.explainer(served.models)

    both = await served.explain(service, "fraud-detector", "2", method="tree")
    one = await served.explain(service, "fraud-detector", "2", method="tree", classes="fraud")

    assert one.output_names.tolist() == [b"fraud"]
    assert one.attributions[:, :, 0].tolist() == both.attributions[:, :, 1].tolist()
    assert one.base_values.shape == one.predictions.shape == (3, 1)


async def test_path_dependent_attributions_tell_where_their_covers_are_from(served: SimpleNamespace) -> None:
    """Other base values and attributions than the interventional ones, which add up all the same."""
    service = await served.explainer(served.models)

    paths = await served.explain(
        service, "fraud-detector", "2", method="tree", feature_perturbation="tree_path_dependent"
    )
    rows = await served.explain(service, "fraud-detector", "2", method="tree")

    assert paths.parameters["infermesh_feature_perturbation"] == "tree_path_dependent"
    assert paths.parameters["infermesh_covers"] in ("graph", "background")
    assert "infermesh_covers" not in rows.parameters
    assert paths.additivity_error.max() < 1e-9
    assert np.abs(paths.attributions - rows.attributions).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "version", "asked", "method"),
    [
        ("iris", "2", {}, "tree"),
        ("iris", "1", {}, "exact"),
        ("fraud-detector", "2", {"max_evals": 100}, "kernel"),
        ("fraud-detector", "2", {"link": "logit"}, "tree"),
        ("fraud-detector", "1", {"link": "logit"}, "linear"),
        ("breast-cancer", "1", {"max_evals": 60}, "permutation"),
        ("breast-cancer", "1", {"link": "logit"}, "linear"),
    ],
)
async def test_auto_takes_the_graph_where_it_tells_what_is_asked(
    served: SimpleNamespace, model: str, version: str, asked: dict[str, Any], method: str
) -> None:
    """That is the output itself, or its log-odds where those are asked for; otherwise it goes by features and evaluations."""
    service = await served.explainer(served.models)

    answer = await served.explain(service, model, version, 1, **asked)

    assert answer.parameters["infermesh_method"] == method


@pytest.mark.parametrize(
    ("model", "version", "asked", "said"),
    [
        ("fraud-detector", "1", {"method": "tree"}, 'method "tree" can\'t be used: the graph is a linear model'),
        ("fraud-detector", "2", {"method": "linear"}, "the graph is an ensemble of trees"),
        (
            "fraud-detector",
            "2",
            {"method": "tree", "link": "identity"},
            'tells attributions on the scale of link "logit", not of "identity"',
        ),
        ("iris", "2", {"method": "tree", "link": "logit"}, 'on the scale of link "identity", not of "logit"'),
    ],
)
async def test_a_graph_that_tells_something_else_is_refused_with_the_reason(
    served: SimpleNamespace, model: str, version: str, asked: dict[str, Any], said: str
) -> None:
    """FAILED_PRECONDITION with a reason of its own."""
    service = await served.explainer(served.models)

    with pytest.raises(FailedPrecondition) as refused:
        await served.explain(service, model, version, **asked)

    assert said in refused.value.message
    assert refused.value.reason == "GRAPH_NOT_USABLE"


async def test_without_files_trees_are_refused_and_auto_does_without(served: SimpleNamespace, tmp_path: Path) -> None:
    """No root, no file, and a file that is no model: each is told."""
    (tmp_path / "iris" / "2").mkdir(parents=True)
    (tmp_path / "iris" / "2" / "model.onnx").write_bytes(b"no model")
    for root, model, said in (
        (None, "iris", "let its setting models.root name the predictor's repository"),
        (tmp_path, "fraud-detector", "fraud-detector/2/model.onnx: there is no such file"),
        (tmp_path, "iris", "iris/2/model.onnx: "),
    ):
        service = await served.explainer(root)

        with pytest.raises(FailedPrecondition, match=f'method "tree" can\'t be used: .*{said}'):
            await served.explain(service, model, "2", method="tree")
        auto = await served.explain(service, model, "2", 1, max_evals=100)
        assert auto.parameters["infermesh_method"] in ("exact", "kernel")


async def test_a_file_that_is_not_what_is_served_is_found_out(served: SimpleNamespace, tmp_path: Path) -> None:
    """The graph of version 3 under the name of version 2 answers something else than version 2: refused, and `auto` samples."""
    (tmp_path / "fraud-detector").mkdir()
    shutil.copytree(served.models / "fraud-detector" / "3", tmp_path / "fraud-detector" / "2")
    service = await served.explainer(tmp_path)

    with pytest.raises(FailedPrecondition, match="is not the model that is served: it answers up to 0") as refused:
        await served.explain(service, "fraud-detector", "2", method="tree")
    auto = await served.explain(service, "fraud-detector", "2", link="logit", max_evals=100)

    assert refused.value.reason == "GRAPH_IS_ANOTHER_MODEL"
    assert auto.parameters["infermesh_method"] == "kernel"


async def test_cancelling_and_the_deadline_end_the_arithmetic(
    served: SimpleNamespace, lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its next piece; the thread is free again."""
    service = await served.explainer(served.models)
    began, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def endless(*args: Any, between: Any, **kwargs: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        try:
            while True:
                between()
        finally:
            ended.set()

    monkeypatch.setattr(module, "tree_values", endless)
    request = lab.request_of(served.golden("fraud-detector", "2"), model="fraud-detector", method="tree")
    request.model_version = "2"
    work = asyncio.create_task(service.infer(request, Call(deadline=Deadline.after(60))))
    async with asyncio.timeout(30):
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await asyncio.to_thread(ended.wait, 30)

        ended.clear()
        with pytest.raises(DeadlineExceeded, match="the deadline passed while its graph was explained"):
            await service.infer(request, Call(deadline=Deadline.after(0.3)))
        assert ended.is_set()
