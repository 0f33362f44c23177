"""What is checked in under samples/ is true, complete and small."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from samples.make.customers import DIRECTIONS

SAMPLES = Path(__file__).parents[3] / "samples"
MODELS = ["breast-cancer", "credit-score", "fraud-detector", "iris"]
BACKGROUND_ROWS = {"breast-cancer": 64, "credit-score": 100, "fraud-detector": 100, "iris": 64}
VERSIONS = [
    pytest.param(path.parent.name, path.name, id=f"{path.parent.name}-{path.name}")
    for path in sorted(SAMPLES.glob("models/*/*/"))
]
MONTHS = ("held_out", "held_out_later")
NUMPY = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
# Entity input → its feature table, and the model's inputs that the looked-up row becomes: the texts at its end one each.
LOOKUPS = {
    "patient_id": ("patients.csv", ["measurements"]),
    "card_id": ("cards.csv", ["card_features"]),
    "customer_id": ("customers.csv", ["customer_features", "housing", "region"]),
}


@cache
def session(model: str, version: str) -> onnxruntime.InferenceSession:
    path = SAMPLES / "models" / model / version / "model.onnx"
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


@cache
def features(file: str) -> dict[str, list[str]]:
    with (SAMPLES / "features" / file).open(newline="", encoding="utf-8") as table:
        return {entity: values for entity, *values in csv.reader(table)}


def read(folder: str, model: str) -> Any:
    return json.loads((SAMPLES / folder / f"{model}.json").read_text(encoding="utf-8"))


def array(tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(tensor["data"], NUMPY[tensor["datatype"]]).reshape(tensor["shape"])


def answer(model: str, version: str, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    runner = session(model, version)
    return dict(zip((output.name for output in runner.get_outputs()), runner.run(None, inputs), strict=True))


def looked_up(request: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The client's request as the model takes it: the entity id replaced by the row of its feature table."""
    inputs = {}
    for tensor in request:
        if tensor["name"] in LOOKUPS:
            file, (numbers, *texts) = LOOKUPS[tensor["name"]]
            rows = [features(file)[entity] for entity in tensor["data"]]
            inputs[numbers] = np.array([row[: len(row) - len(texts)] for row in rows], np.float32)
            for position, name in enumerate(texts):
                inputs[name] = np.array([[row[position - len(texts)]] for row in rows], object)
        else:
            inputs[tensor["name"]] = array(tensor)
    return inputs


GOLDEN = [
    pytest.param(model, case, id=f"{model}-{case['version']}-{number}")
    for model in MODELS
    for number, case in enumerate(read("golden", model)["cases"])
]


