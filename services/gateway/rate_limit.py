"""How often a caller may call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from infermesh.call import Call
from infermesh.errors import MeshError, Quota, ResourceExhausted, Unavailable, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import OPENING, Filter, Infer
from infermesh.transport.status import LIMIT, REMAINING, RESET
from services.gateway.limit_rules import COSTS, Level, Plan, Plans
from services.gateway.limiter import Limiter, Refusal

__all__ = ["RateLimit", "RateLimitByCost", "rows_of"]

STORE_AWAY_S = 0.5  # about when the store is tried again

ONE_CALL = (1, 0, 0)  # and no rows or bytes
INFERENCES = ("ModelInfer", "ModelStreamInfer")


@dataclass(kw_only=True)
class RateLimit(Filter):
    """Refuses calls past a limit with RESOURCE_EXHAUSTED, the time to come back and the limit; every RPC counts as one call, each
    message of a stream too.

    UNAVAILABLE, before any work: a shared limit that can't be asked now, and that says so (`on_store_failure: closed`). A limit
    that only observes refuses nobody.

    With `told` each answer says beside it what is left of the limit that is nearest to its end, as a refusal does.
    """

    plans: Plans
    limiter: Limiter
    observe: Callable[
        [str, str], None
    ]  # the name of a caller who is past a limit, empty: not known by name; and the mode
    tell: Callable[[str, str, Call, MeshError], None] = lambda rpc, model, call, error: None  # for the log
    told: bool = False

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        if rpc != OPENING:  # the requests of a stream are counted, and cost
            await self._decide(rpc, model, call, self.plans.of(model, call), ONE_CALL)

    async def _decide(self, rpc: str, model: str, call: Call, plan: Plan, costs: tuple[int, int, int]) -> None:
        limiter = self.limiter
        trailing = call.trailing if self.told else None
        tell = partial(_tell, trailing) if trailing is not None and LIMIT not in trailing else None
        if plan.shared:
            refusal, over = await limiter.decide(plan, costs, tell)
        else:
            refusal, over = limiter.decide_here(plan.local, costs, tell)
        if over:
            self.observe(call.caller.name, "observe")
        if refusal is not None:
            self.observe(call.caller.name, "enforce")
            if tell is not None and not refusal.store_away:  # a stream's last request may be one that is refused
                tell(refusal.level, refusal.left, refusal.reset_s)
            error = _error(rpc, refusal, call)
            self.tell(rpc, model, call, error)
            raise error

    def __repr__(self) -> str:
        return f"RateLimit({', '.join(map(repr, self.plans.rules))})"


class RateLimitByCost(RateLimit):
    """The same where rules count rows or bytes, which `admit` does not see: an inference pays all its limits at once when its
    message is there, so that none is charged for a call that another refuses. Other RPCs have no rows and no bytes."""

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        if rpc == OPENING:
            return
        plan = self.plans.of(model, call)
        if plan.has_costs:
            # No model: bytes that are no message, which nobody sees later; the empty name is refused later, and pays twice.
            if rpc in INFERENCES and model:
                return
            plan = plan.for_requests()
        await self._decide(rpc, model, call, plan, ONE_CALL)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        model = request.model_name
        plan = self.plans.of(model, call)
        if plan.has_costs:
            await self._decide("ModelInfer", model, call, plan, (1, rows_of(request), request.ByteSize()))
        return await then(request, call)


def rows_of(request: ModelInferRequest) -> int:
    """The first dimension of the first input; 1 for what has none, and for what is no number of rows: others refuse that."""
    for tensor in request.inputs:
        return max(1, tensor.shape[0]) if tensor.shape else 1
    return 1


def _tell(trailing: dict[str, str], level: Level, left: int, reset_s: float) -> None:
    trailing[LIMIT] = str(level.limit.burst)
    trailing[REMAINING] = str(left)
    trailing[RESET] = str(math.ceil(reset_s))


def _error(rpc: str, refusal: Refusal, call: Call) -> MeshError:
    level = refusal.level
    rule, limit = level.rule, level.limit
    if refusal.store_away:
        return Unavailable(
            f"{rpc}: the limit {rule.name} of {level.of} can't be looked up now, and lets nobody in meanwhile",
            reason="LIMIT_STORE_UNAVAILABLE",
            rejected=True,
            retry_after_s=STORE_AWAY_S,
        )
    what = COSTS[rule.cost] if rule.cost else "calls"
    who = level.of if rule.per != ("caller",) else f"the caller {quoted(call.caller.name)}"
    about = f"limit {rule.name}: {limit.rate:g} {what}/s, burst {limit.burst}"
    quota = Quota(f"rule:{rule.name}", limit.burst, refusal.left, refusal.reset_s)
    if math.isinf(refusal.wait_s) and rule.shared and refusal.cost <= rule.limit.burst:
        return ResourceExhausted(
            f"{rpc}: the call counts as {refusal.cost} {what}, more than {who} may have at once while the store of the "
            f"limits is away ({about}); come back when it is there, or send it in parts",
            reason="RATE_LIMITED",
            rejected=True,
            retry_after_s=STORE_AWAY_S,
        ).limited_by(quota)
    if math.isinf(refusal.wait_s):
        return ResourceExhausted(
            f"{rpc}: the call counts as {refusal.cost} {what}, more than {who} may ever have at once ({about}); "
            "send it in parts",
            reason="COST_OVER_BURST",
            rejected=True,
        ).limited_by(quota)
    return ResourceExhausted(
        f"{rpc}: {who} is past its rate ({about}); come back in {refusal.wait_s:.3f} s",
        reason="RATE_LIMITED",
        rejected=True,
        retry_after_s=refusal.wait_s,
    ).limited_by(quota)
