"""The leaf service that answers `<model>-explainer` with attributions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from infermesh.call import Call
from infermesh.errors import NotFound, ResourceExhausted, Unimplemented, quoted
from infermesh.names import EXPLAINER_SUFFIX, check_model_name, explained_model
from infermesh.parameters import check_parameters
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from services.explainer.answer import NAMED_ONLY, Explanation, requested_outputs, response_of
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import ExplainerConfig
from services.explainer.describe import config_message, index_message, metadata_message
from services.explainer.estimate import Estimate
from services.explainer.explain import Explain, Observe
from services.explainer.methods.run import Graphs, no_graphs
from services.explainer.parameters import Parameters
from services.explainer.refined import Refined
from services.explainer.signature import Signature
from services.explainer.statistics import Statistics

__all__ = ["Explainer"]

QUEUE_PUSHBACK_S = 0.5
FINAL = "triton_final_response"  # false: more will come, and a stream does not hold it back
TEXT_ELEMENTS = 10  # what making a text costs, in elements of arithmetic

Tell = Callable[[Callable[[], pb.ModelInferResponse], Estimate], None]  # the answer so far, made when it is wanted


class Explainer(InferenceService, ModelRepository):
    """Explains the models of another service by asking it.

    Needs nothing of a model but its metadata and its answers. `close` it when it is asked no more.
    """

    def __init__(
        self,
        backend: InferenceService,
        backgrounds: Backgrounds,
        config: ExplainerConfig,
        *,
        observe: Observe = lambda model, method, asked, rows: None,
        graphs: Graphs = no_graphs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.backgrounds = backgrounds
        self._repository: ModelRepository = backend if isinstance(backend, ModelRepository) else _NoRepository()
        self._config = config
        self._clock = clock
        self._explain = Explain(backend, backgrounds, config, observe=observe, graphs=graphs, clock=clock)
        self._turns = asyncio.Semaphore(config.limits.concurrent)
        self._waiting = self._waiting_bytes = 0
        self._known: set[str] = set()
        self._statistics = Statistics()

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return await self._answer(request, call, _untold)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        """Better and better answers, the last one that of `infer`.

        The explanation goes on whether or not its answers are read, which one that is waited for would not: what a slow reader
        has not taken is replaced by what is better.
        """
        newest: list[tuple[Callable[[], pb.ModelInferResponse], Estimate]] = []
        came = asyncio.Event()
        refined = Refined(self._clock)

        def tell(better: Callable[[], pb.ModelInferResponse], estimate: Estimate) -> None:
            if not estimate.converged and refined.is_worth(estimate):
                newest[:] = [(better, estimate)]
                came.set()

        work = asyncio.create_task(self._answer(request, call, tell))
        work.add_done_callback(lambda _: came.set())
        try:
            while not work.done():
                await came.wait()
                came.clear()
                if newest and not work.done():
                    make, estimate = newest.pop()
                    better = await self._explain.threads.run(estimate.attributions.size * TEXT_ELEMENTS, make)
                    better.parameters[FINAL].bool_param = False
                    yield better
            yield work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _answer(self, request: pb.ModelInferRequest, call: Call, tell: Tell) -> pb.ModelInferResponse:
        began = self._clock()
        model = _model_of(request.model_name)
        signature = await self._signature(model, request.model_version, call)
        explanation: Explanation | None = None
        try:
            check_parameters(request)
            arrays = await self._explain.read(request)
            rows = signature.check(request, arrays)
            outputs = requested_outputs(request)
            parameters = Parameters.of(request)

            def answered(now: Explanation) -> pb.ModelInferResponse:
                return response_of(request, now, outputs, self._clock() - began)

            queued = self._clock()
            async with (
                self._turn(model, request.ByteSize()),
                aclosing(self._explain(request, signature, arrays, parameters, call)) as found,
            ):
                turn = self._clock()
                async for explanation in found:
                    tell(partial(answered, explanation), explanation.estimate)
            assert explanation is not None  # or it was raised why
        except BaseException:  # also of a caller who went away
            asked = request.model_version if request.model_version in signature.versions else signature.newest
            self._statistics.failed(model, asked, self._clock() - began)
            raise
        ended = self._clock()
        self._statistics.answered(model, explanation.version, rows, turn - queued, ended - turn, ended - began)
        texts = rows * len(explanation.features) * TEXT_ELEMENTS if set(outputs) & set(NAMED_ONLY) else 0
        return await self._explain.threads.run(texts, answered, explanation)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        signature = await self._signature(_model_of(request.name), request.version, call)
        return metadata_message(signature, self.backgrounds, self._config.limits.features)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Without a model: true, whatever the backend does. With one: whether the backend can answer for it."""
        return await self.backend.ready(_model_of(model), version) if model else True

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return index_message(await self._repository.index(request, call))

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        raise Unimplemented(
            f"RepositoryModelLoad: the explainer holds no models; load {quoted(_owner(request.model_name))} where it is served",
            rejected=True,
        )

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        raise Unimplemented(
            f"RepositoryModelUnload: the explainer holds no models; unload {quoted(_owner(request.model_name))} where it is "
            "served",
            rejected=True,
        )

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        model = _model_of(request.name)
        signature = await self._signature(model, request.version, call)
        answer = await self._repository.config(pb.ModelConfigRequest(name=model, version=request.version), call)
        return pb.ModelConfigResponse(config=config_message(answer.config, signature, self._config.limits.features))

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        """What was explained of each version that the models behind have."""
        model = _model_of(request.name) if request.name else ""
        asked = pb.ModelStatisticsRequest(name=model, version=request.version)
        return self._statistics.message(await self._repository.statistics(asked, call))

    def label(self, model: str) -> str:
        """The name, if it is the explainer of a model that the backend knows; else the empty string."""
        return model if explained_model(model) in self._known else ""

    def close(self) -> None:
        """Let go of the threads."""
        self._explain.close()

    async def _signature(self, model: str, version: str, call: Call) -> Signature:
        signature = await self._explain.signature(model, version, call)
        self._known.add(model)  # bounded by the models that the backend has
        return signature

    @asynccontextmanager
    async def _turn(self, model: str, size_bytes: int) -> AsyncIterator[None]:
        """Wait until fewer explanations are worked on than the bound; those that wait hold their request and no more."""
        if self._turns.locked():
            self._check_room(model, size_bytes)
        self._waiting += 1
        self._waiting_bytes += size_bytes
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size_bytes
        try:
            yield
        finally:
            self._turns.release()

    def _check_room(self, model: str, size_bytes: int) -> None:
        limits = self._config.limits
        if self._waiting >= limits.queue:
            what = f"{self._waiting} explanations are waiting, which is the bound"
        elif self._waiting and self._waiting_bytes + size_bytes > limits.queue_bytes:
            total = self._waiting_bytes + size_bytes
            what = f"{total} bytes of requests would wait, and {limits.queue_bytes} may"
        else:
            return
        raise ResourceExhausted(
            f"model {quoted(model)}: {what}",
            reason="QUEUE_FULL",
            rejected=True,
            retry_after_s=QUEUE_PUSHBACK_S,
        )

    def __repr__(self) -> str:
        return f"Explainer({self.backend!r}, {len(self.backgrounds)} backgrounds)"


class _NoRepository(ModelRepository):
    pass


def _untold(better: Callable[[], pb.ModelInferResponse], estimate: Estimate) -> None:
    """Whoever asks for one answer is told the last one alone."""


def _model_of(name: str) -> str:
    """The model that is explained under a name; raises InvalidRequest for an empty one, NotFound for no explainer's."""
    check_model_name(name)
    model = explained_model(name)
    if not model:
        raise NotFound(
            f"model {quoted(name)}: no such model; the explainer of a model has its name with {EXPLAINER_SUFFIX} at the end",
            rejected=True,
        )
    return model


def _owner(name: str) -> str:
    return explained_model(name) or name
