"""A real predictor with the sample models, and explainers of it in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.config import TelemetryConfig, load
from infermesh.deadline import Deadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import InferenceService, ModelRepository
from infermesh.telemetry import Metrics, Tracing
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import ExplainerConfig
from services.explainer.explainer import Explainer
from services.explainer.graph import ModelGraph
from services.explainer.model_files import ModelFiles
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig

SAMPLES = Path(__file__).parents[4] / "samples"


class Watched(InferenceService, ModelRepository):
    """Passes on, and keeps the order in which ModelInfers came and ended; calls `on_infer` before each goes on."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.under_way = 0
        self.ended: list[str] = []
        self.on_infer = lambda: None

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.under_way += 1
        self.on_infer()
        try:
            return await self._inner.infer(request, call)
        finally:
            self.under_way -= 1
            self.ended.append(request.id)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return await self._inner.metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return await self._inner.ready(model, version)


def golden(model: str, version: str) -> dict[str, np.ndarray]:
    """The inputs of a golden case as the model takes them."""
    cases = json.loads((SAMPLES / "golden" / f"{model}.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    case = next(case for case in cases if str(case["version"]) == version)
    arrays = {}
    for one in case["inputs"]:
        is_text = one["datatype"] == "BYTES"
        array = np.empty(len(one["data"]), object if is_text else np.float32)
        array[:] = [e.encode() for e in one["data"]] if is_text else one["data"]
        arrays[one["name"]] = array.reshape(one["shape"])
    return arrays


@pytest.fixture
async def served(lab: SimpleNamespace) -> AsyncIterator[SimpleNamespace]:
    """`explainer(models_root, predictor={…}, **config)` makes an explainer; `explain(explainer, model, version, rows, …)` is one
    explanation of the first rows of a golden case; `predictor` is what was made last."""
    async with AsyncExitStack() as resources:
        made = SimpleNamespace(golden=golden, models=SAMPLES / "models")

        async def explainer(root: Path | None, predictor: Mapping[str, str] | None = None, **config: Any) -> Explainer:
            telemetry = Telemetry(Metrics("predictor"), Tracing("predictor", TelemetryConfig()))
            settings = {"INFERMESH_PREDICTOR__REPOSITORY__ROOT": str(SAMPLES / "models"), **(predictor or {})}
            service = await resources.enter_async_context(
                build_predictor(load(PredictorConfig, None, settings), telemetry)
            )
            made.predictor = Watched(service)
            read = ExplainerConfig.model_validate({"backgrounds": {"root": SAMPLES / "backgrounds"}, **config})
            graphs = {}
            if root is not None:
                files = ModelFiles(str(root))
                resources.callback(files.close)

                async def graph(model: str, version: str, output: str) -> ModelGraph | str:
                    found = await files.find(model, version, output)
                    return found.graph or found.reason

                graphs = {"graphs": graph}
            explainer = Explainer(made.predictor, Backgrounds(read.backgrounds), read, **graphs)
            resources.callback(explainer.close)
            return explainer

        async def explain(
            explainer: Explainer, model: str, version: str, rows: int = 3, *, seconds: float = 60, **parameters: Any
        ) -> Any:
            arrays = {name: array[:rows] for name, array in golden(model, version).items()}
            request = lab.request_of(arrays, model=model, **parameters)
            request.model_version = version
            deadline = Deadline.after(seconds)
            async with asyncio.timeout(60):
                return lab.Explained(await explainer.infer(request, Call(deadline=deadline)))

        made.explainer, made.explain = explainer, explain
        yield made
