"""Feature files: what is declared, and what is refused, all of it at once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml
from pydantic import ValidationError

from infermesh.config import ConfigError, load, parse
from services.transformer.config import TransformerConfig
from services.transformer.views import FeatureFile, FeatureView

FileOf = Callable[..., FeatureFile]


def faults(file: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        FeatureFile.model_validate(file)
    return str(refused.value)


@pytest.mark.parametrize(
    ("view", "table", "model", "versions", "tensor"),
    [
        ("card", "cards.csv", "fraud-detector", ("1", "2", "3"), "card_features"),
        ("patient", "patients.csv", "breast-cancer", ("1",), "measurements"),
    ],
)
def test_the_samples_agree(
    samples: Path, view: str, table: str, model: str, versions: tuple[str, ...], tensor: str
) -> None:
    """The columns of a sample view are those of its table and of the models' own metadata, in the same order."""
    file = parse(FeatureFile, samples / "config" / "features.yaml")
    with (samples / "features" / table).open(newline="") as lines:
        header = next(csv.reader(lines))
    declared = [feature.name for feature in file.views[view].features]
    service = file.services[model]
    (column,) = service.inputs[tensor].parts
    looked_up = [f for reference in column.references for f in file.features_of(service, reference)]

    assert file.views[view].source == table
    assert [file.views[view].entity.name, *declared] == header
    assert [feature.name for feature in looked_up] == declared
    for version in versions:
        session = onnxruntime.InferenceSession(str(samples / "models" / model / version / "model.onnx"))
        properties = session.get_modelmeta().custom_metadata_map
        assert json.loads(properties[f"infermesh.columns.{tensor}"]) == declared


def test_the_sample_configuration_is_a_good_one(samples: Path) -> None:
    """The transformer's sample file can be loaded, with the features beside it."""
    config = load(TransformerConfig, samples / "config" / "transformer.yaml", {})

    assert set(config.feature_file().services) == {"fraud-detector", "breast-cancer", "credit-score"}
    assert {name: backend.target for name, backend in config.backends.items()} == {
        "predictor": "predictor:8001",
        "explainer": "explainer:8001",
        "candidate": "predictor:8001",
    }


def test_the_sample_defaults_are_possible_cards(samples: Path) -> None:
    """Each default of the sample cards lies among the values that are stored."""
    view = parse(FeatureFile, samples / "config" / "features.yaml").views["card"]
    with (samples / "features" / "cards.csv").open(newline="") as lines:
        stored = list(csv.DictReader(lines))

    for feature in view.features:
        column = [float(row[feature.name]) for row in stored]
        assert feature.default is not None
        assert min(column) <= feature.default <= max(column)


def test_a_policy_that_is_not_named_is_to_fail() -> None:
    """Nothing is served in the place of a feature unless somebody said so."""
    view = FeatureView.model_validate({"entity": {"name": "id"}, "features": [{"name": "a"}]})

    assert (view.missing, view.stale, view.unavailable) == ("fail", "fail", "fail")


