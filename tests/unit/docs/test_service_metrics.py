"""docs/metrics.md beside scrapes of a transformer and of an explainer in use; the predictor's is beside its other metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml

from infermesh.config import load
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_inputs
from services.explainer.app import build as build_explainer
from services.explainer.config import ExplainerConfig
from services.transformer.app import build as build_transformer
from services.transformer.config import TransformerConfig
from tests.unit.docs.metrics_page import backend, differences, documented, scrape, serving
from tests.unit.explainer.conftest import FunctionModel, oip_json, request_of

BACKENDS = "Every service with backends, or with TLS"
TLS = {"infermesh_tls_reloads_total", "infermesh_tls_bad", "infermesh_tls_expires_seconds"}
QUIET = {"infermesh_backend_breaker_total"}  # here every address is well; the gateway's test has one that is not


def without_tls(*sections: str) -> dict[str, set[str]]:
    return {name: labels for name, labels in documented(*sections).items() if name not in TLS}


async def ask(port: int, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        while not (await stub.ServerReady(pb.ServerReadyRequest(), wait_for_ready=True, timeout=10)).ready:
            pass
        return await stub.ModelInfer(request, timeout=10)


@pytest.fixture
def server(unused_tcp_port_factory: Callable[[], int]) -> dict[str, str | int]:
    ports = {"grpc_port": unused_tcp_port_factory(), "http_port": unused_tcp_port_factory()}
    return {"host": "127.0.0.1", "drain": "0s", **ports}


async def test_the_page_has_what_an_explainer_in_use_tells(tmp_path: Path, server: dict[str, int]) -> None:
    """After an explanation, whose questions to the model are counted."""
    (tmp_path / "model.json").write_text(oip_json({"x": np.zeros((1, 3))}))
    model = FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    async with backend(model) as place:
        target = place.replace("127.0.0.1", "localhost")  # a name, which is looked up
        settings = {"server": server, "backends": {"predictor": {"target": target}}, "backgrounds": {"root": "."}}
        (tmp_path / "explainer.yaml").write_text(yaml.safe_dump(settings))
        config = load(ExplainerConfig, tmp_path / "explainer.yaml", {})
        async with serving("explainer", config, build_explainer):
            await ask(server["grpc_port"], request_of({"x": np.ones((2, 3))}))

            told = await scrape(server["http_port"])

    assert differences(told, without_tls(BACKENDS, "Explainer"), QUIET) == []


async def test_the_page_has_what_a_transformer_in_use_tells(
    tmp_path: Path, server: dict[str, int], redis_url: str
) -> None:
    """After a request that features were joined to, and whose answer a decision was made of."""
    view = {"entity": {"name": "card_id"}, "missing": "default", "features": [{"name": "spent", "default": 1.0}]}
    decide = {"threshold": {"of": "y", "at": [0.5], "decisions": ["low", "high"]}}
    service = {"inputs": {"x": {"columns": ["card.*"]}}, "after": [decide]}
    features = {"views": {"card": view}, "services": {"model": service}}
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(features))
    model = FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    async with backend(model) as place:
        target = place.replace("127.0.0.1", "localhost")
        settings = {
            "server": server,
            "features": "features.yaml",
            "redis": {"url": redis_url, "cache": {"max_bytes": "1MiB"}},
            "backends": {"predictor": {"target": target}},
            "routing": {"models": "predictor", "explanations": ""},
            "served_log": {"mode": "file", "folder": ".", "share": 1.0},
        }
        (tmp_path / "transformer.yaml").write_text(yaml.safe_dump(settings))
        config = load(TransformerConfig, tmp_path / "transformer.yaml", {})
        async with serving("transformer", config, build_transformer):
            request = pb.ModelInferRequest(model_name="model")
            add_inputs(request, {"card_id": np.array([b"c-7"], np.object_)}, raw=True)
            await ask(server["grpc_port"], request)

            told = await scrape(server["http_port"])

    assert differences(told, without_tls(BACKENDS, "Transformer"), QUIET) == []
