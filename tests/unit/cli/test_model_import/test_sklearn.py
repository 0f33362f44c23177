"""scikit-learn estimators."""

from __future__ import annotations

import json
import os
import pickle
import re

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from xgboost import XGBRegressor


def of(session, rows):
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": rows.astype(np.float32)}), strict=True))


def test_classifier(imports, session, data):
    """A classifier gets one input `features` and outputs named label and probabilities, tensors both, that answer as it does."""
    model = RandomForestClassifier(20, random_state=0).fit(data.rows, data.classes)

    result = imports(model, data.rows)

    assert result.status == 0, result.err
    loaded = session()
    assert [(n.name, n.type, n.shape) for n in loaded.get_inputs()] == [("features", "tensor(float)", ["rows", 6])]
    assert [(n.name, n.type, n.shape) for n in loaded.get_outputs()] == [
        ("label", "tensor(int64)", ["rows"]),
        ("probabilities", "tensor(float)", ["rows", 3]),
    ]
    answers = of(loaded, data.rows)
    assert np.array_equal(answers["label"], model.predict(data.rows))
    assert np.abs(answers["probabilities"] - model.predict_proba(data.rows)).max() < 1e-6
    assert "same" in result.out
    assert "next: infermesh models load m" in result.out


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (LogisticRegression(), {"label": "predict", "probabilities": "predict_proba"}),
        (make_pipeline(StandardScaler(), LogisticRegression()), {"label": "predict", "probabilities": "predict_proba"}),
        (HistGradientBoostingClassifier(max_iter=5), {"label": "predict", "probabilities": "predict_proba"}),
        (LinearSVC(), {"label": "predict", "scores": "decision_function"}),
        (IsolationForest(n_estimators=5, random_state=0), {"label": "predict", "scores": "decision_function"}),
        (KMeans(3, n_init=1, random_state=0), {"label": "predict", "scores": "transform"}),
        (RandomForestRegressor(5, random_state=0), {"prediction": "predict"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
)
def test_kinds(imports, session, data, model, outputs):
    """Classifiers with and without probabilities, clusterers, detectors of outliers and regressors keep their answers."""
    model.fit(data.rows, data.classes)

    result = imports(model, data.rows)

    assert result.status == 0, result.err
    answers = of(session(), data.rows)
    assert list(answers) == list(outputs)
    for output, method in outputs.items():
        expected = getattr(model, method)(data.rows)
        assert np.allclose(answers[output].reshape(expected.shape), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("model", [SVC(), LinearSVC()], ids=["SVC", "LinearSVC"])
def test_score_of_two_classes(imports, session, data, model):
    """Of two classes one score is served, that of the second, whichever columns the converter writes."""
    model.fit(data.rows, data.classes > 0)

    result = imports(model, data.rows)

    assert result.status == 0, result.err
    assert np.allclose(of(session(), data.rows)["scores"][:, 0], model.decision_function(data.rows), 1e-5, 1e-5)


def test_text_classes(imports, session, data):
    """Classes that are texts stay texts, and the model says them in the order of its probabilities."""
    names = np.array(["ash", "beech", "cedar"])[data.classes]

    result = imports(LogisticRegression().fit(data.rows, names), data.rows)

    assert result.status == 0, result.err
    assert set(of(session(), data.rows)["label"]) == {"ash", "beech", "cedar"}
    properties = session().get_modelmeta().custom_metadata_map
    assert json.loads(properties["infermesh.classes"]) == ["ash", "beech", "cedar"]


def test_several_targets(imports, session, data):
    """A regressor of two targets answers two columns."""
    model = RandomForestRegressor(5, random_state=0).fit(data.rows, np.stack([data.classes, data.classes * 2], 1))

    assert imports(model, data.rows).status == 0
    assert of(session(), data.rows)["prediction"].shape == (300, 2)


def mixed(data):
    """A pipeline over numbers and texts, as it is after a DataFrame was given: with names of its columns."""
    rng = np.random.default_rng(0)
    rows = np.empty((300, 3), object)
    rows[:, 0] = data.missing[:, 1]
    rows[:, 1] = rng.choice(np.array(["cash", "card", "0012"], object), 300)
    rows[:, 2] = data.rows[:, 2]
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("n", numbers, [0, 2]), ("t", OneHotEncoder(handle_unknown="ignore"), [1])])
    model = make_pipeline(columns, LogisticRegression()).fit(rows, data.classes)
    columns.feature_names_in_ = np.array(["amount", "means", "age"], object)
    return model, rows


