"""The filter that makes the transformer one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.errors import (
    FailedPrecondition,
    InvalidRequest,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    quoted,
)
from infermesh.parameters import FEATURES
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataRequest
from infermesh.service import Filter, Infer, InferenceService
from services.transformer.columns import Rows
from services.transformer.fetch import fetched
from services.transformer.overrides import OVERRIDDEN
from services.transformer.plan import Entities, JoinPlan
from services.transformer.policy import micros
from services.transformer.served.line import ServedEntry
from services.transformer.served.log import ServedLog
from services.transformer.statuses import add_statuses
from services.transformer.store import FeatureStore, StoreUnavailable

__all__ = ["JoinFeatures"]

GIVEN = "given"  # what is said of features when the request brought the inputs that are made of them
KNOWN_S = 1.0
MAX_KNOWN = 1024


@dataclass
class JoinFeatures(Filter):
    """Replaces the entity ids of a request by the features that are stored for them.

    A request for a model without a plan passes untouched, and so does one that brings the looked-up inputs themselves instead of
    the ids, where the service allows it: no row is read for it and no policy is asked, whoever sends it. The response passes as
    it is, with the parameter `infermesh_features` added: `given` for such a request, else present, stale, cached, defaulted or
    redis_unavailable, the worst of all rows; it is absent where there is no plan. Who asks for it gets the status of each value
    as a further output, and who overrides features is told which.

    `models` is asked whether model and version exist when a request is refused here: that they do not is the graver fault. That
    they do is believed for a second, so that a flood of wrong requests is none for the model.
    """

    plans: Mapping[str, JoinPlan]
    store: FeatureStore
    models: InferenceService
    clock: Callable[[], float] = time.time  # wall clock: it is compared with event times
    log: ServedLog | None = None
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, str, str], float] = field(default_factory=dict, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        plan = self.plans.get(request.model_name)
        if plan is None or not (plan.entities or plan.fields):  # the latter has steps after the model alone
            return await then(request, call)
        try:
            entities = plan.read(request, call.caller.tenant)
        except (InvalidRequest, ResourceExhausted, PermissionDenied):
            await self._check_model(request, call)
            raise
        if entities is None:
            response = await then(request, call)
            plan.count_given(request)
            response.parameters[FEATURES].string_param = GIVEN
            return response
        try:
            found = await self._found(plan, entities, call)
            now_us = micros(self.clock())
            if isinstance(found, StoreUnavailable):
                rows, served = plan.serve_without(entities, str(found), found.kept, now_us)
            else:
                rows, served = plan.serve(entities, found, now_us)
            joined = plan.joined(request, entities, rows)
        except InvalidRequest:
            await self._check_model(request, call)
            raise
        except (FailedPrecondition, ResourceExhausted, Unavailable) as error:
            if not isinstance(error, Unavailable):  # without the store, the backend is not asked for nothing
                await self._check_model(request, call)
            text = f"model {quoted(request.model_name)}: {error.message}"
            raise type(error)(text, reason=error.reason, rejected=error.rejected) from None
        log = self.log if self.log is not None and self.log.wants(request.model_name, call) else None
        try:
            response = await then(joined, call)
        except MeshError as error:
            if log is not None:
                log.take(_entry(plan, entities, rows, found, joined, now_us, call, "", error.code))
            raise
        if log is not None:
            log.take(_entry(plan, entities, rows, found, joined, now_us, call, response.model_version, "OK"))
        response.parameters[FEATURES].string_param = served.word
        if entities.wants_statuses:
            said, is_away = _said(found)
            statuses = plan.statuses(entities, said, now_us, kept=is_away)
            add_statuses(request, response, statuses, plan.feature_names)
        if entities.overrides:
            names = ",".join(f"{alias}.{feature}" for alias, feature in entities.overrides)
            response.parameters[OVERRIDDEN].string_param = names
        return response

    async def _found(self, plan: JoinPlan, entities: Entities, call: Call) -> Sequence[bytes | None] | StoreUnavailable:
        try:
            if plan.is_packed:
                return await self.store.lookup(plan.keys(entities), call.deadline)
            return await fetched(plan.uses, entities, self.store, call.deadline)
        except StoreUnavailable as away:
            return away

    async def _check_model(self, request: ModelInferRequest, call: Call) -> None:
        key, now = (request.model_name, request.model_version, call.variant), self.monotonic()
        if now - self._known.get(key, -KNOWN_S) < KNOWN_S:
            return
        asked = ModelMetadataRequest(name=request.model_name, version=request.model_version)
        try:
            await self.models.metadata(asked, call)
        except (NotFound, InvalidRequest):
            raise
        except MeshError:
            return  # it can't be told now, and the request is wrong in any case
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = now

    def __repr__(self) -> str:
        return f"JoinFeatures({', '.join(self.plans)})"


def _said(found: Sequence[bytes | None] | StoreUnavailable) -> tuple[Sequence[bytes | None] | None, bool]:
    """What is known of the rows, and whether that is from before the store went away."""
    return (found.kept, True) if isinstance(found, StoreUnavailable) else (found, False)


def _entry(
    plan: JoinPlan,
    entities: Entities,
    rows: Mapping[str, Rows],
    found: Sequence[bytes | None] | StoreUnavailable,
    joined: ModelInferRequest,
    now_us: int,
    call: Call,
    version: str,
    status: str,
) -> ServedEntry:
    said, is_away = _said(found)
    tenant, variant = call.caller.tenant, call.variant
    return ServedEntry(
        plan, entities, rows, said, is_away, joined, now_us, call.request_id, tenant, variant, version, status
    )
