"""Models as the converters of scikit-learn, LightGBM and XGBoost write them."""

import json
import warnings
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pytest
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from services.explainer.graph import ModelGraph
from services.explainer.tree import linear_values, tree_values

FEATURES = 6
RANDOM = np.random.default_rng(7)
ROWS = RANDOM.normal(size=(300, FEATURES)).astype(np.float32)
AMOUNT = ROWS[:, 0] * ROWS[:, 1] + ROWS[:, 2]
TWO, THREE = (AMOUNT > 0).astype(int), np.digitize(AMOUNT, [-0.6, 0.6])

SKLEARN: dict[str, tuple[Any, Any]] = {
    "boosting, two classes": (GradientBoostingClassifier(n_estimators=8), TWO),
    "boosting, three classes": (GradientBoostingClassifier(n_estimators=8), THREE),
    "boosting, amounts": (GradientBoostingRegressor(n_estimators=8), AMOUNT),
    "histograms, two classes": (HistGradientBoostingClassifier(max_iter=8), TWO),
    "histograms, three classes": (HistGradientBoostingClassifier(max_iter=8), THREE),
    "histograms, amounts": (HistGradientBoostingRegressor(max_iter=8), AMOUNT),
    "forest, two classes": (RandomForestClassifier(8, max_depth=5), TWO),
    "forest, three classes": (RandomForestClassifier(8, max_depth=5), THREE),
    "forest, amounts": (RandomForestRegressor(8), AMOUNT),
    "extra trees": (ExtraTreesClassifier(8, max_depth=5), THREE),
    "one tree": (DecisionTreeClassifier(max_depth=4), TWO),
    "imputed and scaled trees": (
        make_pipeline(SimpleImputer(), StandardScaler(), GradientBoostingClassifier(n_estimators=8)),
        TWO,
    ),
    "logistic, two classes": (LogisticRegression(), TWO),
    "logistic, three classes": (LogisticRegression(), THREE),
    "least squares": (LinearRegression(), AMOUNT),
    "scaled, logistic": (make_pipeline(SimpleImputer(), StandardScaler(), MinMaxScaler(), LogisticRegression()), TWO),
    "scaled, ridge": (make_pipeline(RobustScaler(), MaxAbsScaler(), Ridge()), AMOUNT),
    "stochastic descent": (SGDClassifier(loss="log_loss", random_state=0), TWO),
}


def converted(name: str) -> bytes:
    estimator, answers = SKLEARN[name]
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
    fitted = estimator.fit(ROWS, answers)
    return bytes(to_onnx(fitted, ROWS[:1], options=options, target_opset={"": 18, "ai.onnx.ml": 3}).SerializeToString())


