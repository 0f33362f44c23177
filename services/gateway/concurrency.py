"""How many calls a backend may have at a time, and who yields first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.errors import ResourceExhausted, quoted
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.parameters import PRIORITY, priority_of
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer
from services.gateway.limits_config import ConcurrencyConfig

__all__ = ["CONCURRENCY_LIMITED", "ConcurrencyLimit", "shares"]

CONCURRENCY_LIMITED = "CONCURRENCY_LIMITED"
PUSHBACK_S = 0.1


def shares(config: ConcurrencyConfig, backend: str) -> dict[str, int]:
    """How many calls may be under way when one of this kind is let in; at least one but for shadows, which may have none."""
    most = config.backends.get(backend, config.max_in_flight)
    return {
        "prediction": most,
        "background": max(1, int(most * config.background)),
        "explanation": max(1, int(most * config.explanations)),
        "shadow": int(most * config.shadows),
    }


@dataclass(kw_only=True)
class ConcurrencyLimit(Filter):
    """Refuses calls past the backend's limit with RESOURCE_EXHAUSTED at once, before any work.

    `most` has for each kind of call how many calls, of all kinds, may be under way before it: copies yield first, then
    explanations and predictions in the background, and the last places are kept for predictions. It stands outside of retries:
    all attempts of a call are one. A stream counts until its first answer.
    """

    backend: str
    most: Mapping[str, int]
    background_from: int = 2
    enforce: bool = True
    observe: Callable[[str], None]  # the kind of a call that is refused, or would be
    in_flight: int = field(default=0, init=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        kind = self._kind(request, call)
        if self.in_flight >= self.most[kind]:
            self.observe(kind)
            if self.enforce:
                raise self._refusal(request, kind)
        self.in_flight += 1
        try:
            return await then(request, call)
        finally:
            self.in_flight -= 1

    def _kind(self, request: ModelInferRequest, call: Call) -> str:
        if call.shadow:
            return "shadow"
        if request.model_name.endswith(EXPLAINER_SUFFIX):
            return "explanation"
        if PRIORITY in request.parameters and priority_of(request) >= self.background_from:
            return "background"
        return "prediction"

    def _refusal(self, request: ModelInferRequest, kind: str) -> ResourceExhausted:
        most = self.most[kind]
        return ResourceExhausted(
            f"model {quoted(request.model_name)}: the backend {self.backend} has {self.in_flight} calls, and takes another "
            f"{kind} while it has fewer than {most}",
            reason=CONCURRENCY_LIMITED,
            rejected=True,
            retry_after_s=PUSHBACK_S,
        )

    def __repr__(self) -> str:
        return f"ConcurrencyLimit({self.most['prediction']}{'' if self.enforce else ', observe'})"
