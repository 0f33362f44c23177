"""Filters round a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Internal, PermissionDenied, Unavailable, Unimplemented
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Filter, Infer, InferenceService, ModelRepository, stack

REQUEST = pb.ModelInferRequest(model_name="m", model_version="2")


@dataclass
class Leaf(InferenceService):
    """Answers `count` times to a stream; notes what reached it and whether its stream was closed."""

    log: list[str]
    count: int = 3
    calls: list[Call] = field(default_factory=list)
    closed: int = 0

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.log.append("leaf")
        self.calls.append(call)
        return pb.ModelInferResponse(id="0")

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        self.calls.append(call)
        try:
            for number in range(self.count):
                yield pb.ModelInferResponse(id=str(number))
        finally:
            self.closed += 1

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return model != "away"


@dataclass
class Named(Filter):
    """Notes when it is passed, on both ways."""

    name: str
    log: list[str]

    async def __call__(self, request: pb.ModelInferRequest, call: Call, then: Infer) -> pb.ModelInferResponse:
        self.log.append(f"{self.name} in")
        response = await then(request, call)
        self.log.append(f"{self.name} out")
        return response

    def __repr__(self) -> str:
        return self.name


@dataclass
class Guard(Filter):
    """Admits all but one RPC, and notes what it was asked."""

    refuses: str
    log: list[str]

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.log.append(f"{rpc} {model} {version}".strip())
        if rpc == self.refuses:
            raise PermissionDenied(f"no {rpc}")


async def test_the_first_filter_sees_a_call_first_and_its_answer_last() -> None:
    """Filters are passed outermost first, in the order in which they are listed."""
    log: list[str] = []

    await stack(Named("a", log), Named("b", log), service=Leaf(log)).infer(REQUEST, Call())

    assert log == ["a in", "b in", "leaf", "b out", "a out"]


async def test_without_filters_the_service_itself_is_called() -> None:
    """A layer that does nothing is not there: an empty stack's `infer` is the service's own, a guard alone adds its admission."""
    leaf = Leaf([])

    assert stack(service=leaf).infer == leaf.infer
    assert stack(Filter.__new__(type("Nothing", (Filter,), {})), service=leaf).infer == leaf.infer


async def test_a_stack_is_a_service_that_can_stand_in_a_stack() -> None:
    """Filters of an inner stack come after those of the outer one, admission too."""
    log: list[str] = []
    inner = stack(Guard("", log), Named("b", log), service=Leaf(log))

    await stack(Named("a", log), service=inner).infer(REQUEST, Call())
    await stack(Guard("", log), service=inner).admit("ServerMetadata", "", "", Call())

    assert log == ["a in", "ModelInfer m 2", "b in", "leaf", "b out", "a out", "ServerMetadata", "ServerMetadata"]


RPCS = {
    "ModelInfer": lambda s: s.infer(REQUEST, Call()),
    "ModelStreamInfer": lambda s: anext(s.stream(REQUEST, Call())),
    "ModelMetadata": lambda s: s.metadata(pb.ModelMetadataRequest(name="m", version="2"), Call()),
    "RepositoryIndex": lambda s: s.index(pb.RepositoryIndexRequest(), Call()),
    "RepositoryModelLoad": lambda s: s.load(pb.RepositoryModelLoadRequest(model_name="m"), Call()),
    "RepositoryModelUnload": lambda s: s.unload(pb.RepositoryModelUnloadRequest(model_name="m"), Call()),
    "ModelConfig": lambda s: s.config(pb.ModelConfigRequest(name="m", version="2"), Call()),
    "ModelStatistics": lambda s: s.statistics(pb.ModelStatisticsRequest(name="m", version="2"), Call()),
    "ServerMetadata": lambda s: s.admit("ServerMetadata", "", "", Call()),
}


@pytest.mark.parametrize("rpc", RPCS)
async def test_every_rpc_is_admitted_by_name_before_anything_is_done(rpc: str) -> None:
    """A guard that refuses an RPC is asked with its name, model and version, and the service never hears of it."""
    log: list[str] = []
    leaf = Leaf(log)

    with pytest.raises(PermissionDenied, match=f"no {rpc}"):
        await RPCS[rpc](stack(Named("outer", log), Guard(rpc, log), service=leaf))

    asked = [line for line in log if line.startswith(rpc)]
    named = {"RepositoryModelLoad": "m", "RepositoryModelUnload": "m", "RepositoryIndex": "", "ServerMetadata": ""}
    assert asked == [f"{rpc} {named.get(rpc, 'm 2')}".strip()]
    assert not leaf.calls


@pytest.mark.parametrize(
    "rpc", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "ModelConfig", "ModelStatistics"]
)
async def test_a_service_without_models_says_so(rpc: str) -> None:
    """Repository RPCs on a service that is no ModelRepository are UNIMPLEMENTED, by name."""
    with pytest.raises(Unimplemented, match=rpc):
        await RPCS[rpc](stack(service=Leaf([])))


async def test_repository_rpcs_reach_a_service_that_has_models() -> None:
    """A service that is a ModelRepository answers them itself."""

    class WithModels(Leaf, ModelRepository):
        async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
            return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(name="m")])

    answer = await stack(service=WithModels([])).index(pb.RepositoryIndexRequest(), Call())

    assert [m.name for m in answer.models] == ["m"]


async def test_readiness_is_the_services_own() -> None:
    """A stack is ready when what stands in it is."""
    service = stack(Named("a", []), service=Leaf([]))

    assert await service.ready()
    assert not await service.ready("away")


async def test_a_stream_passes_the_filters_once_and_all_answers_come_through() -> None:
    """Round a stream a filter sees the first answer; the later ones follow in order."""
    log: list[str] = []

    answers = [a.id async for a in stack(Named("a", log), service=Leaf(log)).stream(REQUEST, Call())]

    assert answers == ["0", "1", "2"]
    assert log == ["a in", "a out"]


async def test_a_service_with_one_answer_streams_it() -> None:
    """By default a stream has the one answer of `infer`."""

    class One(InferenceService):
        async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
            return pb.ModelInferResponse(id="only")

        async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
            return pb.ModelMetadataResponse()

        async def ready(self, model: str = "", version: str = "") -> bool:
            return True

    assert [a.id async for a in stack(service=One()).stream(REQUEST, Call())] == ["only"]


async def test_a_stream_that_is_left_early_is_closed_below() -> None:
    """Who stops listening ends the work: the service's stream is closed with ours."""
    leaf = Leaf([])
    answers = stack(Named("a", []), service=leaf).stream(REQUEST, Call())

    assert (await anext(answers)).id == "0"
    assert leaf.closed == 0
    await answers.aclose()

    assert leaf.closed == 1