def boosted(library: str, kind: str) -> tuple[bytes, Any]:
    answers = {"two": TWO, "three": THREE, "amounts": AMOUNT}[kind]
    types = [("X", FloatTensorType([None, FEATURES]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "lightgbm":
            of = lightgbm.LGBMRegressor if kind == "amounts" else lightgbm.LGBMClassifier
            fitted = of(n_estimators=8, num_leaves=9, verbose=-1, n_jobs=1).fit(ROWS, answers)
            options = {} if kind == "amounts" else {"zipmap": False}
            return convert_lightgbm(fitted, initial_types=types, target_opset=15, **options).SerializeToString(), fitted
        of = xgboost.XGBRegressor if kind == "amounts" else xgboost.XGBClassifier
        fitted = of(n_estimators=8, max_depth=4, n_jobs=1).fit(ROWS, answers)
        return convert_xgboost(fitted, initial_types=types, target_opset=15).SerializeToString(), fitted


def check(content: bytes) -> None:
    graph = ModelGraph.read(content)
    session = onnxruntime.InferenceSession(content)
    (expected,) = session.run([graph.output], {"X": ROWS[:100]})
    values = tree_values if graph.kind == "tree" else linear_values

    explained = values(graph, {"X": ROWS[:100]}, {"X": ROWS[100:130]}, np.full(30, 1 / 30), {"X": np.arange(FEATURES)})

    error = np.abs(explained.base + explained.attributions.sum(axis=1) - explained.margin)
    assert (error <= 1e-9 * np.maximum(1, np.abs(explained.attributions).sum(axis=1))).all()
    np.testing.assert_allclose(explained.probability, expected.reshape(100, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SKLEARN)
def test_a_model_of_scikit_learn_is_read_and_answers_as_the_runtime_does(name: str) -> None:
    check(converted(name))


@pytest.mark.parametrize("kind", ["two", "three", "amounts"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_model_of_a_boosting_library_is_read_and_answers_as_the_runtime_does(library: str, kind: str) -> None:
    check(boosted(library, kind)[0])


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("boosting, two classes", "tree", "logit"),
        ("boosting, three classes", "tree", "softmax"),
        ("forest, three classes", "tree", "identity"),
        ("logistic, two classes", "linear", "logit"),
        ("logistic, three classes", "linear", "softmax"),
        ("least squares", "linear", "identity"),
    ],
)
def test_the_link_is_that_of_the_model(name: str, kind: str, link: str) -> None:
    graph = ModelGraph.read(converted(name))

    assert (graph.kind, graph.link) == (kind, link)


@pytest.mark.parametrize("kind", ["two", "three", "amounts"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_path_dependent_values_are_the_librarys_own_contributions(library: str, kind: str) -> None:
    """With its covers, which its converter drops, given in the order of the file's nodes."""
    content, fitted = boosted(library, kind)
    graph = ModelGraph.read(content)
    if library == "lightgbm":
        own = fitted.booster_.predict(ROWS[:50], pred_contrib=True)
        covers = [_lightgbm_covers(tree["tree_structure"]) for tree in fitted.booster_.dump_model()["tree_info"]]
    else:
        own = fitted.get_booster().predict(xgboost.DMatrix(ROWS[:50]), pred_contribs=True)
        covers = _xgboost_covers(fitted.get_booster())
    own = np.asarray(own).reshape(50, -1, FEATURES + 1)

    explained = tree_values(
        graph,
        {"X": ROWS[:50]},
        {"X": ROWS[:1]},
        np.ones(1),
        {"X": np.arange(FEATURES)},
        algorithm="path_dependent",
        covers=_in_file_order(content, covers),
    )

    columns = [1] if kind == "two" else slice(None)
    np.testing.assert_allclose(
        explained.attributions[:, :, columns], own[:, :, :-1].transpose(0, 2, 1), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(explained.base[columns], own[0, :, -1], rtol=0, atol=1e-5)


def _lightgbm_covers(node: Any) -> Any:
    if "leaf_count" in node or "leaf_value" in node:
        return node.get("leaf_count", 1), ()
    return node["internal_count"], (_lightgbm_covers(node["left_child"]), _lightgbm_covers(node["right_child"]))


def _xgboost_covers(booster: Any) -> list[Any]:
    def of(node: Any) -> Any:
        if "leaf" in node:
            return node["cover"], ()
        children = {child["nodeid"]: child for child in node["children"]}
        return node["cover"], (of(children[node["yes"]]), of(children[node["no"]]))

    return [of(json.loads(tree)) for tree in booster.get_dump(with_stats=True, dump_format="json")]


def _in_file_order(content: bytes, covers: list[Any]) -> Any:
    """The trees' covers, (own, (true, false)), by the numbers that the nodes have in the file."""
    (node,) = [each for each in onnx.ModelProto.FromString(content).graph.node if each.op_type.startswith("Tree")]
    held = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    place = {key: at for at, key in enumerate(zip(held["nodes_treeids"], held["nodes_nodeids"], strict=True))}
    found = np.zeros(len(place))

    def fill(tree: int, number: int, cover: Any) -> None:
        at = place[tree, number]
        found[at] = cover[0]
        sides = (held["nodes_truenodeids"][at], held["nodes_falsenodeids"][at])
        for side, below in zip(sides, cover[1], strict=False):
            fill(tree, side, below)

    for tree, cover in enumerate(covers):
        fill(tree, 0, cover)
    return found
