"""Models in XGBoost's own files, of the native interface and of the scikit-learn one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.needs import library, versions_of
from infermesh.cli.model_import.original import Datatype, NotConvertible, Original
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.trees import by_class, converter_said, numbers
from infermesh.tensors import Array

__all__ = ["load_xgboost"]

OPSET = 15  # the newest that onnxmltools knows for trees

_CLASSIFIES = frozenset({"binary:logistic", "multi:softprob", "multi:softmax"})
_PREDICTS = frozenset(
    {
        "count:poisson",
        "reg:absoluteerror",
        "reg:gamma",
        "reg:linear",
        "reg:pseudohubererror",
        "reg:squarederror",
        "reg:squaredlogerror",
        "reg:tweedie",
    }
)


def load_xgboost(file: Path, *, best_iteration: bool = False) -> Original:
    """The model of a .json or .ubj file. A file of the scikit-learn interface answers as `XGBClassifier` and `XGBRegressor` do,
    up to the best iteration; any other as `Booster.predict` does, with all trees, unless `best_iteration`.

    Raises Failure for a file that XGBoost refuses, and for boosters and objectives that have no converter.
    """
    xgboost = library("xgboost")
    library("onnxmltools")
    try:
        booster = xgboost.Booster(
            model_file=bytearray(file.read_bytes())
        )  # its form is told by the content, not by the name
        config = json.loads(booster.save_config())["learner"]
    except (xgboost.core.XGBoostError, ValueError, KeyError) as error:  # the others: damaged names and settings
        raise Failure(f"{file}: XGBoost can't read it: {_first_line(error)}") from None
    objective = config["objective"]["name"]
    _check(file, booster, config["gradient_booster"]["name"], objective)

    wrapped = booster.attr("scikit_learn") is not None
    best = booster.attr("best_iteration")
    notes: list[str] = []
    if best is not None and int(best) + 1 < booster.num_boosted_rounds():
        said = (
            f"training stopped early: the best of {booster.num_boosted_rounds()} iterations is number {int(best) + 1}"
        )
        if wrapped or best_iteration:
            booster = booster[: int(best) + 1]
            notes.append(f"{said}, and later ones are left out")
        else:
            notes.append(f"{said}; Booster.predict uses all, and so does the import (--best-iteration: up to the best)")
    names = tuple(booster.feature_names or ())
    booster.feature_names = None  # the converter knows f0, f1, … only; and the check is by position
    classifies = objective in _CLASSIFIES

    def answer(rows: Rows) -> dict[str, Array]:
        try:
            # XGBoost is given what scikit-learn's users give it: float64, which it rounds to float32 itself
            data = xgboost.DMatrix(numbers(rows, "XGBoost"), missing=np.nan)
            values = np.asarray(booster.predict(data, output_margin=objective == "multi:softmax"), np.float64)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise Failure(f"XGBoost refuses the rows: {_first_line(error)}") from None
        if objective == "multi:softmax":  # which answers labels alone
            weights = np.exp(values - values.max(axis=1, keepdims=True))
            values = weights / weights.sum(axis=1, keepdims=True)
        return by_class(values) if classifies else {"prediction": values}

    def convert(rows: Rows, datatype: Datatype) -> Any:
        types = library("onnxmltools.convert.common.data_types")
        copied = booster.copy()  # the converter writes to it
        if objective == "multi:softmax":  # for which it writes margins, as onnxmltools 1.16 has it
            copied.set_param({"objective": "multi:softprob"})
        try:
            return library("onnxmltools").convert_xgboost(
                copied,
                name="xgboost",
                initial_types=[("features", types.FloatTensorType([None, len(rows.columns)]))],
                target_opset=OPSET,
            )
        except Exception as error:  # a converter fails with whatever it stumbled on
            raise NotConvertible(converter_said(error)) from error

    classes = max(2, int(config["learner_model_param"]["num_class"])) if classifies else 0
    return Original(
        format="xgboost",
        kind=f"{'XGBoost model' if wrapped else 'XGBoost booster'}, {objective}, {booster.num_boosted_rounds()} iterations",
        width=booster.num_features(),
        names=names,
        outputs=("label", "probabilities") if classifies else ("prediction",),
        answer=answer,
        convert=convert,
        classes=tuple(str(number) for number in range(classes)),
        libraries=versions_of("xgboost", "onnxmltools"),
        takes_missing=True,
        notes=tuple(notes),
    )


def _check(file: Path, booster: Any, kind: str, objective: str) -> None:
    if kind != "gbtree":
        raise Failure(f"{file}: booster {kind}: only gbtree can be converted to ONNX")
    if objective not in _CLASSIFIES | _PREDICTS:
        listed = ", ".join(sorted(_CLASSIFIES | _PREDICTS))
        raise Failure(f"{file}: objective {objective} can't be converted to ONNX", hint=f"those that can: {listed}")
    if "c" in (booster.feature_types or []):
        raise Failure(
            f"{file}: splits on categories: what XGBoost does with a category that it has not seen has no form in ONNX",
            hint="one-hot encode the categories before the training",
        )
    if not booster.num_boosted_rounds():
        raise Failure(f"{file}: the booster has no trees")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][-300:] if lines else type(error).__name__