async def test_a_retry_of_a_stream_closes_what_was_begun_before() -> None:
    """A filter that goes on twice leaves no first stream behind, and the answers are those of the second."""

    class Twice(Filter):
        async def __call__(self, request: pb.ModelInferRequest, call: Call, then: Infer) -> pb.ModelInferResponse:
            await then(request, call)
            return await then(request, call.derive(attempt=2))

    leaf = Leaf([])

    answers = [a.id async for a in stack(Twice(), service=leaf).stream(REQUEST, Call())]

    assert answers == ["0", "1", "2"]
    assert [c.attempt for c in leaf.calls] == [1, 2]
    assert leaf.closed == 2


async def test_a_filter_that_refuses_a_first_answer_closes_the_stream() -> None:
    """An error of a filter after the first answer leaves no stream open below."""

    class Refuses(Filter):
        async def __call__(self, request: pb.ModelInferRequest, call: Call, then: Infer) -> pb.ModelInferResponse:
            await then(request, call)
            raise Unavailable("not good enough")

    leaf = Leaf([])

    with pytest.raises(Unavailable, match="not good enough"):
        await anext(stack(Refuses(), service=leaf).stream(REQUEST, Call()))

    assert leaf.closed == 1


async def test_a_filter_may_answer_a_stream_by_itself() -> None:
    """A fallback that does not go on gives the one answer there is."""

    class Answers(Filter):
        async def __call__(self, request: pb.ModelInferRequest, call: Call, then: Infer) -> pb.ModelInferResponse:
            return pb.ModelInferResponse(id="fallback")

    assert [a.id async for a in stack(Answers(), service=Leaf([])).stream(REQUEST, Call())] == ["fallback"]


async def test_a_stream_without_an_answer_is_an_error() -> None:
    """Nothing is no answer; the caller hears that, and not of an exception of Python's."""
    with pytest.raises(Internal, match='model "m": the stream ended without an answer'):
        await anext(stack(service=Leaf([], count=0)).stream(REQUEST, Call()))


async def test_a_deadline_holds_for_the_later_answers_of_a_stream_too() -> None:
    """A filter's shorter deadline ends a stream that goes on too long, and the work below it."""
    cancelled = asyncio.Event()

    class Slow(Leaf):
        async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
            yield pb.ModelInferResponse(id="first")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    class Shorter(Filter):
        async def __call__(self, request: pb.ModelInferRequest, call: Call, then: Infer) -> pb.ModelInferResponse:
            return await then(request, call.derive(deadline=Deadline.after(0.05)))

    answers = stack(Shorter(), service=Slow([])).stream(REQUEST, Call())
    assert (await anext(answers)).id == "first"

    with pytest.raises(DeadlineExceeded, match='model "m": the deadline passed before the last answer'):
        await anext(answers)

    assert cancelled.is_set()


def test_a_stack_prints_as_what_it_is() -> None:
    """The repr lists the layers, outermost first."""

    class Quiet(Leaf):
        def __repr__(self) -> str:
            return "Leaf"

    assert repr(stack(Named("a", []), Named("b", []), service=Quiet([]))) == "a → b → Leaf"
