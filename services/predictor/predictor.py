"""The leaf service that answers with a model's outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, TypeVar

from infermesh.call import Call
from infermesh.names import check_model_name
from infermesh.parameters import check_parameters, priority_of
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.tensors import MAX_RANK, Array, add_outputs, read_inputs, uses_raw
from services.predictor.describe import config_message, metadata_message
from services.predictor.model_version import ModelVersion
from services.predictor.repository import Repository

__all__ = ["Predictor"]

MANY_ELEMENTS = 4096  # that are taken apart one by one: about a millisecond

R = TypeVar("R")


class Predictor(InferenceService, ModelRepository):
    """Answers from the models of a repository: raw requests raw, typed ones typed, the outputs in the order asked for."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="strings")  # more would only take the GIL from the loop

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        version = self.repository.resolve(request.model_name, request.model_version)
        started = time.perf_counter()
        try:
            check_parameters(request)
            if _is_read_slowly(request):
                arrays, outputs = await self._in_thread(_read, version, request)
            else:
                arrays, outputs = _read(version, request)
            rows = next((len(a) for a in arrays.values() if a.ndim), 1)
            read = time.perf_counter()
            values = await version.run(arrays, outputs, call, rows=rows, priority=priority_of(request))
            ran = time.perf_counter()
            response = pb.ModelInferResponse(
                model_name=request.model_name, model_version=version.version_text, id=request.id
            )
            if any(datatype == "BYTES" and array.size > MANY_ELEMENTS for _, datatype, array in values):
                await self._in_thread(_write, response, values, uses_raw(request))
            else:
                _write(response, values, uses_raw(request))
        except BaseException:
            version.statistics.failed(time.perf_counter() - started)
            raise
        ended = time.perf_counter()
        version.statistics.answered(rows, read - started, ended - ran, ended - started)
        return response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        version = self.repository.resolve(request.name, request.version)
        return metadata_message(version, self.repository.ready_versions(request.name))

    async def ready(self, model: str = "", version: str = "") -> bool:
        return self.repository.is_ready(model, version) if model else self.repository.ready

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return self.repository.index(only_ready=request.ready)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        check_model_name(request.model_name)
        await self.repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        check_model_name(request.model_name)
        await self.repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        version = self.repository.resolve(request.name, request.version)
        return pb.ModelConfigResponse(config=config_message(version))

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        versions = self.repository.loaded(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=[v.statistics.message(v.model, v.version_text) for v in versions])

    async def _in_thread(self, work: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    def __repr__(self) -> str:
        return f"Predictor({self.repository.source.location})"


def _is_read_slowly(request: pb.ModelInferRequest) -> bool:
    """Whether reading takes so long that the loop should do something else: strings are taken apart one by one."""
    return any(
        tensor.datatype == "BYTES" and len(tensor.shape) <= MAX_RANK and prod(tensor.shape) > MANY_ELEMENTS
        for tensor in request.inputs
    )


def _read(version: ModelVersion, request: pb.ModelInferRequest) -> tuple[dict[str, Array], list[str]]:
    arrays = read_inputs(request)
    signature = version.signature
    signature.check_datatypes(request.inputs)
    signature.check(arrays)
    outputs = signature.requested([o.name for o in request.outputs] if request.outputs else ())
    signature.to_strings(arrays)
    return arrays, outputs


def _write(response: pb.ModelInferResponse, values: list[tuple[str, str, Array]], raw: bool) -> None:
    add_outputs(response, values, raw=raw)
