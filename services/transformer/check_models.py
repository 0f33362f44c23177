"""Whether the models take what the feature file makes; told, never enforced: starting must not depend on a backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import MeshError
from infermesh.protocol.open_inference_pb2 import ModelMetadataRequest
from services.transformer.backends import Backends
from services.transformer.describe import faults_of
from services.transformer.plan import JoinPlan

__all__ = ["check_models", "watch_models"]

FIRST_S, LATER_S = (
    1.0,
    60.0,
)  # a backend that starts with us is asked soon again; a model that changes is found out within a minute
ASK_S = 5.0

_log = logging.getLogger(__name__)


async def watch_models(plans: Mapping[str, JoinPlan], backends: Backends, tell: Callable[[str, int], None]) -> None:
    """Check all models now and then, until cancelled. `tell(model, faults)` gets every result; a new fault is logged."""
    known: dict[str, list[str]] = {}
    while True:
        try:
            await check_models(plans, backends, tell, known)
        except Exception:  # the next look may succeed
            _log.exception("checking the models failed")
        await asyncio.sleep(LATER_S if len(known) == len(plans) else FIRST_S)


async def check_models(
    plans: Mapping[str, JoinPlan], backends: Backends, tell: Callable[[str, int], None], known: dict[str, list[str]]
) -> None:
    """Compare each plan with its model's metadata; `known` is what was found so far, and is brought up to date."""
    for model, plan in plans.items():
        try:
            metadata = await backends.model_metadata(ModelMetadataRequest(name=model), Call(Deadline.after(ASK_S)))
        except MeshError as error:
            if model not in known:
                _log.debug("model could not be checked", extra={"model": model, "reason": error.message})
            continue
        faults = faults_of(metadata, plan, backends.after.get(model))
        tell(model, len(faults))
        if faults != known.get(model):
            for fault in faults:
                _log.warning("feature file and model disagree", extra={"model": model, "fault": fault})
        known[model] = faults
