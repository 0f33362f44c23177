"""XGBoost's and LightGBM's own files."""

from __future__ import annotations

import json

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LONG = pytest.mark.long


def of(session, rows):
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": rows.astype(np.float32)}), strict=True))


def trained(rows, target, rounds=10, **parameters):
    data = xgboost.DMatrix(rows, label=target)
    return xgboost.train({"nthread": 1, "max_depth": 4, **parameters}, data, rounds)


def boosted(rows, target, rounds=10, categorical="auto", **parameters):
    data = lightgbm.Dataset(rows, label=target, categorical_feature=categorical)
    return lightgbm.train({"verbose": -1, "num_threads": 1, **parameters}, data, rounds)


@pytest.mark.parametrize(("ending", "name"), [("json", "model.json"), ("ubj", "model.ubj"), ("ubj", "model.bin")])
def test_xgboost_with_missing_values(imports, session, data, tmp_path, ending, name):
    """A booster of either form goes the way that it learnt for missing values, and names its columns."""
    names = ["a", "b", "c", "d e", "f<", "g"]
    matrix = xgboost.DMatrix(data.missing, label=data.classes > 0, feature_names=[n.replace("<", "") for n in names])
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, matrix, 10)
    booster.save_model(tmp_path / f"model.{ending}")

    (tmp_path / f"model.{ending}").rename(tmp_path / name)

    result = imports(tmp_path / name, data.missing)

    assert result.status == 0, result.err
    assert "not checked" not in result.out
    answers = of(session(), data.missing)
    assert np.abs(answers["probabilities"][:, 1] - booster.predict(matrix)).max() < 1e-5
    properties = session().get_modelmeta().custom_metadata_map
    assert json.loads(properties["infermesh.columns.features"]) == ["a", "b", "c", "d e", "f", "g"]
    assert json.loads(properties["infermesh.classes"]) == ["0", "1"]


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_xgboost_of_three_classes(imports, session, data, tmp_path, objective):
    """A booster that answers with classes alone is imported with their probabilities."""
    booster = trained(data.rows, data.classes, objective=objective, num_class=3)
    booster.save_model(tmp_path / "model.json")

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 0, result.err
    answer = booster.predict(xgboost.DMatrix(data.rows))
    labels = answer if objective == "multi:softmax" else answer.argmax(axis=1)
    assert np.array_equal(of(session(), data.rows)["label"], labels)


@pytest.mark.parametrize(
    "objective",
    [
        "reg:squarederror",
        pytest.param("reg:squaredlogerror", marks=LONG),
        pytest.param("reg:absoluteerror", marks=LONG),
        pytest.param("reg:pseudohubererror", marks=LONG),
        "count:poisson",
        pytest.param("reg:gamma", marks=LONG),
        "reg:tweedie",
    ],
)
def test_xgboost_regression(imports, session, data, tmp_path, objective):
    """Regressions answer on the scale of their target."""
    booster = trained(data.rows, data.classes + 1.0, objective=objective)
    booster.save_model(tmp_path / "model.json")

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 0, result.err
    expected = booster.predict(xgboost.DMatrix(data.rows))
    assert np.allclose(of(session(), data.rows)["prediction"][:, 0], expected, 1e-5, 1e-6)


def test_missing_values_that_the_rows_lack(imports, data, tmp_path):
    """A model that takes missing values, checked on rows that have none, is imported with a note."""
    trained(data.missing, data.classes).save_model(tmp_path / "model.json")

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 0, result.err
    assert "takes missing values, and the rows have none" in result.out