def test_text_columns(imports, session, data, tmp_path):
    """Text columns make an input of each column; rows are taken by name, whatever their order, and others are left out."""
    model, rows = mixed(data)
    file = tmp_path / "rows.csv"
    lines = [f"{means},{'' if np.isnan(amount) else amount},x,{age}" for amount, means, age in rows]
    file.write_text("means,amount,extra,age\n" + "\n".join(lines) + "\n")

    result = imports(model, file)

    assert result.status == 0, result.err
    assert "left out: extra" in result.out
    loaded = session()
    assert [(n.name, n.type, n.shape) for n in loaded.get_inputs()] == [
        ("amount", "tensor(float)", ["rows", 1]),
        ("means", "tensor(string)", ["rows", 1]),
        ("age", "tensor(float)", ["rows", 1]),
    ]
    feed = {
        "amount": rows[:, :1].astype(np.float32),
        "means": rows[:, 1:2],
        "age": rows[:, 2:].astype(np.float32),
    }
    assert np.abs(loaded.run(["probabilities"], feed)[0] - model.predict_proba(rows)).max() < 1e-5


def test_columns_taken_by_name(imports, session, data):
    """A ColumnTransformer that takes columns by name is imported with one input all the same."""
    columns = ColumnTransformer([("a", StandardScaler(), [4, 1]), ("b", "passthrough", [0])])
    model = make_pipeline(columns, LogisticRegression()).fit(data.rows, data.classes)
    expected = model.predict_proba(data.rows)
    columns.feature_names_in_ = np.array(list("abcdef"), object)
    columns.transformers_ = [
        (name, part, [list("abcdef")[i] for i in chosen]) for name, part, chosen in columns.transformers_
    ]

    result = imports(model, data.rows)

    assert result.status == 0, result.err
    assert np.abs(of(session(), data.rows)["probabilities"] - expected).max() < 1e-5
    properties = session().get_modelmeta().custom_metadata_map
    assert json.loads(properties["infermesh.columns.features"]) == list("abcdef")


def test_one_input_per_column(imports, session, data, tmp_path):
    """--columns gives every column an input, for numbers too."""
    model = LogisticRegression().fit(data.rows, data.classes)
    file = tmp_path / "rows.csv"
    np.savetxt(file, data.rows, delimiter=",", header="a,b,c,d,label_,features", comments="", fmt="%.17g")

    result = imports(model, file, "--columns")

    assert result.status == 0, result.err
    names = [node.name for node in session().get_inputs()]
    assert names == ["a", "b", "c", "d", "label_", "features"]
    feed = {name: data.rows[:, i : i + 1].astype(np.float32) for i, name in enumerate(names)}
    assert np.array_equal(session().run(["label"], feed)[0], model.predict(data.rows))


def test_fp64_where_fp32_answers_otherwise(imports, session):
    """Rows that FP32 can't tell apart are found by the check, and the model is imported with FP64 inputs."""
    rows = np.random.default_rng(0).integers(0, 100, (200, 3)) + 1e9
    model = Ridge().fit(rows, (rows[:, 0] - 1e9) * 3 - (rows[:, 1] - 1e9))

    result = imports(model, rows)

    assert result.status == 0, result.err
    assert re.search(r"\d differ.* same ", result.out, re.DOTALL)
    assert session().get_inputs()[0].type == "tensor(double)"
    assert np.allclose(session().run(None, {"features": rows})[0][:, 0], model.predict(rows))


def test_trees_behind_a_scaler(imports, session, data):
    """A value on a threshold goes the way that it goes in scikit-learn: scaled in FP64, and then rounded to FP32."""
    model = make_pipeline(StandardScaler(), XGBRegressor(n_estimators=10, n_jobs=1))
    model.fit(data.rows, data.classes * 10)

    result = imports(model, data.rows, "--datatype", "FP64")

    assert result.status == 0, result.err
    assert np.allclose(session().run(None, {"features": data.rows})[0][:, 0], model.predict(data.rows), 1e-5, 1e-5)


def test_refused_past_the_tolerance(imports, data, nothing_written):
    """Past the tolerance nothing is written: the reason, the worst row and both answers are shown, and the exit status is 1."""
    model = LogisticRegression().fit(data.rows, data.classes)

    result = imports(model, data.rows, "--datatype", "FP32", "--tolerance", "1e-12/1e-12")

    assert result.status == 1
    assert nothing_written()
    assert "of 300 rows 300 are outside the tolerance" in result.err
    assert "worst row" in result.out
    assert "ONNX Runtime" in result.out


def test_labels_may_not_differ(imports, nothing_written):
    """However large the tolerance, one label that differs refuses the model."""
    rows = 1e9 + np.arange(64.0)[:, None]  # one number in FP32, two classes
    model = RandomForestClassifier(1, bootstrap=False).fit((rows - 1e9), np.arange(64) > 31)
    model = make_pipeline(StandardScaler(with_std=False), model)
    model[0].fit(rows)
    model[0].mean_[:] = 1e9

    result = imports(model, rows, "--datatype", "FP32", "--tolerance", "0.9/1e9")

    assert result.status == 1
    assert "have another label in ONNX Runtime than in the original" in result.err
    assert nothing_written()