def test_every_fault_of_a_view_is_named(card: dict[str, Any]) -> None:
    """A twice declared feature, a default that is needed and a stale policy without an age are refused together."""
    card["features"] = [{"name": "a"}, {"name": "a", "default": 1}, {"name": "b"}]
    del card["max_age"]

    said = faults({"views": {"card": card}})

    assert 'feature "a": stands twice' in said
    assert "missing: default: every feature needs a default, none is given for a, b" in said
    assert "stale: says nothing without max_age" in said


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"name": "a.b"}, "expected letters, digits, _ and -"),
        ({"name": "a", "datatype": "FLOAT"}, "Input should be 'BOOL', 'INT8', 'INT16'"),
        ({"name": "a", "datatype": "INT64", "default": 1.5}, 'feature "a": default: expected INT64, got 1.5'),
        ({"name": "a", "datatype": "FP32", "default": 1e39}, "out of its range"),
        ({"name": "a", "datatype": "FP32", "default": True}, "expected FP32, got True"),
        ({"name": "a", "datatype": "BOOL", "default": 1}, "expected BOOL, got 1"),
        ({"name": "a", "default": "1"}, "expected FP32, got '1'"),
        ({"name": "a", "defautl": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_feature_that_can_not_be_is_refused(feature: dict[str, Any], words: str) -> None:
    """Names that would part wrongly in a column, datatypes that rows don't have and defaults that don't fit are refused."""
    assert words in faults({"views": {"v": {"entity": {"name": "id"}, "features": [feature]}}})


def test_a_default_keeps_its_type() -> None:
    """A whole number for an INT64 feature stays whole, however large."""
    view = {"entity": {"name": "id"}, "features": [{"name": "n", "datatype": "INT64", "default": 2**63 - 1}]}

    assert FeatureView.model_validate(view).features[0].default == 2**63 - 1


def test_the_sample_customers_are_looked_up_as_numbers_and_texts(samples: Path) -> None:
    """The view's columns are those of its table; numbers are one input, each text is one; its defaults are possible."""
    file = parse(FeatureFile, samples / "config" / "features.yaml")
    view, service = file.views["customer"], file.services["credit-score"]
    with (samples / "features" / "customers.csv").open(newline="") as lines:
        header, *stored = csv.reader(lines)
    session = onnxruntime.InferenceSession(str(samples / "models" / "credit-score" / "2" / "model.onnx"))
    columns = json.loads(session.get_modelmeta().custom_metadata_map["infermesh.columns.customer_features"])

    looked_up = {
        name: [f.name for column in source.parts for r in column.references for f in file.features_of(service, r)]
        for name, source in service.inputs.items()
    }

    assert [view.entity.name, *(feature.name for feature in view.features)] == header
    assert looked_up == {"customer_features": columns, "housing": ["housing"], "region": ["region"]}
    assert all(feature.description for feature in view.features)
    assert view.owner
    for feature, *values in zip(view.features, *(row[1:] for row in stored), strict=True):
        if feature.datatype == "BYTES":
            assert feature.default in values
        else:
            assert isinstance(feature.default, int | float)
            assert min(map(float, values)) <= feature.default <= max(map(float, values))


def test_every_fault_of_a_service_is_named(card: dict[str, Any]) -> None:
    """Unknown views and features, in any of the inputs, are refused together, with what there is."""
    inputs = {
        "x": {"columns": ["card.limit", "card.limits", "shop.*"]},
        "y": {"feature": "card"},
        "z": {"feature": "card.*"},
    }

    said = faults({"views": {"card": card}, "services": {"m": {"inputs": inputs}}})

    assert 'services.m.inputs.x: "card.limits": no such feature; the view has limit, declines' in said
    assert 'services.m.inputs.x: "shop.*": no view "shop"; there are card' in said
    assert 'services.m.inputs.y: "card": expected view.feature' in said
    assert 'services.m.inputs.z: "card.*": expected one feature; give several as columns' in said


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"inputs": {"x": {"columns": ["card.*"], "request": "y"}}}, "expected one of columns, feature, request"),
        ({"inputs": {"x": {}}}, "expected one of columns, feature, request, got none"),
        ({"inputs": {"x": {"columns": ["card.*"], "rank": 1}}}, "rank: 1 is for a single feature"),
        ({"inputs": {"x": {"request": "y"}}}, "nothing is looked up"),
        ({"inputs": {"x": {"columns": ["card.*"], "datatype": "INT64"}}}, "FP32 columns can't become INT64"),
        ({"inputs": {"card_id": {"columns": ["card.*"]}}}, "is also the name of the input that carries the ids"),
        (
            {"inputs": {"x": {"columns": ["card.*"]}, "a": {"request": "y"}, "b": {"request": "y"}}},
            'the request\'s "y" is named by more than one',
        ),
        (
            {"views": {"payer": {"view": "card"}}, "inputs": {"x": {"columns": ["card.*"]}}},
            "views.payer: no input uses it",
        ),
        (
            {"views": {"payer": {"view": "kard"}}, "inputs": {"x": {"columns": ["payer.*"]}}},
            'views.payer: no view "kard"',
        ),
    ],
)
def test_a_service_that_can_not_be_is_refused(card: dict[str, Any], service: dict[str, Any], words: str) -> None:
    """A service whose inputs come from nowhere, from two places, or with a datatype that would lose something is refused."""
    assert words in faults({"views": {"card": card}, "services": {"m": service}})


def test_columns_of_different_datatypes_need_one_to_become(card: dict[str, Any]) -> None:
    """A matrix of FP32 and INT64 columns must say which datatype the model takes."""
    card["features"].append({"name": "count", "datatype": "INT64", "default": 0})

    assert "datatype: needed, its columns are FP32, INT64" in faults(
        {"views": {"card": card}, "services": {"m": {"inputs": {"x": {"columns": ["card.*"]}}}}}
    )


def test_a_fault_in_the_feature_file_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    """A bad feature file and a route to a backend that does not exist keep the transformer from starting, both named."""
    (tmp_path / "features.yaml").write_text("views: {card: {entity: {name: card_id}, features: []}}")
    (tmp_path / "transformer.yaml").write_text(
        yaml.safe_dump({"features": "features.yaml", "routing": {"models": "elsewhere"}})
    )

    with pytest.raises(ConfigError) as refused:
        load(TransformerConfig, tmp_path / "transformer.yaml", {})

    assert 'routing.models: no backend "elsewhere"; there are predictor, explainer' in str(refused.value)
    assert "views.card.features" in str(refused.value)


def test_a_view_name_that_would_break_a_key_is_refused(card: dict[str, Any]) -> None:
    """A view's name stands in keys and columns, so it has neither colon nor dot."""
    assert 'views: "a:b": expected letters' in faults({"views": {"a:b": card}})