@pytest.mark.parametrize(("model", "case"), GOLDEN)
def test_onnx_runtime_answers_as_scikit_learn_did(model: str, case: dict[str, Any]) -> None:
    """ONNX Runtime's answer has the golden names, datatypes and shapes, its labels, and its probabilities to 1e-5."""
    inputs = {tensor["name"]: array(tensor) for tensor in case["inputs"]}

    outputs = answer(model, case["version"], inputs)

    assert list(outputs) == ["label", "probabilities"]
    for name, expected in case["outputs"].items():
        assert outputs[name].dtype == NUMPY[expected["datatype"]]
        assert list(outputs[name].shape) == expected["shape"]
    np.testing.assert_array_equal(outputs["label"], array(case["outputs"]["label"]))
    np.testing.assert_allclose(outputs["probabilities"], array(case["outputs"]["probabilities"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model", "case"), [each for each in GOLDEN if each.values[0] != "iris"])
def test_looking_up_the_entities_gives_the_models_inputs(model: str, case: dict[str, Any]) -> None:
    """The client's request names entities of the feature table, and their rows are exactly the model's inputs."""
    expected = {tensor["name"]: array(tensor) for tensor in case["inputs"]}

    inputs = looked_up(case["request"])

    assert inputs.keys() == expected.keys()
    assert not expected.keys() & LOOKUPS.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(inputs[name], values)


@pytest.mark.parametrize(("model", "version"), VERSIONS)
def test_every_version_has_golden_values(model: str, version: str) -> None:
    """Each version has eight golden rows or more: one case of several rows, the others of one."""
    cases = [case for case in read("golden", model)["cases"] if case["version"] == version]

    rows = [case["outputs"]["label"]["shape"][0] for case in cases]

    assert sum(rows) >= 8
    assert sorted(rows)[:-1] == [1] * (len(rows) - 1) and max(rows) > 1


@pytest.mark.parametrize("model", MODELS)
def test_golden_values_tell_the_classes_apart(model: str) -> None:
    """Over its versions, a model's golden labels name every class: an answer that never changes would not pass."""
    classes = json.loads(session(model, "1").get_modelmeta().custom_metadata_map["infermesh.classes"])

    labels = {label for case in read("golden", model)["cases"] for label in case["outputs"]["label"]["data"]}

    assert labels == set(range(len(classes)))


def test_iris_needs_no_lookup() -> None:
    """The golden cases of iris have no client's request: a client sends what the model takes."""
    assert not any("request" in case for case in read("golden", "iris")["cases"])


@pytest.mark.parametrize(("model", "version"), VERSIONS)
def test_metadata_names_every_column_and_class(model: str, version: str) -> None:
    """Every input wider than one has as many distinct column names as columns; there is a name for every class."""
    runner = session(model, version)
    metadata = runner.get_modelmeta().custom_metadata_map
    widths = {entry.name: entry.shape[1] for entry in runner.get_inputs()}

    columns = {name: json.loads(metadata[f"infermesh.columns.{name}"]) for name, width in widths.items() if width > 1}
    classes = json.loads(metadata["infermesh.classes"])

    assert columns and {name: len(set(names)) for name, names in columns.items()} == {
        name: width for name, width in widths.items() if width > 1
    }
    assert all(len(names) == len(set(names)) for names in columns.values())
    assert len(set(classes)) == runner.get_outputs()[1].shape[1]
    assert metadata["infermesh.description"].endswith(".")
    templates = {"infermesh.reasons"} if model in ("credit-score", "fraud-detector") else set()
    assert metadata.keys() == {
        "infermesh.description",
        "infermesh.classes",
        *(f"infermesh.columns.{n}" for n in columns),
        *templates,
    }


@pytest.mark.parametrize(("model", "version"), VERSIONS)
def test_the_first_dimension_is_free(model: str, version: str) -> None:
    """Inputs and outputs share a free first dimension, and many rows are answered as each of them alone."""
    runner = session(model, version)
    inputs = {tensor["name"]: array(tensor) for tensor in read("backgrounds", model)["inputs"]}

    together = answer(model, version, inputs)["probabilities"]
    alone = answer(model, version, {name: values[5:6] for name, values in inputs.items()})["probabilities"]

    assert {entry.shape[0] for entry in [*runner.get_inputs(), *runner.get_outputs()]} == {"rows"}
    assert len(together) == BACKGROUND_ROWS[model]
    np.testing.assert_allclose(together[5:6], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("model", "version"), VERSIONS)
def test_old_runtimes_can_load_the_models(model: str, version: str) -> None:
    """A model asks for IR version 8 and for operator sets up to 18, each named once and in order."""
    proto = onnx.load(SAMPLES / "models" / model / version / "model.onnx")

    operator_sets = [(used.domain, used.version) for used in proto.opset_import]

    assert proto.ir_version == 8
    assert [domain for domain, _ in operator_sets] == ["", "ai.onnx.ml"]
    assert operator_sets[0][1] <= 18 and operator_sets[1][1] <= 3


@pytest.mark.parametrize(("file", "entities", "model"), [
    ("patients.csv", 569, "breast-cancer"),
    ("cards.csv", 500, "fraud-detector"),
    ("customers.csv", 500, "credit-score"),
])  # fmt: skip
def test_feature_tables_are_in_the_models_order(file: str, entities: int, model: str) -> None:
    """A feature table has the model's columns in its order, texts last, one row per entity; FP32 holds its numbers exactly."""
    (entity, (_, (name, *texts))), = [item for item in LOOKUPS.items() if item[1][0] == file]  # fmt: skip
    with (SAMPLES / "features" / file).open(newline="", encoding="utf-8") as table:
        header, *rows = csv.reader(table)
    metadata = session(model, "1").get_modelmeta().custom_metadata_map

    assert header == [entity, *json.loads(metadata[f"infermesh.columns.{name}"]), *texts]
    assert len(rows) == len({row[0] for row in rows}) == entities
    for _, *values in rows:
        numbers = values[: len(values) - len(texts)]
        assert [float(str(np.float32(number))) for number in numbers] == [float(number) for number in numbers]
        assert all(values[len(numbers) :])


@pytest.mark.parametrize("model", MODELS)
def test_the_example_request_is_answered_by_every_version(model: str) -> None:
    """The example request, after the lookup, is one row that every version answers with probabilities."""
    inputs = looked_up(read("requests", model)["inputs"])

    for path in (SAMPLES / "models" / model).glob("*/"):
        (probabilities,) = answer(model, path.name, inputs)["probabilities"]
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_versions_disagree_on_the_example_transaction() -> None:
    """On the example transaction version 2 says fraud, versions 1 and 3 don't: a canary and a shadow have work to do."""
    inputs = looked_up(read("requests", "fraud-detector")["inputs"])

    labels = {version: answer("fraud-detector", version, inputs)["label"].tolist() for version in "123"}

    assert labels == {"1": [0], "2": [1], "3": [0]}


@pytest.mark.parametrize("version", ["1", "2", "3"])
@pytest.mark.parametrize("name", ["merchant_category", "country"])
def test_a_name_that_training_did_not_see_is_served(version: str, name: str) -> None:
    """An unknown merchant category or country is answered, and any other unknown one is answered the same."""
    inputs = looked_up(read("requests", "fraud-detector")["inputs"])
    known, unknown, empty = (
        answer("fraud-detector", version, {**inputs, name: np.array([[value]], object)})["probabilities"]
        for value in (inputs[name][0, 0], "Ατλαντίς", "")
    )

    assert np.isfinite(unknown).all() and unknown.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(unknown, empty)
    if name == "merchant_category":
        assert abs(unknown - known).max() > 1e-3


def test_newer_fraud_models_are_better_where_they_should_be() -> None:
    """Version 2 beats version 1; version 3 beats version 2 on later transactions and loses on the first ones."""
    metrics = json.loads((SAMPLES / "metrics.json").read_text())["fraud-detector"]
    auc = {
        version: (metrics[version]["held_out"]["auc"], metrics[version]["held_out_later"]["auc"]) for version in metrics
    }

    assert auc["2"][0] > auc["1"][0] + 0.05
    assert auc["3"][0] < auc["2"][0] - 0.05
    assert auc["3"][1] > auc["2"][1] + 0.05
    assert all(0.01 < metrics[version][month]["fraud_rate"] < 0.04 for version in metrics for month in MONTHS)


def test_reasons_are_there_for_every_feature() -> None:
    """The templates of reasons name each feature of the model once, in both directions, and no other place for a value."""
    for model in ("credit-score", "fraud-detector"):
        for path in (SAMPLES / "models" / model).glob("*/"):
            runner = session(model, path.name)
            metadata = runner.get_modelmeta().custom_metadata_map
            features = [
                feature
                for entry in runner.get_inputs()
                for feature in json.loads(metadata.get(f"infermesh.columns.{entry.name}", f'["{entry.name}"]'))
            ]

            reasons = json.loads(metadata["infermesh.reasons"])

            assert sorted(reasons) == sorted(features)
            for texts in reasons.values():
                assert texts.keys() == {"up", "down"}
                assert all("{" not in text.replace("{value}", "") and text == text.strip() for text in texts.values())


def test_trees_know_how_many_training_rows_came_through_each_node() -> None:
    """The covers of a node's children add up to its own, and that of each root is all rows; boosted trees see every row."""
    for model, version, rows in (
        ("credit-score", "2", 30_000),
        ("fraud-detector", "2", 40_000),
        ("fraud-detector", "3", 40_000),
    ):
        proto = onnx.load(SAMPLES / "models" / model / version / "model.onnx")
        (trees,) = [node for node in proto.graph.node if node.op_type == "TreeEnsembleClassifier"]
        of = {each.name: onnx.helper.get_attribute_value(each) for each in trees.attribute}
        places = {place: at for at, place in enumerate(zip(of["nodes_treeids"], of["nodes_nodeids"], strict=True))}

        for (tree, node), at in places.items():
            if node == 0:
                assert of["nodes_hitrates"][at] == rows
            if of["nodes_modes"][at] != b"LEAF":
                yes, no = (places[tree, of[f"nodes_{way}nodeids"][at]] for way in ("true", "false"))
                assert of["nodes_hitrates"][yes] + of["nodes_hitrates"][no] == of["nodes_hitrates"][at]


def test_credit_scores_move_as_one_would_say() -> None:
    """Over the background, every number that has a direction moves the mean probability of a default in it, in both versions."""
    background = {tensor["name"]: array(tensor) for tensor in read("backgrounds", "credit-score")["inputs"]}
    columns = json.loads(
        session("credit-score", "1").get_modelmeta().custom_metadata_map["infermesh.columns.customer_features"]
    )

    for version in "12":
        for feature, direction in DIRECTIONS.items():
            name, at = ("customer_features", columns.index(feature)) if feature in columns else (feature, 0)
            means = []
            for value in np.quantile(background[name][:, at], (0.05, 0.95)):
                moved = {**background, name: background[name].copy()}
                moved[name][:, at] = value
                means.append(float(answer("credit-score", version, moved)["probabilities"][:, 1].mean()))
            assert (means[1] - means[0]) * direction > 0.002, (version, feature, means)


def test_the_example_application_is_refused_by_both_versions() -> None:
    """On the example application both versions expect a default: there are reasons to give."""
    inputs = looked_up(read("requests", "credit-score")["inputs"])

    labels = {version: answer("credit-score", version, inputs)["label"].tolist() for version in "12"}

    assert labels == {"1": [1], "2": [1]}


def test_the_second_credit_model_is_the_better_one() -> None:
    """Version 2 ranks better than version 1, and neither better than the probabilities that defaults were drawn with."""
    metrics = json.loads((SAMPLES / "metrics.json").read_text())["credit-score"]
    first, second = (metrics[version]["held_out"] for version in "12")

    assert first["auc"] + 0.01 < second["auc"] < second["auc_of_the_generator"]
    assert second["log_loss"] < first["log_loss"]
    assert 0.05 < first["default_rate"] < 0.15


def test_the_readme_tells_what_was_measured() -> None:
    """The README's tables hold the figures of metrics.json, and these the sizes of the models."""
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((SAMPLES / "metrics.json").read_text(encoding="utf-8"))

    assert sorted(metrics) == MODELS
    for model, versions in metrics.items():
        assert sorted(versions) == sorted(path.name for path in (SAMPLES / "models" / model).glob("*/"))
        for version, measured in versions.items():
            assert measured["bytes"] == (SAMPLES / "models" / model / version / "model.onnx").stat().st_size
            held_out = measured["held_out"]
            figures = " | ".join(f"{held_out[name]:.4f}" for name in ("accuracy", "auc", "log_loss"))
            size = f"{measured['bytes'] / 1000:.1f} kB"
            assert f"| `{model}` | {version} | {measured['kind']} | {held_out['rows']} | {figures} | {size} |" in readme
    for version, measured in metrics["fraud-detector"].items():
        by_month = (f"{measured[month][name]:.4f}" for month in MONTHS for name in ("auc", "average_precision"))
        assert f"| {version} | {' | '.join(by_month)} |" in readme
    for month in MONTHS:
        assert f"{metrics['fraud-detector']['2'][month]['auc_of_the_generator']:.4f}" in readme


def test_the_samples_are_small() -> None:
    """All that is checked in under samples/ takes less than 700 kB."""
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert 100_000 < sum(path.stat().st_size for path in files) < 700_000
