"""A scikit-learn estimator, with XGBoost's and LightGBM's among its parts or alone: its answers, and its way to ONNX."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.needs import library, versions_of
from infermesh.cli.model_import.original import Datatype, NotConvertible, Original
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.sklearn_parts import by_position, foreign_parts, register, unnamed
from infermesh.cli.model_import.trees import converter_said
from infermesh.tensors import Array

__all__ = ["original_of"]

OPSET = {"": 18, "ai.onnx.ml": 3}  # ONNX Runtime 1.14 and later run these


def original_of(
    file: Path, file_format: Literal["sklearn", "skops"], estimator: Any, notes: tuple[str, ...] = ()
) -> Original:
    """What the import needs of an estimator. Raises Failure for an object that is none, is not fitted, or has no form in ONNX."""
    base = library("sklearn.base")
    library("skl2onnx")
    if not isinstance(estimator, base.BaseEstimator) or not hasattr(estimator, "predict"):
        raise Failure(
            f"{file}: expected a scikit-learn estimator that predicts, got a {type(estimator).__qualname__}",
            hint="XGBoost's and LightGBM's boosters: save them by Booster.save_model"
            if type(estimator).__name__ == "Booster"
            else "",
        )
    try:
        library("sklearn.utils.validation").check_is_fitted(estimator)
        width = int(estimator.n_features_in_)
    except (library("sklearn.exceptions").NotFittedError, AttributeError):
        raise Failure(f"{file}: {_kind(estimator)} is not fitted") from None
    methods = _methods(file, estimator)
    parts = foreign_parts(estimator)
    if any("c" in (part.get_booster().feature_types or []) for part in parts if hasattr(part, "get_booster")):
        raise Failure(
            f"{file}: splits on categories: what XGBoost does with a category that it has not seen has no form in ONNX",
            hint="one-hot encode the categories before the training",
        )
    libraries = sorted({type(part).__module__.partition(".")[0] for part in parts})
    names = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    estimator = copy.deepcopy(estimator)
    by_position(estimator, names)  # so that a matrix does for both, whatever kind of table it was trained on
    return Original(
        format=file_format,
        kind=_kind(estimator),
        width=width,
        names=names,
        outputs=tuple(methods),
        answer=lambda rows: _answer(estimator, methods, rows),
        convert=lambda rows, datatype: _convert(estimator, rows, datatype),
        classes=tuple(map(str, estimator.classes_)) if base.is_classifier(estimator) else (),
        datatypes=("FP32", "FP64"),
        libraries=versions_of("sklearn", "skl2onnx", *libraries, *(["onnxmltools"] if libraries else [])),
        takes_missing=bool(library("sklearn.utils").get_tags(estimator).input_tags.allow_nan),
        notes=notes,
    )


def _methods(file: Path, estimator: Any) -> dict[str, str]:
    """The outputs of the converted model, in its order, and the method that answers each."""
    base = library("sklearn.base")
    if base.is_classifier(estimator):
        if isinstance(estimator.classes_, list):
            raise Failure(f"{file}: {_kind(estimator)} has several targets; a classifier of one can be imported")
        if hasattr(estimator, "predict_proba"):
            return {"label": "predict", "probabilities": "predict_proba"}
        return {"label": "predict", "scores": "decision_function"}
    if base.is_outlier_detector(estimator):
        return {"label": "predict", "scores": "decision_function"}
    if base.is_clusterer(estimator):
        return {"label": "predict", "scores": "transform"}
    return {"prediction": "predict"}


def _answer(estimator: Any, methods: dict[str, str], rows: Rows) -> dict[str, Array]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that columns have no names: they were put in order
        try:
            table = rows.matrix()
            return {output: np.asarray(getattr(estimator, method)(table)) for output, method in methods.items()}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise Failure(f"{_kind(estimator)} refuses the rows: {' '.join(str(error).split())[:400]}") from None


def _convert(estimator: Any, rows: Rows, datatype: Datatype) -> Any:
    skl2onnx = library("skl2onnx")
    types = library("skl2onnx.common.data_types")
    number = types.FloatTensorType if datatype == "FP32" else types.DoubleTensorType
    estimator = copy.deepcopy(estimator)  # what is changed below is not to reach the one that answers
    unnamed(estimator)
    register(foreign_parts(estimator))
    if rows.texts:
        initial_types = [
            (rows.names[i], (types.StringTensorType if i in rows.texts else number)([None, 1]))
            for i in range(len(rows.columns))
        ]
    else:
        initial_types = [("features", number([None, len(rows.columns)]))]
    arguments = {
        "name": "sklearn",
        "initial_types": initial_types,
        "target_opset": OPSET,
    }  # without a name it draws one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not library("sklearn.base").is_classifier(estimator):
                return skl2onnx.convert_sklearn(estimator, **arguments)
            try:
                return skl2onnx.convert_sklearn(estimator, options={id(estimator): {"zipmap": False}}, **arguments)
            except NameError:  # classifiers without probabilities have no such option, and no map either
                return skl2onnx.convert_sklearn(estimator, **arguments)
        except Exception as error:  # a converter fails with whatever it stumbled on
            raise NotConvertible(converter_said(error)) from error


def _kind(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    if isinstance(steps, list):
        return f"{type(estimator).__name__} of {', '.join(type(step).__name__ for _, step in steps)}"
    return type(estimator).__name__
