"""What is said of an explanation: how it came about, on which scale it is, and what its reasons are about."""

from __future__ import annotations

import json
from collections.abc import Mapping

from infermesh.cli.explanation import Explanation
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

__all__ = ["about", "background_of", "counted", "scale_of", "shown_column"]

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


def shown_column(explanation: Explanation, classes: str, reasons: bool) -> str:
    """The column that is drawn, by its name; empty: the likeliest.

    Reasons are about the last of the columns that were explained. Bars beside them have to be of the same one: a reason for
    what became of another column would contradict them.
    """
    if classes in explanation.outputs:
        return classes
    return explanation.outputs[-1] if reasons and explanation.outputs else ""


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