def stopped_early(data):
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, max_depth=4, n_jobs=1)
    model.fit(data.rows[:200], data.classes[:200], eval_set=[(data.rows[200:], data.classes[200:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    return model


def test_scikit_learns_interface_stops_at_the_best(imports, session, data, tmp_path):
    """A file of XGBClassifier answers as XGBClassifier does: with the trees up to the best iteration."""
    model = stopped_early(data)
    model.save_model(tmp_path / "model.json")

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 0, result.err
    assert "later ones are left out" in result.out
    assert np.abs(of(session(), data.rows)["probabilities"] - model.predict_proba(data.rows)).max() < 1e-5


def test_native_interface_uses_all_trees_unless_asked(imports, session, data, tmp_path):
    """A file of xgboost.train answers as Booster.predict does, with all trees; --best-iteration takes those up to the best."""
    split = (
        xgboost.DMatrix(r, label=c)
        for r, c in zip((data.rows[:200], data.rows[200:]), (data.classes[:200], data.classes[200:]), strict=True)
    )
    train, held_out = split
    parameters = {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_depth": 4}
    booster = xgboost.train(parameters, train, 60, evals=[(held_out, "x")], early_stopping_rounds=3, verbose_eval=False)
    assert booster.best_iteration + 1 < booster.num_boosted_rounds()
    booster.save_model(tmp_path / "model.ubj")

    whole = imports(tmp_path / "model.ubj", data.rows)
    best = imports(tmp_path / "model.ubj", data.rows, "--best-iteration")

    assert whole.status == best.status == 0, whole.err + best.err
    assert "--best-iteration: up to the best" in whole.out
    matrix = xgboost.DMatrix(data.rows)
    upto = booster.predict(matrix, iteration_range=(0, booster.best_iteration + 1))
    assert np.abs(of(session(version=1), data.rows)["probabilities"] - booster.predict(matrix)).max() < 1e-5
    assert np.abs(of(session(version=2), data.rows)["probabilities"] - upto).max() < 1e-5


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"booster": "gblinear"}, "booster gblinear: only gbtree can be converted"),
        ({"booster": "dart"}, "booster dart: only gbtree can be converted"),
        ({"objective": "rank:pairwise"}, "objective rank:pairwise can't be converted"),
        ({"objective": "binary:logitraw"}, "objective binary:logitraw can't be converted"),
    ],
)
def test_xgboost_refusals(imports, data, tmp_path, parameters, said, nothing_written):
    """Boosters and objectives that the converter gets wrong are refused by name."""
    xgboost.train({"nthread": 1, **parameters}, xgboost.DMatrix(data.rows, data.classes > 0), 5).save_model(
        tmp_path / "model.json"
    )

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 1
    assert said in result.err
    assert nothing_written()


def test_xgboost_categories_are_refused(imports, data, tmp_path):
    """Splits on categories are refused, with what to do instead."""
    rows = data.rows.copy()
    rows[:, 0] = np.arange(300) % 5
    matrix = xgboost.DMatrix(rows, label=data.classes, feature_types=["c", *"qqqqq"], enable_categorical=True)
    xgboost.train({"nthread": 1}, matrix, 3).save_model(tmp_path / "model.json")

    result = imports(tmp_path / "model.json", rows)

    assert result.status == 1
    assert "splits on categories" in result.err
    assert "one-hot" in result.err


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ("binary", lambda c: c > 0),
        ("multiclass", lambda c: c),
        pytest.param("multiclassova", lambda c: c, marks=LONG),
        ("regression", lambda c: c + 0.5),
        pytest.param("poisson", lambda c: c, marks=LONG),
        pytest.param("tweedie", lambda c: c, marks=LONG),
    ],
)
def test_lightgbm(imports, session, data, tmp_path, objective, target):
    """Boosters answer as Booster.predict does, missing values included."""
    parameters = {"num_class": 3} if objective.startswith("multi") else {}
    booster = boosted(data.missing, target(data.classes), objective=objective, **parameters)
    booster.save_model(tmp_path / "model.txt")

    result = imports(tmp_path / "model.txt", data.missing)

    assert result.status == 0, result.err
    expected = booster.predict(data.missing)
    answers = of(session(), data.missing)
    got = answers["probabilities"] if "label" in answers else answers["prediction"]
    got = got[:, -1] if expected.ndim == 1 else got
    assert np.allclose(got, expected, 1e-5, 1e-6)


def test_nothing_of_the_working_folder_is_run(imports, data, tmp_path, monkeypatch):
    """A file `lightgbm.py` beside the model is nobody's library."""
    boosted(data.rows, data.classes, objective="regression").save_model(tmp_path / "model.txt")
    (tmp_path / "lightgbm.py").write_text("open('was_run', 'w')\n")
    monkeypatch.chdir(tmp_path)

    assert imports(tmp_path / "model.txt", data.rows).status == 0

    assert not (tmp_path / "was_run").exists()


def test_lightgbm_categories(imports, session, data, tmp_path):
    """Splits on categories keep their answers, for codes that were not in the training and for missing ones too."""
    rows = data.rows.copy()
    rows[:, 0] = np.arange(300) % 9
    target = (rows[:, 0] % 3) * 5 + data.classes
    booster = boosted(rows, target, categorical=[0], objective="regression", min_data_per_group=1, cat_smooth=1.0)
    booster.save_model(tmp_path / "model.txt")
    asked = rows.copy()
    asked[::5, 0], asked[1::5, 0] = np.nan, 77

    result = imports(tmp_path / "model.txt", asked)

    assert result.status == 0, result.err
    assert np.allclose(of(session(), asked)["prediction"][:, 0], booster.predict(asked), 1e-5, 1e-6)


def test_lightgbm_after_early_stopping(imports, session, data, tmp_path):
    """The file has the trees up to the best iteration, and so has the import."""
    sets = [
        lightgbm.Dataset(data.rows[:200], data.classes[:200]),
        lightgbm.Dataset(data.rows[200:], data.classes[200:]),
    ]
    booster = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1, "learning_rate": 0.5},
        sets[0],
        60,
        valid_sets=[sets[1]],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
    )
    assert booster.best_iteration < 60
    booster.save_model(tmp_path / "model.txt")

    assert imports(tmp_path / "model.txt", data.rows).status == 0
    assert np.allclose(of(session(), data.rows)["probabilities"], booster.predict(data.rows), 1e-5, 1e-6)


