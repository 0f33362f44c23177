"""The steps on the answers of one model."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing

from infermesh.call import Call
from infermesh.errors import Internal, InvalidRequest, MeshError, quoted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.tensors import uses_raw
from services.transformer.after.answer import Answer, Words
from services.transformer.after.bind import bound, followed
from services.transformer.after.course import Course, check_wanted
from services.transformer.after.declared import StepConfig
from services.transformer.after.hooked import RunHook
from services.transformer.after.metrics import Count
from services.transformer.after.outputs import Outputs, OutputType
from services.transformer.hooks import HookFault

__all__ = ["AfterModel"]

CLASSES = "infermesh.classes"  # a model's property: a JSON list of names
CLASSES_S = 60.0  # how long they are taken to stay: a version has others only if another model is loaded in its place
MAX_VERSIONS = 64
MAX_COURSES = 256  # callers name outputs as they like

TensorMetadata = pb.ModelMetadataResponse.TensorMetadata
NO_CLASSES = Words(())


class AfterModel:
    """Asks a service for what the steps need, and does them on each of its answers.

    Raises HookFault for a function that can't be used; `count` gets decisions when all steps on an answer are done.
    """

    def __init__(
        self,
        declared: Sequence[StepConfig],
        count: Count = lambda words, codes: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = bound(declared)
        for place, step in self._steps:
            if isinstance(step, RunHook):
                try:
                    step.load()
                except HookFault as fault:
                    raise HookFault(f"{place}: {fault}") from None
        self._count = count
        self._clock = clock
        self._outputs = followed(self._steps, Outputs())
        if self._outputs.faults:  # a function may fail on what the steps before it make
            raise HookFault("; ".join(self._outputs.faults))
        self._all = Course(self._steps, ())
        self._courses: dict[tuple[str, ...], Course] = {}
        self._classes: dict[tuple[int, str], tuple[float, Words]] = {}  # by service and version

    async def infer(
        self, service: InferenceService, request: pb.ModelInferRequest, call: Call
    ) -> pb.ModelInferResponse:
        """The answer to a request, after the steps."""
        course = self._course(request)
        try:
            response = await service.infer(course.request(request), call)
        except InvalidRequest as error:
            await self._check_asked(service, request, course, call, error)
            raise
        return await self._done(service, request, call, course, response)

    async def stream(
        self, service: InferenceService, request: pb.ModelInferRequest, call: Call
    ) -> AsyncIterator[pb.ModelInferResponse]:
        """Each answer after the steps."""
        course = self._course(request)
        try:
            async with aclosing(service.stream(course.request(request), call)) as answers:  # type: ignore[type-var]
                async for response in answers:
                    yield await self._done(service, request, call, course, response)
        except InvalidRequest as error:
            await self._check_asked(service, request, course, call, error)
            raise

    def described(self, metadata: pb.ModelMetadataResponse) -> list[TensorMetadata]:
        """The outputs that a client gets of a model with such metadata."""
        known = followed(self._steps, _outputs_of(metadata)).known
        return [TensorMetadata(name=name, datatype=of.datatype, shape=of.shape) for name, of in known.items()]

    def faults(self, metadata: pb.ModelMetadataResponse) -> list[str]:
        """In what the steps and a model with such metadata disagree."""
        return followed(self._steps, _outputs_of(metadata)).faults

    def _course(self, request: pb.ModelInferRequest) -> Course:
        if not request.outputs:
            return self._all
        wanted = tuple(output.name for output in request.outputs)
        course = self._courses.get(wanted)
        if course is None:
            check_wanted(request.model_name, wanted, self._outputs)
            if len(self._courses) >= MAX_COURSES:
                self._courses.clear()
            course = self._courses[wanted] = Course(self._steps, wanted)
        return course

    async def _done(
        self,
        service: InferenceService,
        request: pb.ModelInferRequest,
        call: Call,
        course: Course,
        response: pb.ModelInferResponse,
    ) -> pb.ModelInferResponse:
        if not course.steps:
            return response
        classes = await self._names(service, request, response, call) if course.needs_classes else NO_CLASSES
        answer = Answer(
            response, course.takes, classes, model=request.model_name, is_whole=not course.wanted, raw=uses_raw(request)
        )
        for step in course.steps:
            step.apply(answer)
        written = answer.write(course.wanted)
        for words, codes in answer.counted:
            self._count(words, codes)
        return written

    async def _names(
        self, service: InferenceService, request: pb.ModelInferRequest, response: pb.ModelInferResponse, call: Call
    ) -> Words:
        """The names of the classes of the version that answered."""
        version = response.model_version or request.model_version
        known = self._classes.get((id(service), version))
        if known is None or known[0] < self._clock():
            metadata = await service.metadata(pb.ModelMetadataRequest(name=request.model_name, version=version), call)
            if len(self._classes) >= MAX_VERSIONS:
                self._classes.clear()
            known = self._classes[id(service), version] = (
                self._clock() + CLASSES_S,
                Words(_classes_of(metadata.properties)),
            )
        return known[1]

    async def _check_asked(
        self,
        service: InferenceService,
        request: pb.ModelInferRequest,
        course: Course,
        call: Call,
        error: InvalidRequest,
    ) -> None:
        """Raise Internal where a model refuses an output that a step needs and its caller never named."""
        ours = set(course.asked) - set(course.wanted)
        if not ours:
            return
        try:
            asked = pb.ModelMetadataRequest(name=request.model_name, version=request.model_version)
            metadata = await service.metadata(asked, call)
        except MeshError:
            return
        if missing := sorted(ours - {output.name for output in metadata.outputs}):
            text = (
                f"model {quoted(request.model_name)}: output {quoted(missing[0])}: a step takes it, the model has none"
            )
            raise Internal(text, reason="ANSWER_MISFIT") from error


def _outputs_of(metadata: pb.ModelMetadataResponse) -> Outputs:
    known = {each.name: OutputType(each.datatype, tuple(each.shape)) for each in metadata.outputs}
    return Outputs(known, _classes_of(metadata.properties))


def _classes_of(properties: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the classes; empty where there are none, or none that can be used."""
    try:
        names = json.loads(properties.get(CLASSES, "[]"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if len(set(names)) == len(names) else ()
