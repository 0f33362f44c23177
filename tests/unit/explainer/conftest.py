"""A model that is a Python function, an explainer that asks it, and requests to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import NotFound
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.tensors import add_inputs, add_outputs, read_inputs, read_outputs, uses_raw
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import ExplainerConfig
from services.explainer.explainer import Explainer

Arrays = Mapping[str, np.ndarray]


class FunctionModel(InferenceService, ModelRepository):
    """Serves `function(inputs) → outputs`, and keeps what it was asked."""

    def __init__(
        self,
        function: Callable[[Arrays], Arrays],
        inputs: Sequence[tuple[str, str, Sequence[int]]] = (("x", "FP64", (-1, 3)),),
        outputs: Sequence[tuple[str, str, Sequence[int]]] = (("y", "FP64", (-1, 1)),),
        *,
        name: str = "model",
        versions: Sequence[str] = ("1",),
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.inputs, self.outputs = inputs, outputs
        self.name = name
        self.versions = list(versions)
        self.properties = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in (properties or {}).items()
        }
        self.requests: list[pb.ModelInferRequest] = []
        self.calls: list[Call] = []
        self.described = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.hold: asyncio.Event | None = None  # when set: requests wait for it

    @property
    def rows_seen(self) -> list[int]:
        return [request.inputs[0].shape[0] for request in self.requests]

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        copy = pb.ModelInferRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        self.calls.append(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.hold.wait() if self.hold else asyncio.sleep(0))
        finally:
            self.in_flight -= 1
        return self.answer(request, self._resolve(request.model_name, request.model_version))

    def answer(self, request: pb.ModelInferRequest, version: str) -> pb.ModelInferResponse:
        values = self.function(read_inputs(request))
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=version)
        asked = [output.name for output in request.outputs] or [name for name, _, _ in self.outputs]
        datatypes = {name: datatype for name, datatype, _ in self.outputs}
        add_outputs(response, [(name, datatypes[name], values[name]) for name in asked], raw=uses_raw(request))
        return response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        self.described += 1
        self._resolve(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=self.versions,
            inputs=[tensor(name=n, datatype=d, shape=s) for n, d, s in self.inputs],
            outputs=[tensor(name=n, datatype=d, shape=s) for n, d, s in self.outputs],
            properties=self.properties,
        )

    async def ready(self, model: str = "", version: str = "") -> bool:
        self._resolve(model, version)
        return True

    def _resolve(self, model: str, version: str) -> str:
        if model != self.name:
            raise NotFound(f'model "{model}": no such model')
        if version and version not in self.versions:
            raise NotFound(f'model "{model}": no version {version}, it has {", ".join(self.versions)}')
        return version or self.versions[-1]


class Explained:
    """The answer of an explainer, by name."""

    def __init__(self, response: pb.ModelInferResponse) -> None:
        self.response = response
        self.outputs = read_outputs(response)
        self.parameters = {
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()
        }

    def __getattr__(self, name: str) -> Any:
        try:
            return self.outputs[name]
        except KeyError:
            raise AttributeError(name) from None


def request_of(arrays: Arrays, *, model: str = "model", raw: bool = True, **parameters: Any) -> pb.ModelInferRequest:
    """A request to the model's explainer; parameters by the type of their value."""
    request = pb.ModelInferRequest(model_name=f"{model}-explainer")
    add_inputs(request, arrays, raw=raw)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def oip_json(arrays: Arrays, **more: Any) -> str:
    """Arrays in OIP's JSON form."""
    datatypes = {"f": "FP", "i": "INT", "O": "BYTES", "b": "BOOL"}
    inputs = []
    for name, array in arrays.items():
        datatype = datatypes[array.dtype.kind] + (str(8 * array.itemsize) if array.dtype.kind in "fi" else "")
        data = [e.decode() if isinstance(e, bytes) else e for e in array.ravel().tolist()]
        inputs.append({"name": name, "datatype": datatype, "shape": list(array.shape), "data": data})
    return json.dumps({"inputs": inputs, **more})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """`FunctionModel`, `request_of`, `oip_json`, `Explained`; `explainer(model, background, **config)` makes an explainer;
    `explain(model, background, rows, config={}, **parameters)` is one explanation."""
    made: list[Explainer] = []

    def explainer(
        model: InferenceService,
        background: Arrays | None = None,
        clock: Callable[[], float] = time.monotonic,
        **config: Any,
    ) -> Explainer:
        root = tmp_path / "backgrounds"
        root.mkdir(exist_ok=True)
        if background is not None:
            (root / "model.json").write_text(oip_json(background))
        config["backgrounds"] = {"root": root, **config.get("backgrounds", {})}
        settings = ExplainerConfig.model_validate(config)
        made.append(Explainer(model, Backgrounds(settings.backgrounds), settings, clock=clock))
        return made[-1]

    async def explain(
        model: InferenceService,
        background: Arrays,
        rows: Arrays,
        config: Mapping[str, Any] | None = None,
        /,
        call: Call | None = None,
        **parameters: Any,
    ) -> Explained:
        service = explainer(model, background, **(config or {}))
        return Explained(await service.infer(request_of(rows, **parameters), call or Call()))

    yield SimpleNamespace(
        FunctionModel=FunctionModel,
        Explained=Explained,
        request_of=request_of,
        oip_json=oip_json,
        explainer=explainer,
        explain=explain,
        folder=tmp_path / "backgrounds",
    )
    for each in made:
        each.close()