def test_a_wrong_conversion_is_refused(imports, data, tmp_path, nothing_written):
    """The converter adds up a random forest's trees, which LightGBM averages: the check finds it, and nothing is written."""
    booster = boosted(
        data.rows, data.classes, objective="regression", boosting="rf", bagging_freq=1, bagging_fraction=0.5
    )
    booster.save_model(tmp_path / "model.txt")

    result = imports(tmp_path / "model.txt", data.rows)

    assert result.status == 1
    assert "are outside the tolerance" in result.err
    assert "worst row" in result.out
    assert nothing_written()


def test_objective_without_a_converter(imports, data, tmp_path, nothing_written):
    """What the converter does not know is refused in its words."""
    boosted(data.rows, data.classes / 2, objective="cross_entropy").save_model(tmp_path / "model.txt")

    result = imports(tmp_path / "model.txt", data.rows)

    assert result.status == 1
    assert "Unsupported LightGbm objective: 'cross_entropy'" in result.err
    assert nothing_written()


@pytest.mark.parametrize("model", [lightgbm.LGBMClassifier, xgboost.XGBClassifier])
def test_estimators_in_a_pickle(imports, session, data, model):
    """Estimators of both libraries are imported from joblib files too, alone or at the end of a pipeline."""
    silent = {"verbose": -1} if model is lightgbm.LGBMClassifier else {}
    pipeline = make_pipeline(StandardScaler(), model(n_estimators=5, n_jobs=1, **silent)).fit(
        data.missing, data.classes
    )
    alone = model(n_estimators=5, n_jobs=1, **silent).fit(data.missing, data.classes)

    assert imports(alone, data.missing).status == 0
    assert imports(pipeline, data.missing, "--datatype", "FP64").status == 0

    assert np.array_equal(of(session(), data.missing)["label"], alone.predict(data.missing))
    labels = session(version=2).run(["label"], {"features": data.missing})[0]
    assert np.array_equal(labels, pipeline.predict(data.missing))


def test_linear_trees_are_refused(imports, data, tmp_path):
    """Trees with linear leaves are refused by name."""
    boosted(data.rows, data.classes, objective="regression", linear_tree=True).save_model(tmp_path / "model.txt")

    assert "linear trees have no form in ONNX" in imports(tmp_path / "model.txt", data.rows).err


@pytest.mark.parametrize("kind", ["json", "ubj", "txt"])
@pytest.mark.parametrize(
    "share", [0.05, 0.3, 0.5]
)  # what follows the trees in a .txt file are the settings of the training
def test_cut_files(imports, data, tmp_path, kind, share, nothing_written):
    """A file that was cut off is refused in one line, and does not end the process."""
    file = tmp_path / f"model.{kind}"
    (boosted if kind == "txt" else trained)(data.rows, data.classes).save_model(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])

    result = imports(file, data.rows)

    assert result.status == 1
    assert "can't read it" in result.err
    assert len(result.err.splitlines()) <= 2
    assert nothing_written()


def test_texts_are_refused(imports, data, tmp_path):
    """A column of texts is named, with the first one."""
    trained(data.rows[:, :2], data.classes).save_model(tmp_path / "model.json")
    (tmp_path / "rows.csv").write_text("a,b\n1,red\n2,blue\n")

    result = imports(tmp_path / "model.json", tmp_path / "rows.csv")

    assert result.status == 2
    assert "column \"b\": XGBoost takes numbers, got 'red'" in result.err


def test_rows_that_the_library_refuses(imports, data, tmp_path, nothing_written):
    """Values that XGBoost can't take are refused in its words."""
    trained(data.rows, data.classes).save_model(tmp_path / "model.json")
    rows = data.rows.copy()
    rows[3, 2] = np.inf

    result = imports(tmp_path / "model.json", rows)

    assert result.status == 1
    assert "XGBoost refuses the rows" in result.err
    assert nothing_written()


def test_file_that_crashes_lightgbm(imports, data, tmp_path, monkeypatch, nothing_written):
    """A damaged file on which LightGBM crashes is refused, and does not take the command with it."""
    monkeypatch.setattr(
        "infermesh.cli.model_import.lightgbm_file.TRY", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    boosted(data.rows, data.classes).save_model(tmp_path / "model.txt")

    result = imports(tmp_path / "model.txt", data.rows)

    assert result.status == 1
    assert "it crashes on this file" in result.err
    assert nothing_written()


def test_damaged_names(imports, tmp_path, data):
    """Bytes that are no text in a model's settings are refused in one line."""
    trained(data.rows, data.classes).save_model(tmp_path / "model.json")
    content = (tmp_path / "model.json").read_bytes()
    (tmp_path / "model.json").write_bytes(content.replace(b"reg:squarederror", b"reg:squared\xfdrror"))

    result = imports(tmp_path / "model.json", data.rows)

    assert result.status == 1
    assert "XGBoost can't read it" in result.err
