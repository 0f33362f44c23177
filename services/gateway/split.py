"""Which variant answers."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, Unavailable, quoted
from infermesh.names import check_version
from infermesh.parameters import MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from infermesh.service import InferenceService
from services.gateway.authenticate import VARIANT_HEADER
from services.gateway.backends import Backend
from services.gateway.sticky import StickyKey, StickySplit

__all__ = ["Split", "Variant"]

Count = Callable[[], None]
PickCounter = Callable[[str, str, str], Count]  # model as routed, variant, by → what counts one pick


@dataclass(frozen=True)
class Variant:
    """One alternative: what it is asked for, and the service that answers. `model` is empty for the name that callers use."""

    name: str
    weight: float
    backend: Backend
    service: InferenceService
    version: str = ""
    model: str = ""


class Split(InferenceService):
    """Chooses one variant for each call, by weight, and says in the response which one answered.

    With a sticky key the same key gets the same variant; a call without one is split at random, and counted as a miss. Asked for
    past the split, and counted apart: a version (`model_version`), which must be one that the variants list, if they list any,
    and a variant by its name in the metadata, whose right to be there authentication has checked. The choice is made here, once;
    hops below are told by `call.variant`.
    """

    def __init__(
        self,
        label: str,
        variants: Sequence[Variant],
        *,
        salt: str = "",
        sticky: StickyKey | None = None,
        count: PickCounter,
        count_miss: Count,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.label = label
        self.variants = tuple(variants)
        self._sticky = sticky
        self._sticky_split = StickySplit(salt or label, [(v.name, v.weight) for v in variants])
        self._count_miss = count_miss
        self._draw = draw
        total = sum(v.weight for v in variants)
        self._bounds = [bound / total for bound in accumulate(v.weight for v in variants)]
        while len(self._bounds) > 1 and self._bounds[-2] >= self._bounds[-1]:
            self._bounds.pop()  # so that a number just under 1 never falls on a last variant without weight
        self._only = next((at for at, v in enumerate(variants) if v.weight == total), None)
        self._by_weight = sorted((v for v in variants if v.weight), key=lambda v: -v.weight)
        self._by_name = {v.name: v for v in variants}
        self._by_version = {int(v.version): v for v in sorted(variants, key=lambda v: v.weight) if v.version}
        self._counts = {
            by: [count(label, v.name, by) for v in variants] for by in ("weight", "sticky", "version", "header")
        }

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        variant = self._choose(request, call)
        response = await variant.service.infer(request, call.derive(variant=variant.name))
        return _signed(response, request, variant)

    async def stream(self, request: ModelInferRequest, call: Call) -> AsyncIterator[ModelInferResponse]:
        variant = self._choose(request, call)
        answers = variant.service.stream(request, call.derive(variant=variant.name))
        async with aclosing(answers) as responses:  # type: ignore[type-var]  # a generator, as everywhere
            async for response in responses:
                yield _signed(response, request, variant)

    async def metadata(self, request: ModelMetadataRequest, call: Call) -> ModelMetadataResponse:
        """What the variant that was asked for says, else the heaviest that can say something."""
        asked = self.asked_for(request.name, request.version, call)
        failure: NotFound | Unavailable | None = None
        for variant in [asked] if asked else self._by_weight:
            try:
                response = await variant.service.metadata(request, call.derive(variant=variant.name))
            except (NotFound, Unavailable) as error:
                failure = failure or error
                continue
            response.name = request.name
            if self._by_version:
                response.versions[:] = [str(version) for version in sorted(self._by_version)]
            return response
        assert failure is not None  # a split has a variant with weight
        raise failure

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Whether any variant that gets calls can answer; with a version: whether that one can."""
        asked = self._version(model, version) if version else None
        variants = [asked] if asked else self._by_weight
        results = await asyncio.gather(*(v.service.ready(model, version) for v in variants), return_exceptions=True)
        if True not in results and all(isinstance(result, BaseException) for result in results):
            raise next(result for result in results if isinstance(result, BaseException))
        return True in results

    def asked_for(self, model: str, version: str, call: Call) -> Variant | None:
        """The variant that the call names, by a version or by itself; None when it leaves the choice to the split.

        Raises NotFound for one that there is not, InvalidRequest for a version that is no number, or for both at odds.
        """
        name = call.metadata.get(VARIANT_HEADER, "")
        if not name:
            return self._version(model, version) if version else None
        variant = self._by_name.get(name)
        if variant is None:
            raise NotFound(
                f"model {quoted(model)}: no variant {quoted(name)}, it has {', '.join(self._by_name)}",
                reason="VARIANT_NOT_FOUND",
                rejected=True,
            )
        if version and variant.version and self._version(model, version).version != variant.version:
            raise InvalidRequest(
                f"model {quoted(model)}: the variant {name} is version {variant.version}, and version {version} was asked "
                "for: leave one of them out",
                reason="VARIANT_VERSION_CONFLICT",
                rejected=True,
            )
        return variant

    def heaviest(self) -> Variant:
        """The variant that most calls go to."""
        return self._by_weight[0]

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{v.name} {v.weight:g}' for v in self.variants)})"

    def _choose(self, request: ModelInferRequest, call: Call) -> Variant:
        if request.model_version or VARIANT_HEADER in call.metadata:
            asked = self.asked_for(request.model_name, request.model_version, call)
            if asked is not None:
                by = "header" if call.metadata.get(VARIANT_HEADER) else "version"
                self._counts[by][self.variants.index(asked)]()
                return asked
        if self._only is not None:
            at, by = self._only, "weight"
        elif self._sticky is not None and (key := self._sticky.of(request, call)):
            at, by = self._sticky_split.pick(key), "sticky"
        else:
            if self._sticky is not None:
                self._count_miss()
            at, by = bisect_right(self._bounds, self._draw(), hi=len(self._bounds) - 1), "weight"
        self._counts[by][at]()
        return self.variants[at]

    def _version(self, model: str, version: str) -> Variant:
        if not self._by_version:  # none is listed: whether it exists is for the backend to say, after the model
            return self._by_weight[0]
        check_version(model, version)
        variant = self._by_version.get(int(version))
        if variant is None:
            listed = ", ".join(str(each) for each in sorted(self._by_version))
            raise NotFound(
                f"model {quoted(model)}: no version {version}, its route lists {listed}",
                reason="VERSION_NOT_FOUND",
                rejected=True,
            )
        return variant


def _signed(response: ModelInferResponse, request: ModelInferRequest, variant: Variant) -> ModelInferResponse:
    response.parameters[VARIANT].string_param = variant.name
    if variant.model:
        response.parameters[MODEL].string_param = variant.model
        response.model_name = request.model_name
    return response
