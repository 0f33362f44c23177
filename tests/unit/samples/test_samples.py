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

SAMPLES = Path(__file__).parents[3] / "samples"
MODELS = ["breast-cancer", "fraud-detector", "iris"]
VERSIONS = [
    pytest.param(path.parent.name, path.name, id=f"{path.parent.name}-{path.name}")
    for path in sorted(SAMPLES.glob("models/*/*/"))
]
MONTHS = ("held_out", "held_out_later")
NUMPY = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
# Entity input → its feature table, and the model's input that the looked-up row becomes.
LOOKUPS = {"patient_id": ("patients.csv", "measurements"), "card_id": ("cards.csv", "card_features")}


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
            file, name = LOOKUPS[tensor["name"]]
            inputs[name] = np.array([features(file)[entity] for entity in tensor["data"]], np.float32)
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
    assert metadata.keys() == {
        "infermesh.description",
        "infermesh.classes",
        *(f"infermesh.columns.{n}" for n in columns),
    }


@pytest.mark.parametrize(("model", "version"), VERSIONS)
def test_the_first_dimension_is_free(model: str, version: str) -> None:
    """Inputs and outputs share a free first dimension, and many rows are answered as each of them alone."""
    runner = session(model, version)
    inputs = {tensor["name"]: array(tensor) for tensor in read("backgrounds", model)["inputs"]}

    together = answer(model, version, inputs)["probabilities"]
    alone = answer(model, version, {name: values[5:6] for name, values in inputs.items()})["probabilities"]

    assert {entry.shape[0] for entry in [*runner.get_inputs(), *runner.get_outputs()]} == {"rows"}
    assert len(together) == 64
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
])  # fmt: skip
def test_feature_tables_are_in_the_models_order(file: str, entities: int, model: str) -> None:
    """A feature table has the model's columns in its order, one row per entity, and numbers that FP32 holds exactly."""
    (entity, (_, name)), = [item for item in LOOKUPS.items() if item[1][0] == file]  # fmt: skip
    with (SAMPLES / "features" / file).open(newline="", encoding="utf-8") as table:
        header, *rows = csv.reader(table)
    metadata = session(model, "1").get_modelmeta().custom_metadata_map

    assert header == [entity, *json.loads(metadata[f"infermesh.columns.{name}"])]
    assert len(rows) == len({row[0] for row in rows}) == entities
    for row in rows:
        assert [float(str(np.float32(value))) for value in row[1:]] == [float(value) for value in row[1:]]


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
