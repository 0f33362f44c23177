"""Which variant answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, Unavailable, quoted
from infermesh.filters.circuit_breaker import BREAKER_OPEN
from infermesh.names import check_version
from infermesh.parameters import GENERATION, MODEL, PICKED_BY, VARIANT
from infermesh.protocol.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from infermesh.service import InferenceService
from services.gateway.authenticate import DEBUG_HEADER, VARIANT_HEADER
from services.gateway.backends import Backend
from services.gateway.chooser import Chooser

__all__ = ["Split", "Variant"]

BY_BREAKER = "breaker"  # what decided: the variant that had the call's share is left alone by its breaker

Count = Callable[[], None]
PickCounter = Callable[[str, str, str], Count]  # model as routed, variant, by → what counts one pick


def _nothing() -> None:
    """Nobody watches whether the variant is ready."""


@dataclass(frozen=True)
class Variant:
    """One alternative: what it is asked for, and the service that answers. `model` is empty for the name that callers use.
    `suspect` is called when a call finds it away."""

    name: str
    weight: float
    backend: Backend
    service: InferenceService
    version: str = ""
    model: str = ""
    suspect: Count = _nothing


class Split(InferenceService):
    """Chooses one variant for each call, and says in the response which one answered; on an error too, for who counts it.

    The choice is the chooser's, by rules, sticky key and weights. Asked for past it, and counted apart: a version
    (`model_version`), which must be one that the variants list, if they list any, and a variant by its name in the metadata,
    whose right to be there authentication has checked. The choice is made here, once; hops below are told by `call.variant`.
    `generation` is that of the route table, for callers who may debug and ask for it.
    """

    def __init__(
        self,
        label: str,
        variants: Sequence[Variant],
        chooser: Chooser,
        *,
        count: PickCounter,
        count_miss: Count,
        generation: int = 0,
    ) -> None:
        self.label = label
        self.variants = tuple(variants)
        self.chooser = chooser
        self._generation = generation
        self._count = count
        self._count_miss = count_miss
        self._counts: dict[
            tuple[str, int], Count
        ] = {}  # made when first needed: a large table would have thousands at 0
        self._by_weight = sorted((v for v in variants if v.weight), key=lambda v: -v.weight)
        self._by_name = {v.name: v for v in variants}
        self._by_version = {v.version: v for v in sorted(variants, key=lambda v: v.weight) if v.version}
        self._versions = sorted(self._by_version, key=lambda v: (not v.isdecimal(), len(v), v))  # numbers, then labels
        self._version_labels = tuple(v for v in self._versions if not v.isdecimal())

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        variant, by = self.choose(request, call)
        passed: tuple[Variant, ...] = ()
        while True:
            _tell(call, variant, by)
            try:
                response = await variant.service.infer(request, call.derive(variant=variant.name))
            except BaseException as error:
                _failed(error, variant)
                passed = (*passed, variant)
                other = self._instead(request, call, error, by, passed)
                if other is None:
                    raise
                variant, by = other, BY_BREAKER
                continue
            return self._signed(response, request, call, variant, by)

    async def stream(self, request: ModelInferRequest, call: Call) -> AsyncIterator[ModelInferResponse]:
        variant, by = self.choose(request, call)
        passed: tuple[Variant, ...] = ()
        while True:
            _tell(call, variant, by)
            answers = variant.service.stream(request, call.derive(variant=variant.name))
            try:
                async with aclosing(answers) as responses:  # type: ignore[type-var]  # a generator, as everywhere
                    async for response in responses:
                        yield self._signed(response, request, call, variant, by)
                return
            except BaseException as error:
                _failed(error, variant)
                passed = (*passed, variant)
                other = self._instead(
                    request, call, error, by, passed
                )  # a breaker refuses before the first answer alone
                if other is None:
                    raise
                variant, by = other, BY_BREAKER

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
                response.versions[:] = self._versions
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

        Raises NotFound for one that there is not, InvalidRequest for a version that is neither a number nor a label that is
        listed, or for both at odds.
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

    def choose(self, request: ModelInferRequest, call: Call) -> tuple[Variant, str]:
        """The variant, counted, and what decided: `weight`, `sticky`, `rule` and its name, `version` or `header`.

        Raises as `asked_for` does, and Unavailable for one that is not ready where the route says that its calls fail.
        """
        if request.model_version or VARIANT_HEADER in call.metadata:
            asked = self.asked_for(request.model_name, request.model_version, call)
            if asked is not None:
                by = "header" if call.metadata.get(VARIANT_HEADER) else "version"
                self._counted(by, self.variants.index(asked))
                return asked, by
        at, by, rule, missed, refused = self.chooser.pick(request, call)
        if missed:
            self._count_miss()
        variant = self.variants[at]
        if refused:
            self._counted("refused", at)
            error = Unavailable(
                f"model {quoted(request.model_name)}: its variant {variant.name} is not ready, and the route leaves its "
                "calls to no other",
                reason="VARIANT_NOT_READY",
                rejected=True,
            )
            error.variant = variant.name
            raise error
        self._counted(by, at)
        return variant, f"{by} {rule}" if rule else by

    def _instead(
        self, request: ModelInferRequest, call: Call, error: BaseException, by: str, passed: tuple[Variant, ...]
    ) -> Variant | None:
        """The variant for a call that the breaker of the one that was picked refused, where the split picked it and the route
        leaves its share to the others; None: there is none, and the refusal is the answer."""
        if not isinstance(error, Unavailable) or error.reason != BREAKER_OPEN or error.hop:
            return None
        if by in ("version", "header"):
            return None
        at = self.chooser.instead(request, call, frozenset(map(self.variants.index, passed)))
        if at is None:
            return None
        self._counted(BY_BREAKER, at)
        return self.variants[at]

    def _counted(self, by: str, at: int) -> None:
        count = self._counts.get((by, at))
        if count is None:
            count = self._counts[by, at] = self._count(self.label, self.variants[at].name, by)
        count()

    def _signed(
        self, response: ModelInferResponse, request: ModelInferRequest, call: Call, variant: Variant, by: str
    ) -> ModelInferResponse:
        response.parameters[VARIANT].string_param = variant.name
        if variant.model:
            response.parameters[MODEL].string_param = variant.model
            response.model_name = request.model_name
        if DEBUG_HEADER in call.metadata:
            response.parameters[GENERATION].int64_param = self._generation
            response.parameters[PICKED_BY].string_param = by
        return response

    def _version(self, model: str, version: str) -> Variant:
        if not self._by_version:  # none is listed: whether it exists is for the backend to say, after the model
            return self._by_weight[0]
        variant = self._by_version.get(version)
        if variant is None:
            check_version(model, version, self._version_labels)
            variant = self._by_version.get(str(int(version)))  # 03 is 3
        if variant is None:
            raise NotFound(
                f"model {quoted(model)}: no version {version}, its route lists {', '.join(self._versions)[:256]}",
                reason="VERSION_NOT_FOUND",
                rejected=True,
            )
        return variant


def _tell(call: Call, variant: Variant, by: str) -> None:
    """Note the choice for whoever audits the call, and for its caller."""
    if (journal := call.journal) is not None:
        journal.picked, journal.picked_by = variant.name, by
    if call.trailing is not None:
        call.trailing[VARIANT_HEADER] = variant.name


def _failed(error: BaseException, variant: Variant) -> None:
    """Tell who counts the failure which variant it was of; without a word in between, since a success must not pay for it."""
    error.variant = variant.name  # type: ignore[attr-defined]  # MeshError has it; others may have what they like
    if isinstance(error, Unavailable):
        variant.suspect()
