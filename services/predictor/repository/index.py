"""The repository as RepositoryIndex shows it."""

from __future__ import annotations

from collections.abc import Iterable

from infermesh.protocol.open_inference_pb2 import RepositoryIndexResponse
from services.predictor.repository.served_model import ServedModel

__all__ = ["add_rows"]

READY, LOADING, UNLOADING, UNAVAILABLE = "READY", "LOADING", "UNLOADING", "UNAVAILABLE"


def add_rows(response: RepositoryIndexResponse, models: Iterable[ServedModel], *, only_ready: bool = False) -> None:
    """Every version of these models with its state, and the reason when there is something wrong with it.

    A version that answers can have a reason: why its new files do not. A model without any version has one row, with none.
    """
    for model in models:
        for version, (state, reason) in sorted(_states(model).items(), key=_in_order):
            if state == READY or not only_ready:
                response.models.add(name=model.name, version=version, state=state, reason=reason)


def _states(model: ServedModel) -> dict[str, tuple[str, str]]:
    """The later of these win: an old version that finishes its calls is hidden by the new one of its number."""
    reasons = model.reasons
    states = {version: (UNAVAILABLE, reason) for version, reason in reasons.items()}
    states |= {version: (UNLOADING, reasons.get(version, "")) for version in map(str, model.unloading())}
    under_way = {*model.loading, *(str(n) for n, attempt in model.attempts.items() if attempt.late)}
    states |= {version: (LOADING, reasons.get(version, "")) for version in under_way}
    states |= {version: (READY, reasons.get(version, "")) for version in map(str, model.loaded)}
    return states


def _in_order(row: tuple[str, tuple[str, str]]) -> tuple[int, str]:
    return len(row[0]), row[0]  # numbers as numbers
