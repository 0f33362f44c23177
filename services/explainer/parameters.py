"""What a request says about how it wants to be explained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from infermesh.errors import InvalidRequest, quoted
from infermesh.parameters import PRIORITY, TIMEOUT
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.classes import ALL, Classes
from services.explainer.link import LINKS
from services.explainer.reasons import DIRECTIONS, MOST_REASONS

__all__ = ["METHODS", "Parameters", "for_the_model", "wrong"]

METHODS = ("auto", "exact", "permutation", "kernel", "linear", "tree")
PERTURBATIONS = ("interventional", "tree_path_dependent")  # shap's names

# A request's own: they say how to explain, or how this one message travels. The model sees all others.
_OWN = frozenset(
    {
        "method",
        "max_evals",
        "tolerance",
        "seed",
        "output",
        "classes",
        "link",
        "background",
        "groups",
        "feature_perturbation",
        "reasons",
        "adverse",
    }
    | {PRIORITY, TIMEOUT, "sequence_id", "sequence_start", "sequence_end"}
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one explanation, checked by themselves; whether they fit the model is found out with it.

    | key | type | meaning |
    |---|---|---|
    | `method` | string | one of `METHODS` |
    | `max_evals` | integer | most coalitions per row whose value is taken; None: as configured |
    | `tolerance` | double | sampling ends when no standard error is larger; None: when the evaluations are done |
    | `seed` | integer | of what is drawn; the same seed gives the same answer |
    | `output` | string | which output of the model; empty: its first floating one |
    | `classes` | integer or string | which columns of the output: see `Classes` |
    | `link` | string | the scale: `identity` or `logit`; empty: the graph's for `tree` and `linear`, else `identity` |
    | `background` | string | which set of rows; empty: the model's default |
    | `groups` | string | which features are one player: see `grouped`; empty: as the model declares |
    | `feature_perturbation` | string | of `tree`: what stands for a feature that is not known |
    | `reasons` | integer | how many reasons the outputs `reasons` and `reason_features` have for each row |
    | `adverse` | string | the direction that they are about: `up` or `down` |
    """

    method: str = "auto"
    max_evals: int | None = None
    tolerance: float | None = None
    seed: int = 0
    output: str = ""
    classes: Classes = ALL
    link: str = ""
    background: str = ""
    groups: str = ""
    feature_perturbation: str = "interventional"
    reasons: int = 4
    adverse: str = "up"

    @classmethod
    def of(cls, request: pb.ModelInferRequest) -> Parameters:
        """The parameters of a request; raises InvalidRequest for the first that is of the wrong type or out of range."""
        if not request.parameters:
            return _DEFAULT
        method = _one_of(request, "method", METHODS, "auto")
        perturbation = _one_of(request, "feature_perturbation", PERTURBATIONS, "interventional")
        if perturbation != "interventional" and method != "tree":
            raise wrong(
                request, "feature_perturbation", f'"interventional" for method "{method}", the other being of "tree"'
            )
        return cls(
            method,
            _integer(request, "max_evals", low=2),
            _positive(request, "tolerance"),
            _integer(request, "seed", low=0) or 0,
            _text(request, "output"),
            Classes.of(_value(request, "classes"), partial(wrong, request, "classes")),
            _one_of(request, "link", LINKS, ""),
            _text(request, "background"),
            _text(request, "groups"),
            perturbation,
            _integer(request, "reasons", low=1, high=MOST_REASONS) or 4,
            _one_of(request, "adverse", DIRECTIONS, "up"),
        )


_DEFAULT = Parameters()


def for_the_model(request: pb.ModelInferRequest) -> dict[str, pb.InferParameter]:
    """The parameters that go on to the model with every row that it is asked about."""
    return {name: parameter for name, parameter in request.parameters.items() if name not in _OWN}


def wrong(request: pb.ModelInferRequest, name: str, expected: str) -> InvalidRequest:
    """The error for a parameter whose value is not what it has to be."""
    value = _value(request, name)
    came = quoted(value) if isinstance(value, str) else repr(value)
    return InvalidRequest(
        f"model {quoted(request.model_name)}: parameter {quoted(name)}: expected {expected}, got {came}",
        reason="PARAMETER_INVALID",
    )


def _value(request: pb.ModelInferRequest, name: str) -> bool | int | float | str | None:
    """As it came; None: not given."""
    if name not in request.parameters:  # looking a key of a protobuf map up would add it
        return None
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value: bool | int | float | str | None = getattr(parameter, kind) if kind else None
    return value


def _text(request: pb.ModelInferRequest, name: str, default: str = "") -> str:
    value = _value(request, name)
    if value is None:
        return default
    if not isinstance(value, str) or not value:
        raise wrong(request, name, "a text")
    return value


def _one_of(request: pb.ModelInferRequest, name: str, values: Sequence[str], default: str) -> str:
    value = _text(request, name, default)
    if name in request.parameters and value not in values:
        raise wrong(request, name, f"one of {', '.join(values)}")
    return value


def _integer(request: pb.ModelInferRequest, name: str, *, low: int, high: int | None = None) -> int | None:
    value = _value(request, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise wrong(
            request, name, f"an integer of {low} or more" if high is None else f"an integer from {low} to {high}"
        )
    return value


def _positive(request: pb.ModelInferRequest, name: str) -> float | None:
    value = _value(request, name)
    if value is None:
        return None
    if isinstance(value, (bool, str)) or not math.isfinite(value) or value <= 0:
        raise wrong(request, name, "a number above 0")
    return float(value)
