"""What tests of the steps after a model share: a model that answers with given arrays, and the steps of a file on it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.tensors import add_outputs, datatype_of, read_outputs
from services.transformer.after.after_model import AfterModel
from services.transformer.after.metrics import Decisions
from services.transformer.views import FeatureFile


@dataclass
class Model(InferenceService):
    """Answers with these outputs, those that are asked for; a stream has one answer for each of `streamed`, then the outputs."""

    outputs: Mapping[str, Any]
    classes: Sequence[str] | None = None
    raw: bool = True
    bf16: frozenset[str] = frozenset()
    streamed: list[Mapping[str, Any]] = field(default_factory=list)
    requests: list[pb.ModelInferRequest] = field(default_factory=list)
    asked_for_metadata: int = 0
    answers: list[pb.ModelInferResponse] = field(default_factory=list)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.requests.append(request)
        return self._answer(request, self.outputs)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        self.requests.append(request)
        for outputs in [*self.streamed, self.outputs]:
            yield self._answer(request, outputs)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        self.asked_for_metadata += 1
        tensor = pb.ModelMetadataResponse.TensorMetadata
        outputs = [
            tensor(name=name, datatype=self._datatype(name, array), shape=[-1, *array.shape[1:]])
            for name, array in self.outputs.items()
        ]
        described = pb.ModelMetadataResponse(name=request.name, outputs=outputs)
        if self.classes is not None:
            described.properties["infermesh.classes"] = json.dumps(list(self.classes))
        return described

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True

    def _answer(self, request: pb.ModelInferRequest, outputs: Mapping[str, Any]) -> pb.ModelInferResponse:
        names = [output.name for output in request.outputs] or list(outputs)
        for name in names:
            if name not in outputs:
                raise InvalidRequest(f'output "{name}": expected one of {", ".join(outputs)}', reason="OUTPUT_UNKNOWN")
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        response.parameters["said"].string_param = "by the model"
        add_outputs(response, [(n, self._datatype(n, outputs[n]), outputs[n]) for n in names], raw=self.raw)
        self.answers.append(response)
        return response

    def _datatype(self, name: str, array: Any) -> str:
        return "BF16" if name in self.bf16 else datatype_of(array).name


@pytest.fixture
def model_of() -> Callable[..., Model]:
    """Makes models that answer with given arrays."""
    return Model


@pytest.fixture
def after_of() -> Callable[..., AfterModel]:
    """The steps of a model `m`, through a feature file."""

    def after(*steps: dict[str, Any], decisions: Decisions | None = None, **options: Any) -> AfterModel:
        file = FeatureFile.model_validate({"services": {"m": {"after": list(steps)}}})
        declared = file.services["m"].after
        words = [word for each in declared if each.threshold for word in each.threshold.decisions]
        count = {"count": decisions.of("m", words)} if decisions is not None else {}
        return AfterModel(declared, **count, **options)

    return after


@pytest.fixture
def answered(after_of: Callable[..., AfterModel]) -> Callable[..., Any]:
    """What a caller gets of a model that answers with these outputs, after these steps: arrays by name, in their order."""

    async def ask(outputs: Mapping[str, Any], *steps: dict[str, Any], wanted: Sequence[str] = (), **model: Any) -> Any:
        request = pb.ModelInferRequest(model_name="m", outputs=[{"name": name} for name in wanted])
        response = await after_of(*steps).infer(Model(outputs, **model), request, Call())
        return read_outputs(response)

    return ask


@pytest.fixture
def faults_of() -> Callable[..., str]:
    """What is wrong with a file that has these steps."""

    def faults(*steps: Any) -> str:
        with pytest.raises(ValueError) as refused:
            FeatureFile.model_validate({"services": {"m": {"after": list(steps)}}})
        return str(refused.value)

    return faults


@pytest.fixture
def scores() -> Any:
    """Three rows of a classifier with two classes."""
    return np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], np.float32)
