"""A file that is not the model that is served is found out by the rows and by the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.errors import FailedPrecondition
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import ExplainerConfig
from services.explainer.explainer import Explainer
from services.explainer.graph import ModelGraph
from services.explainer.tree.decide import scores
from tests.unit.explainer.tree.random_trees import Leaf, Split, draw_tree, regressor

BACKGROUND = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
Explain = Callable[..., Any]


def linear(weights: list[float], intercept: float = 0.0, link: str = "Identity") -> bytes:
    """An ONNX file of x · weights + intercept, through a link."""
    nodes = [
        helper.make_node(
            "LinearRegressor", ["x"], ["s"], domain="ai.onnx.ml", coefficients=weights, intercepts=[intercept]
        ),
        helper.make_node(link, ["s"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(weights)])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)).SerializeToString())


def dot(*weights: float, intercept: float = 0.0) -> Callable[[Any], Any]:
    return lambda x: x @ np.array(weights)[:, None] + intercept


def sigmoid(margin: Any) -> Any:
    """As ONNX Runtime has it in FP32, where the small one of p and 1 - p is 1 less the other one."""
    large = (1 / (1 + np.exp(-np.abs(margin)))).astype(np.float32)
    return np.where(margin < 0, np.float32(1) - large, large)


@pytest.fixture
def explain(lab: SimpleNamespace) -> Iterator[Explain]:
    """One explanation of a row by a served function of x and the file of its model."""
    made: list[Explainer] = []

    async def one(
        served: Callable[[Any], Any], file: bytes, row: Any, background: Any = BACKGROUND, **asked: Any
    ) -> Any:
        lab.folder.mkdir(exist_ok=True)
        (lab.folder / "model.json").write_text(lab.oip_json({"x": background}))
        graph = ModelGraph.read(file)

        async def graphs(model: str, version: str, output: str) -> ModelGraph:
            return graph

        backend = lab.FunctionModel(
            lambda given: {"y": np.asarray(served(given["x"]), np.float32)},
            (("x", "FP32", (-1, 3)),),
            (("y", "FP32", (-1, 1)),),
        )
        config = ExplainerConfig.model_validate({"backgrounds": {"root": lab.folder}})
        made.append(Explainer(backend, Backgrounds(config.backgrounds), config, graphs=graphs))
        request = lab.request_of({"x": np.array(row, np.float32, ndmin=2)}, **asked)
        return lab.Explained(await made[-1].infer(request, Call()))

    yield one
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("served", "file", "row", "link"),
    [
        pytest.param(dot(1, 2, 3), linear([3, 2, 1]), [1, 1, 1], "identity", id="equal at the row"),
        pytest.param(
            lambda x: sigmoid(dot(5, 0, 0, intercept=-14)(x)),
            linear([0, 0, -9], -30, "Sigmoid"),
            [0.1, 1, 2],
            "logit",
            id="both nearly 0",
        ),
        pytest.param(
            lambda x: sigmoid(dot(1, 0, 0, intercept=-11)(x)),
            linear([0, 1, 0], -11, "Sigmoid"),
            [1, 1, 1],
            "logit",
            id="the mean nearly 0",
        ),
        pytest.param(dot(1e-6, 0, 0), linear([0, 0, 2e-6]), [1, 1, 1], "identity", id="all of it small"),
    ],
)
async def test_another_model_is_found_out(explain: Explain, served: Any, file: bytes, row: Any, link: str) -> None:
    """Where it answers the row alike, or answers are small: `linear` is refused, and `auto` does without the file."""
    with pytest.raises(FailedPrecondition, match="is not the model that is served: it") as refused:
        await explain(served, file, row, method="linear", link=link)
    auto = await explain(served, file, row, link=link)
    truth = await explain(served, file, row, link=link, method="exact")

    assert refused.value.reason == "GRAPH_IS_ANOTHER_MODEL"
    assert auto.parameters["infermesh_method"] == "exact"
    assert auto.attributions.tolist() == truth.attributions.tolist()


async def test_nan_is_no_agreement(explain: Explain) -> None:
    """A file that lacks the imputer of what is served: of a row and of the background."""
    missing = BACKGROUND.copy()
    missing[3, 0] = np.nan

    def served(x: Any) -> Any:
        return dot(1, 2, 3)(np.nan_to_num(x))

    for row, background in (([np.nan, 1, 2], BACKGROUND), ([1, 1, 2], missing)):
        with pytest.raises(FailedPrecondition, match="NaN where the model") as refused:
            await explain(served, linear([1, 2, 3]), row, background, method="linear")
        auto = await explain(served, linear([1, 2, 3]), row, background)

        assert refused.value.reason == "GRAPH_IS_ANOTHER_MODEL"
        assert auto.parameters["infermesh_method"] == "exact"
        assert np.isfinite(auto.attributions).all()


async def test_answers_of_0_and_1_alone_tell_nothing_of_the_margin(explain: Explain) -> None:
    """Any two margins below -20 are the same 0 in FP32: that such a file is the model's can't be known."""
    with pytest.raises(FailedPrecondition, match="too near to 0 or 1 to tell") as refused:
        await explain(
            lambda x: sigmoid(dot(1, 0, 0, intercept=-40)(x)),
            linear([0, 0, 3], -50, "Sigmoid"),
            [1, 1, 1],
            method="linear",
        )

    assert refused.value.reason == "GRAPH_NOT_USABLE"


@pytest.mark.parametrize(
    ("intercept", "row"),
    [(0, [1, 1, 1]), (-9, [-2, 1, 1]), (-8, [-9, -1, -1]), (9, [9, 3, 1])],
)
async def test_the_right_file_passes_with_the_rounding_of_fp32(explain: Explain, intercept: float, row: Any) -> None:
    """Middling, small and saturated answers, as ONNX Runtime rounds them."""
    answer = await explain(
        lambda x: sigmoid(dot(2, 1, -1, intercept=intercept)(x).astype(np.float32)),
        linear([2, 1, -1], intercept, "Sigmoid"),
        row,
        method="linear",
    )

    assert answer.predictions[0, 0] == pytest.approx(float(np.dot(row, [2, 1, -1])) + intercept)


async def test_small_answers_beside_a_large_constant_pass(explain: Explain) -> None:
    """As of boosted trees that begin at 0.5 for amounts around 0: each of them was rounded as 0.5 is."""
    split = Split(0, "BRANCH_LEQ", 0.0, False, Leaf([1.05e-6]), Leaf([-2.08e-6]))
    file = regressor([split, Leaf([-0.5])], 3, base_values=[0.5])

    def served(x: Any) -> Any:
        small = np.where(x[:, :1] <= 0, np.float32(1.05e-6), np.float32(-2.08e-6))
        return (np.float32(0.5) + small) - np.float32(0.5)

    answer = await explain(served, file, [1, 1, 1], method="tree")

    assert answer.predictions[0, 0] == pytest.approx(-2.08e-6, abs=1e-12)
    assert abs(float(served(np.ones((1, 3), np.float32))[0, 0]) + 2.08e-6) > 5e-9  # past a thousandth


async def test_large_answers_that_cancel_in_the_mean_pass(explain: Explain) -> None:
    """What FP32 loses of each of them is more than what is left of all, which is nothing."""
    background = np.array([[1e7, 0, 1.3], [-1e7, 0, 2.4]], np.float32)

    answer = await explain(
        lambda x: dot(1.1, 1, 1)(x).astype(np.float32), linear([1.1, 1, 1]), [1e6, 1, 1], background, method="linear"
    )

    assert answer.parameters["infermesh_method"] == "linear"


async def test_trees_are_compared_over_the_background_too(explain: Explain) -> None:
    """The mean of what they answer there, without TreeSHAP for it: another ensemble is refused, the same one is not."""
    draw = np.random.default_rng(4)
    file = regressor([draw_tree(draw, 3, 3, 1, ("BRANCH_LEQ",)) for _ in range(5)], 3)
    graph = ModelGraph.read(file)

    def right(x: Any) -> Any:
        return scores(graph.model, x) @ graph.mix + graph.offset

    row = BACKGROUND[:1] + 1

    def right_at_the_row(x: Any) -> Any:
        return right(x) + 0.01 * (x != row).any(axis=1, keepdims=True)

    answer = await explain(right, file, row, method="tree")
    with pytest.raises(FailedPrecondition, match=r"its mean over the background is up to 0\.01 apart"):
        await explain(right_at_the_row, file, row, method="tree")

    assert answer.base_values[0, 0] == pytest.approx(right(BACKGROUND).mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("link", "asked", "said"),
    [
        ("Sigmoid", {"link": "logit"}, "mean_margin"),
        ("Sigmoid", {"link": "logit", "method": "exact"}, "logit_of_mean"),
        ("Sigmoid", {}, "mean_output"),
        ("Identity", {}, "mean_output"),
        ("Identity", {"method": "kernel"}, "mean_output"),
    ],
)
async def test_an_answer_tells_its_value_function(
    explain: Explain, link: str, asked: dict[str, str], said: str
) -> None:
    """The mean of log-odds and the log-odds of the mean are both on the scale of link logit, and differ."""
    through = sigmoid if link == "Sigmoid" else np.asarray

    answer = await explain(lambda x: through(dot(3, 2, 1)(x)), linear([3, 2, 1], 0, link), [0.5, 0.5, 0.5], **asked)

    assert answer.parameters["infermesh_value"] == said
