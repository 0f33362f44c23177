"""The models behind all backends, as one repository."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from infermesh.call import Call
from infermesh.errors import MeshError
from infermesh.merge import all_of, any_of, merged_index, merged_statistics
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import ModelRepository
from services.gateway.backends import Backend, Remote
from services.gateway.permission import may_use
from services.gateway.route import Answering

__all__ = ["MergedRepository"]


class Routes(Protocol):
    """What it needs of the route table."""

    def find(self, model: str) -> Answering:
        """What answers for a model. Raises NotFound, or InvalidRequest for an empty name."""
        ...

    def backends(self) -> Iterable[Backend]:
        """Every backend that a route names."""
        ...


class MergedRepository(ModelRepository):
    """Index and statistics are of every backend that a route names, with the models that are routed and the caller may use.

    Load and unload go to every backend of the model's route. Of a backend with several replicas each RPC reaches one.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        index = merged_index(await any_of(each.index(request, call) for each in _distinct(self._routes.backends())))
        return pb.RepositoryIndexResponse(models=[each for each in index.models if self._shows(each.name, call)])

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        asked = []
        for remote, model in _places(self._routes.find(request.model_name), request.model_name):
            there = pb.RepositoryModelLoadRequest()
            there.CopyFrom(request)
            there.model_name = model
            asked.append(remote.load(there, call))
        return (await all_of(asked))[0]

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        asked = []
        for remote, model in _places(self._routes.find(request.model_name), request.model_name):
            there = pb.RepositoryModelUnloadRequest()
            there.CopyFrom(request)
            there.model_name = model
            asked.append(remote.unload(there, call))
        return (await all_of(asked))[0]

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        split = self._routes.find(request.name).split
        variant = split.asked_for(request.name, request.version, call) or split.heaviest()
        there = pb.ModelConfigRequest()
        there.CopyFrom(request)
        there.name, there.version = variant.model or request.name, variant.version or request.version
        return await variant.backend.remote.config(there, call.derive(variant=variant.name))

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        if not request.name:
            answers = await any_of(each.statistics(request, call) for each in _distinct(self._routes.backends()))
            found = merged_statistics(answers).model_stats
            return pb.ModelStatisticsResponse(model_stats=[each for each in found if self._shows(each.name, call)])
        answering = self._routes.find(request.name)
        variant = answering.split.asked_for(request.name, request.version, call)
        if variant is not None:
            there = _statistics_of(request, variant.model or request.name, variant.version or request.version)
            return await variant.backend.remote.statistics(there, call.derive(variant=variant.name))
        places = _places(answering, request.name)
        answers = await any_of(remote.statistics(_statistics_of(request, model, ""), call) for remote, model in places)
        return merged_statistics(answers)

    def _shows(self, model: str, call: Call) -> bool:
        try:
            self._routes.find(model)
        except MeshError:
            return False
        return may_use(call.caller, model)


def _statistics_of(request: pb.ModelStatisticsRequest, name: str, version: str) -> pb.ModelStatisticsRequest:
    there = pb.ModelStatisticsRequest()
    there.CopyFrom(request)
    there.name, there.version = name, version
    return there


def _places(answering: Answering, model: str) -> list[tuple[Remote, str]]:
    """Each service that may answer, once, with the name of the model there."""
    places = {(b.identity, name or model): (b.remote, name or model) for b, name in answering.backends}
    return list(places.values())


def _distinct(backends: Iterable[Backend]) -> list[Remote]:
    return list({backend.identity: backend.remote for backend in backends}.values())