def test_pickle_is_not_run_without_trust(imports, data, tmp_path, nothing_written):
    """Nothing of a pickle is read before --trust: code in it does not run."""
    mark = tmp_path / "was here"

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps(Malicious()))

    result = imports(file, data.rows)

    assert result.status == 2
    assert "can run any code" in result.err
    assert "--trust" in result.err
    assert not mark.exists()
    assert nothing_written()


def test_skops(imports, session, data, tmp_path):
    """A skops file needs no trust."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.rows, data.classes)
    skops.io.dump(model, tmp_path / "model.skops")

    result = imports(tmp_path / "model.skops", data.rows)

    assert result.status == 0, result.err
    assert np.array_equal(of(session(), data.rows)["label"], model.predict(data.rows))


@pytest.mark.parametrize(
    "model", [RandomForestClassifier(3), XGBRegressor(n_estimators=3, n_jobs=1)], ids=["forest", "xgboost"]
)
def test_skops_types_that_are_not_trusted(imports, data, tmp_path, model):
    """Types that skops does not know are listed and refused, and loaded when each is named."""
    skops.io.dump(model.fit(data.rows, data.classes), tmp_path / "model.skops")

    refused = imports(tmp_path / "model.skops", data.rows)
    types = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    trusted = imports(tmp_path / "model.skops", data.rows, *[word for name in types for word in ("--trust-type", name)])

    assert types
    assert refused.status == 2
    assert all(name in refused.err for name in types)
    assert trusted.status == 0, trusted.err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (LogisticRegression(), "is not fitted"),
        ({"not": "a model"}, "expected a scikit-learn estimator that predicts, got a dict"),
        (StandardScaler(), "got a StandardScaler"),
    ],
    ids=["not fitted", "dict", "transformer"],
)
def test_what_is_no_model(imports, data, model, said, nothing_written):
    """An object that can't predict is refused by what it is."""
    result = imports(model, data.rows)

    assert result.status == 1
    assert said in result.err
    assert nothing_written()


def test_classifier_of_several_targets(imports, data):
    """A classifier of several targets has several labels, and is refused."""
    model = RandomForestClassifier(2).fit(data.rows, np.stack([data.classes, data.classes], 1))

    assert "has several targets" in imports(model, data.rows).err


def test_no_converter(imports, data, nothing_written):
    """An estimator that skl2onnx does not know is refused in its words."""
    from sklearn.semi_supervised import LabelPropagation

    result = imports(LabelPropagation().fit(data.rows, data.classes), data.rows)

    assert result.status == 1
    assert "LabelPropagation" in result.err
    assert nothing_written()


def test_missing_values_that_the_model_refuses(imports, data):
    """Rows with missing values for a model that takes none are refused with the model's words."""
    result = imports(LogisticRegression().fit(data.rows, data.classes), data.missing)

    assert result.status == 1
    assert "LogisticRegression refuses the rows" in result.err
    assert "NaN" in result.err


def test_cut_pickle(imports, data, tmp_path):
    """A file that was cut off is refused in one line."""
    joblib.dump(LogisticRegression().fit(data.rows, data.classes), tmp_path / "whole.joblib")
    (tmp_path / "cut.joblib").write_bytes((tmp_path / "whole.joblib").read_bytes()[:200])

    result = imports(tmp_path / "cut.joblib", data.rows, "--trust")

    assert result.status == 1
    assert "can't be unpickled" in result.err


def test_what_the_model_says_of_itself(imports, session, data):
    """The model names its format, libraries and check, and nothing that changes with the time."""
    imports(RandomForestClassifier(3, random_state=0).fit(data.rows, data.classes), data.rows)

    properties = session().get_modelmeta().custom_metadata_map

    assert set(properties) == {
        "infermesh.classes",
        *(f"infermesh.import.{name}" for name in ("format", "kind", "libraries", "check")),
    }
    assert set(json.loads(properties["infermesh.import.libraries"])) == {"sklearn", "skl2onnx"}
    check = json.loads(properties["infermesh.import.check"])
    assert check["rows"] == 300
    assert check["max_absolute"]["probabilities"] < 1e-6


def test_same_bytes(imports, repository, data):
    """Importing twice gives the same bytes: no time, no random name."""
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(data.rows, data.classes)

    for _ in range(2):
        assert imports(model, data.rows).status == 0

    first, second = (repository / "m" / version / "model.onnx" for version in "12")
    assert first.read_bytes() == second.read_bytes()
