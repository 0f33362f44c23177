"""What is said of an explanation: how it came about, on which scale it is, and what its reasons are about."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from infermesh.cli.explanation import Explanation
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

__all__ = ["about", "background_of", "counted", "no_reasons", "scale_of", "shown_column"]

SCALES = {"logit": "log-odds", "softmax": "scores before the softmax"}


def about(response: ModelInferResponse) -> str:
    """How the attributions came about: method, evaluations, scale."""
    told = response.parameters
    words = [told["infermesh_method"].string_param, f"{told['infermesh_evaluations'].int64_param:,} evaluations a row"]
    if scale := scale_of(response):
        words.append(scale)
    if not told["infermesh_converged"].bool_param:
        words.append("not converged: see the errors")
    return ", ".join(words)


def scale_of(response: ModelInferResponse) -> str:
    """What attributions, base values and predictions are; empty: what the model answers."""
    link = response.parameters["infermesh_link"].string_param
    return SCALES.get(link, "" if link in ("identity", "") else link)


def shown_column(
    explanation: Explanation, classes: str, reasons: bool, answer: ModelInferResponse | None = None
) -> str:
    """The column that is drawn, by its name; empty: the likeliest.

    Reasons are about the column that the answer tells, else the last one that was explained. Bars beside them have to be of the
    same one: a reason for what became of another column would contradict them.
    """
    if classes in explanation.outputs:
        return classes
    if not reasons or not explanation.outputs:
        return ""
    told = answer.parameters["infermesh_reasons_class"].string_param if answer is not None else ""
    return told if told in explanation.outputs else explanation.outputs[-1]


def no_reasons(explanation: Explanation, row: int, column: int) -> str:
    """Why a row has no reasons: nothing counted, or nobody knows what was more than noise."""
    if explanation.std_error is not None and row < explanation.rows:
        errors = np.asarray(explanation.std_error, np.float64)[row, :, column]
        if not np.isfinite(errors).all():
            return "not known: the errors are not, of so few evaluations; ask with more"
        if errors.any():
            return "no feature counted against it by more than its standard error"
    return "no feature counted against it"


def counted(adverse: str) -> str:
    """What the features of a reason did."""
    return "lowered" if adverse == "down" else "raised"


def background_of(properties: Mapping[str, str], asked: str = "") -> str:
    """The background that was asked for, or else the model's, as the explainer's metadata describe it; empty: they do not."""
    name = asked or properties.get("infermesh.background", "")
    try:
        sets = json.loads(properties.get("infermesh.backgrounds.sets", "[]"))
        found = next(each for each in sets if each["name"] == name)
        summary = "" if found["summary"] == "none" else f", {found['summary']}"
        return f"{name}: {int(found['rows']):,} rows of {found['source']}{summary}"
    except (ValueError, TypeError, KeyError, StopIteration):
        return name
