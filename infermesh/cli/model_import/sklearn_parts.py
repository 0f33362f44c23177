"""The parts of a composed estimator: those of other libraries, and those that take columns by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from infermesh.cli.model_import.needs import library

__all__ = ["by_position", "foreign_parts", "register", "unnamed"]

_FOREIGN = frozenset(
    {"XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor", "LGBMClassifier", "LGBMRegressor"}
)
MAX_DEPTH = 16  # of estimators in estimators


def foreign_parts(estimator: Any) -> list[Any]:
    """The fitted estimators of XGBoost and LightGBM in it, or itself."""
    return [part for part in _parts(estimator) if type(part).__name__ in _FOREIGN]


def register(parts: Sequence[Any]) -> None:
    """Tell skl2onnx how those are converted: onnxmltools knows."""
    skl2onnx = library("skl2onnx") if parts else None
    for part in parts:
        kind = type(part)
        xgboost = kind.__name__.startswith("XGB")
        classifier = kind.__name__.endswith("Classifier")
        package = "xgboost.operator_converters.XGBoost" if xgboost else "lightgbm.operator_converters.LightGbm"
        converters = library(f"onnxmltools.convert.{package}")
        shapes = library("skl2onnx.common.shape_calculator")
        options: dict[str, Any] = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else {}
        if not xgboost and not classifier:
            options = {"split": None}
        skl2onnx.update_registered_converter(  # type: ignore[union-attr]
            kind,
            f"{'XGBoost' if xgboost else 'LightGbm'}{kind.__name__}",
            shapes.calculate_linear_classifier_output_shapes
            if classifier
            else shapes.calculate_linear_regressor_output_shapes,
            converters.convert_xgboost if xgboost else converters.convert_lightgbm,
            options=options,
        )


def unnamed(estimator: Any) -> None:
    """Take the names of columns from the boosters in it: the converter knows f0, f1, … only."""
    for part in foreign_parts(estimator):
        if hasattr(part, "get_booster"):
            part.get_booster().feature_names = None


def by_position(estimator: Any, names: Sequence[str]) -> None:
    """Turn columns that a ColumnTransformer takes by name into positions, for a matrix that has none."""
    if not names:
        return
    if hasattr(estimator, "transformers_"):
        estimator.transformers_ = [
            (name, part, _positions(columns, names)) for name, part, columns in estimator.transformers_
        ]
    elif steps := getattr(estimator, "steps", None):  # later steps get what the first one makes
        by_position(steps[0][1], names)
    elif members := getattr(estimator, "transformer_list", None):
        for _, member in members:
            by_position(member, names)


def _positions(columns: Any, names: Sequence[str]) -> Any:
    if isinstance(columns, str):
        return names.index(columns)
    if isinstance(columns, slice) and isinstance(columns.start or columns.stop, str):  # of names, both ends are within
        first = names.index(columns.start) if columns.start else 0
        return list(range(first, names.index(columns.stop) + 1 if columns.stop else len(names), columns.step or 1))
    if hasattr(columns, "__iter__"):
        listed = list(columns)
        return [names.index(column) for column in listed] if listed and isinstance(listed[0], str) else columns
    return columns


def _parts(value: Any, depth: int = 0) -> Iterator[Any]:
    """The estimators in fitted attributes and steps, each once per place."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item, depth + 1)
    elif hasattr(value, "get_params"):
        yield value
        for name, attribute in vars(value).items():
            if isinstance(attribute, list | tuple | dict) or (name.endswith("_") and hasattr(attribute, "get_params")):
                yield from _parts(attribute, depth + 1)
