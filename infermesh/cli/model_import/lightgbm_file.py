"""Models in LightGBM's own text files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.needs import library, versions_of
from infermesh.cli.model_import.original import Datatype, NotConvertible, Original
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.trees import by_class, converter_said, numbers
from infermesh.tensors import Array

__all__ = ["load_lightgbm"]

OPSET = 15  # the newest that onnxmltools knows for trees

TRY_SECONDS = 120  # a text of gigabytes is read in less
TRY = "import sys, lightgbm; lightgbm.Booster(model_file=sys.argv[1]).dump_model()"  # errors are said later, by this process

_CLASSIFIES = frozenset({"binary", "multiclass", "multiclassova"})
_UNNAMED = re.compile(r"Column_\d+")  # what LightGBM calls the columns of an array


def load_lightgbm(file: Path) -> Original:
    """The model of a .txt file, which has the trees up to the best iteration unless it was saved otherwise.

    Raises Failure for a file that LightGBM refuses, and for models that have no converter.
    """
    lightgbm = library("lightgbm")
    library("onnxmltools")
    text = _whole(file)
    _try_apart(file)
    try:
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise Failure(f"{file}: LightGBM can't read it: {converter_said(error)}") from None
    described = booster.dump_model(num_iteration=1)
    objective = str(described.get("objective", "")).partition(" ")[0]
    if "\nis_linear=1" in text:
        raise Failure(f"{file}: linear trees have no form in ONNX", hint="train with linear_tree=false")
    if not objective:
        raise Failure(f"{file}: a model of a custom objective: what its raw scores mean is not in the file")
    names = tuple(booster.feature_name())
    notes = []
    if booster.pandas_categorical:
        notes.append(
            "trained on pandas categories: rows, and later requests, are to hold their codes, in the order of "
            + "; ".join(", ".join(map(str, categories[:6])) for categories in booster.pandas_categorical)
        )
    classifies = objective in _CLASSIFIES

    def answer(rows: Rows) -> dict[str, Array]:
        try:
            values = np.asarray(booster.predict(numbers(rows, "LightGBM")))
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise Failure(f"LightGBM refuses the rows: {converter_said(error)}") from None
        return by_class(values) if classifies else {"prediction": values}

    def convert(rows: Rows, datatype: Datatype) -> Any:
        types = library("onnxmltools.convert.common.data_types")
        try:
            proto = library("onnxmltools").convert_lightgbm(
                booster,
                name="lightgbm",
                initial_types=[("features", types.FloatTensorType([None, len(rows.columns)]))],
                target_opset=OPSET,
                zipmap=False,
            )
        except Exception as error:  # a converter fails with whatever it stumbled on
            raise NotConvertible(converter_said(error)) from error
        if objective == "multiclassova":
            _one_against_all(proto)
        return proto

    return Original(
        format="lightgbm",
        kind=f"LightGBM booster, {objective}, {booster.num_trees()} trees",
        width=booster.num_feature(),
        names=() if all(map(_UNNAMED.fullmatch, names)) else names,
        outputs=("label", "probabilities") if classifies else ("prediction",),
        answer=answer,
        convert=convert,
        classes=tuple(str(i) for i in range(max(2, described["num_class"]))) if classifies else (),
        libraries=versions_of("lightgbm", "onnxmltools"),
        takes_missing=True,
        notes=tuple(notes),
    )


def _try_apart(file: Path) -> None:
    """Read the file in a process of its own first: LightGBM 4.7 reads past its memory for some files that are damaged, and would
    end this process without a word."""
    # -P: without it, a lightgbm.py in the working folder would be run.
    command = [sys.executable, "-P", "-c", TRY, str(file)]
    try:
        tried = subprocess.run(command, capture_output=True, check=False, timeout=TRY_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failure(f"{file}: LightGBM can't read it within {TRY_SECONDS} s") from None
    if tried.returncode < 0:
        raise Failure(f"{file}: LightGBM can't read it: it crashes on this file, which is damaged")


def _one_against_all(proto: Any) -> None:
    """Each class has a probability of its own there; onnxmltools 1.16 writes a softmax over them."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "TreeEnsembleClassifier" and attribute.name == "post_transform":
                attribute.s = b"LOGISTIC"


def _whole(file: Path) -> str:
    """The text, to its end: of a file that was cut off LightGBM may take the trees that are left."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{file}: LightGBM can't read it: this is no UTF-8 text") from None
    if "end of trees" not in text:
        raise Failure(f"{file}: LightGBM can't read it: the file is cut off, it has no line `end of trees`")
    return text
