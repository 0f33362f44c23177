"""Which method explains a request, and how much work it may be."""

from __future__ import annotations

from typing import NamedTuple

from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.config import MethodsConfig
from services.explainer.methods.kernel import HELD_VALUES, kernel_pairs_within
from services.explainer.methods.kernel_design import fewest_pairs
from services.explainer.methods.permutation import evaluations_of, pairs_within
from services.explainer.parameters import Parameters, wrong

__all__ = ["Chosen", "Work", "check_method", "choose"]

KERNEL_FEATURES = (
    256  # of more, `auto` samples permutations: the regression costs the square of the features for each pair
)
EXACT_SHARE = 0.5  # of the time that is left, which `exact` may take by what is known of the model's pace


class Work(NamedTuple):
    """How much there is to explain, and the time for it."""

    rows: int
    columns: int
    backgrounds: int
    row_s: float  # that one row takes the model, about
    left_s: float  # until the deadline


class Chosen(NamedTuple):
    """`exact`, or `permutation` or `kernel` with so many pairs."""

    method: str
    pairs: int = 0


def check_method(request: pb.ModelInferRequest, parameters: Parameters, players: int, config: MethodsConfig) -> None:
    """Raise InvalidRequest for a method or a number of evaluations that can't be, before anybody works for it."""
    method, max_evals = parameters.method, parameters.max_evals
    if max_evals is not None and max_evals > config.max_evals:
        raise wrong(request, "max_evals", f"at most {config.max_evals}")
    if method == "exact" and players > config.exact_features:
        raise wrong(
            request,
            "method",
            f'"kernel" or "permutation" for {players} features, "exact" being for at most {config.exact_features}',
        )
    if max_evals is None or method in ("tree", "linear"):
        return
    if method == "exact" and max_evals < 2**players:
        raise wrong(request, "max_evals", f'all {2**players} coalitions of {players} features for method "exact"')
    if method == "kernel" and not _kernel_pairs(max_evals, players):
        least = 2 + 2 * fewest_pairs(players)
        raise wrong(request, "max_evals", f'at least {least}, for method "kernel" and {players} features')
    if (
        method in ("auto", "permutation")
        and not pairs_within(max_evals, players)
        and not _all_within(max_evals, players)
    ):
        raise wrong(request, "max_evals", f"at least {2 * players}, for one pair of permutations of {players} features")


def choose(parameters: Parameters, players: int, work: Work, config: MethodsConfig) -> Chosen:
    """The method for a request that `check_method` let pass, without regard to what the model's graph would allow.

    `auto` is exact while that is affordable, by the number of features, by `max_evals`, by the rows to ask about, and by the time
    that they take. Then it samples coalitions, or permutations where there are too few evaluations, or too many features or
    values.
    """
    method, max_evals = parameters.method, parameters.max_evals
    if method == "exact" or (method == "auto" and _is_exact(players, max_evals, work, config)):
        return Chosen("exact")
    evaluations = max_evals if max_evals is not None else evaluations_of(config.pairs, players)
    if method == "kernel" and max_evals is None:
        evaluations = max(evaluations, 2 + 2 * fewest_pairs(players))
    pairs = _kernel_pairs(evaluations, players)
    held = pairs * work.rows * work.columns
    if method == "kernel" or (method == "auto" and pairs and players <= KERNEL_FEATURES and held <= HELD_VALUES):
        return Chosen("kernel", pairs)
    return Chosen("permutation", pairs_within(evaluations, players) if max_evals is not None else config.pairs)


def _is_exact(players: int, max_evals: int | None, work: Work, config: MethodsConfig) -> bool:
    if players > config.exact_features or not _all_within(max_evals, players):
        return False
    asked = work.rows * work.backgrounds << players
    return asked <= config.exact_rows and asked * work.row_s <= EXACT_SHARE * work.left_s


def _all_within(max_evals: int | None, players: int) -> bool:
    return max_evals is None or bool(max_evals >> players)


def _kernel_pairs(evaluations: int, players: int) -> int:
    return kernel_pairs_within(evaluations, players) if players > 1 else 1
