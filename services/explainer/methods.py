"""Which method explains a request, and how much work it may be."""

from __future__ import annotations

from typing import NamedTuple

from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.config import MethodsConfig
from services.explainer.parameters import Parameters, wrong
from services.explainer.permutation import pairs_within

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """`exact`, or `permutation` with so many pairs."""

    method: str
    pairs: int = 0


def choose(
    request: pb.ModelInferRequest,
    parameters: Parameters,
    players: int,
    rows: int,
    backgrounds: int,
    config: MethodsConfig,
) -> Chosen:
    """The method for a request; `auto` is exact while that is affordable. Raises InvalidRequest for what can't be done."""
    max_evals = parameters.max_evals
    if max_evals is not None and max_evals > config.max_evals:
        raise wrong(request, "max_evals", f"at most {config.max_evals}")
    all_coalitions = 2**players if players <= config.exact_features else None
    if parameters.method == "exact":
        if all_coalitions is None:
            raise wrong(
                request,
                "method",
                f'"permutation" for {players} features, "exact" being for at most {config.exact_features}',
            )
        if max_evals is not None and max_evals < all_coalitions:
            raise _too_few(request, f'all {all_coalitions} coalitions of {players} features for method "exact"')
        return Chosen("exact")
    if (
        parameters.method == "auto"
        and all_coalitions is not None
        and all_coalitions <= (max_evals or all_coalitions)
        and rows * all_coalitions * backgrounds <= config.exact_rows
    ):
        return Chosen("exact")
    if max_evals is None:
        return Chosen("permutation", config.pairs)
    pairs = pairs_within(max_evals, players)
    if not pairs:
        raise _too_few(request, f"at least {2 * players}, for one pair of permutations of {players} features")
    return Chosen("permutation", pairs)


def _too_few(request: pb.ModelInferRequest, expected: str) -> InvalidRequest:
    return wrong(request, "max_evals", expected)
