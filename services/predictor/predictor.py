"""The leaf service that answers with a model's outputs."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from time import perf_counter
from typing import Any, TypeVar

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, MeshError
from infermesh.names import check_model_name
from infermesh.parameters import check_parameters, priority_of
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.tensors import MAX_RANK, Array, read_inputs
from services.predictor.describe import config_message, metadata_message, statistics_message
from services.predictor.model_version import ModelVersion
from services.predictor.nan import has_nan
from services.predictor.repository.load_request import carry_out
from services.predictor.repository.repository import Repository
from services.predictor.response_cache import ResponseCache
from services.predictor.statistics import CANCELLED

__all__ = ["Predictor"]

MANY_ELEMENTS = 4096  # that are taken apart one by one: about a millisecond
MANY_NUMBERS = 8_000_000  # that are looked through for NaNs: half a millisecond
MANY_BYTES = 262_144  # that are hashed: a quarter of a millisecond

Inputs = list[pb.ModelInferRequest.InferInputTensor]
R = TypeVar("R")


class Predictor(InferenceService, ModelRepository):
    """Answers from the models of a repository: raw requests raw, typed ones typed, the outputs in the order asked for."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="strings")  # more would only take the GIL from the loop

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        version = self.repository.resolve(request.model_name, request.model_version)
        statistics = version.statistics
        statistics.begun += 1
        started = perf_counter()
        try:
            arrays = version.known_inputs.read(request)
            if arrays is None or request.parameters or request.outputs:
                check_parameters(request)
            # A copy is asked to know what the model says now: what another call was answered is no evidence.
            cache = None if call.shadow else version.response_cache
            key = b""
            if cache is not None:
                key = await self._key(request)
                kept = cache.get(key)
                looked = perf_counter()
                if kept is not None:
                    kept.model_name, kept.id = request.model_name, request.id
                    statistics.hit(looked - started, perf_counter() - started)
                    return kept
                statistics.cache_miss.add(looked - started)
            if arrays is None:
                # Held to the end: each loop over a message's tensors makes their Python objects anew when nobody holds them.
                inputs = list(request.inputs)
                if _is_read_slowly(inputs):
                    arrays = await self._in_thread(_read, version, request, inputs)
                else:
                    arrays = _read(version, request, inputs)
            outputs = version.signature.requested([o.name for o in request.outputs] if request.outputs else ())
            rows = _rows(arrays)
            priority = priority_of(request)
            read = perf_counter()
            values = await version.run(arrays, outputs, call, rows=rows, priority=priority)
            ran = perf_counter()
            if _is_written_slowly(values):
                response, has_nan = await self._in_thread(_answered, version, request, values)
            else:
                response, has_nan = _answered(version, request, values)
            if cache is not None:
                cache.put(key, response)
        except MeshError as error:
            statistics.failed(error.code, perf_counter() - started)
            raise
        except CancelledError:  # at its deadline a call is cancelled from above
            code = DeadlineExceeded.code if call.deadline.expired else CANCELLED
            statistics.failed(code, perf_counter() - started)
            raise
        except BaseException:
            statistics.failed(Internal.code, perf_counter() - started)
            raise
        ended = perf_counter()
        if has_nan:
            statistics.nan_answers += 1
        statistics.answered(rows, read - started, ended - ran, ended - started)
        return response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        version = self.repository.resolve(request.name, request.version)
        return metadata_message(version, self.repository.ready_versions(request.name))

    async def ready(self, model: str = "", version: str = "") -> bool:
        return self.repository.is_ready(model, version) if model else self.repository.ready

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return await self.repository.index_now(only_ready=request.ready, root=request.repository_name)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        await carry_out(self.repository, request)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        check_model_name(request.model_name)
        await self.repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        version = self.repository.resolve(request.name, request.version)
        policy, labels = self.repository.settings(request.name).versions, self.repository.labels(request.name)
        return pb.ModelConfigResponse(config=config_message(version, policy, labels))

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        versions = self.repository.loaded(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[statistics_message(version) for version in versions])

    async def _key(self, request: pb.ModelInferRequest) -> bytes:
        """What a request's answer is kept under. Hashing a large one takes its time, which is not the loop's."""
        if request.ByteSize() > MANY_BYTES:
            return await self._in_thread(ResponseCache.key, request)
        return ResponseCache.key(request)

    async def _in_thread(self, work: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    def __repr__(self) -> str:
        return f"Predictor({self.repository.source.location})"


def _is_read_slowly(inputs: Inputs) -> bool:
    """Whether reading takes so long that the loop should do something else: strings are taken apart one by one."""
    for tensor in inputs:  # a loop and no `any`: a generator costs as much again, and every call pays
        if tensor.datatype != "BYTES":
            continue
        if len(tensor.shape) <= MAX_RANK and prod(tensor.shape) > MANY_ELEMENTS:
            return True
    return False


def _is_written_slowly(values: list[tuple[str, str, Array]]) -> bool:
    """The same of an answer; numbers are copied fast, and looked through for NaNs at about 60 µs for each million."""
    for _, datatype, array in values:
        size = array.size
        if size > MANY_ELEMENTS and (datatype == "BYTES" or size > MANY_NUMBERS):
            return True
    return False


def _read(version: ModelVersion, request: pb.ModelInferRequest, inputs: Inputs) -> dict[str, Array]:
    arrays = read_inputs(request)
    signature = version.signature
    signature.check_datatypes(inputs)
    signature.check(arrays)
    version.known_inputs.learn(request, arrays)
    if signature.strings:
        signature.to_strings(arrays)
    return arrays


def _rows(arrays: dict[str, Array]) -> int:
    """The first dimension of the first input that has one."""
    for array in arrays.values():
        if array.ndim:
            return len(array)
    return 1


def _answered(
    version: ModelVersion, request: pb.ModelInferRequest, values: list[tuple[str, str, Array]]
) -> tuple[pb.ModelInferResponse, bool]:
    """The response with these outputs, and whether there is a NaN in them."""
    response = version.answers.answer(request, values)
    for _, datatype, array in values:
        if has_nan(datatype, array):
            return response, True
    return response, False
