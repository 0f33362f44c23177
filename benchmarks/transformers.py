"""The servers of `transformer_cost`: our transformer and its peers, all before the same backend and with the same Valkey."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from benchmarks.contenders import WAYS, WrongAnswer, check_same
from benchmarks.echo_backend import ECHO
from benchmarks.feature_rows import LOOKED_UP, feature_file, request_for, values_of
from benchmarks.pairs import Contender
from benchmarks.processes import LOAD_CORE, ROOT, Launch, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_outputs, read_inputs

__all__ = ["PEERS", "awaited", "backend", "bare", "check", "transformer", "transformer_launch"]

PEERS = {
    "texts": "bare transformer, HMGET of texts",
    "raw": "bare transformer, HMGET of raw FP32",
    "packed": "bare transformer, GET of packed FP32",
}
ANSWERS_WITHIN_S = 30.0
CALL_S = 10.0


@contextlib.contextmanager
def backend(file: Path, response: ModelInferResponse) -> Iterator[int]:
    """The port of a backend. It shares the load's core, so that every contender has core 0 to itself."""
    file.write_bytes(response.SerializeToString())
    port = free_port()
    with process(["-m", "benchmarks.echo_backend", str(file), str(port)], port, core=LOAD_CORE):
        yield port


@contextlib.contextmanager
def transformer(folder: Path, url: str, backend_port: int, *, way: str = "grpcio") -> Iterator[Contender]:
    """Ours, with the settings that `infermesh up` gives it: the samples' own, but for the features and the addresses."""
    launch = transformer_launch(folder, url, backend_port, way=way)
    with launch.started() as pid:
        yield Contender("infermesh transformer", (pid,), f"127.0.0.1:{launch.port}")


def transformer_launch(folder: Path, url: str, backend_port: int, *, way: str = "grpcio") -> Launch:
    """How it is started; its files are in the folder, which is made."""
    folder.mkdir()
    engine, via = WAYS[way]
    shutil.copy(ROOT / "samples" / "config" / "transformer.yaml", folder)
    (folder / "features.yaml").write_text(json.dumps(feature_file()))  # which YAML is a superset of
    port = free_port()
    environment = {
        "SERVER__ENGINE": engine,
        "SERVER__HOST": "127.0.0.1",
        "SERVER__GRPC_PORT": str(port),
        "SERVER__HTTP_PORT": str(free_port()),
        "SERVER__DRAIN": "0s",
        "REDIS__URL": url,
        "BACKENDS__PREDICTOR__VIA": via,
        **{f"BACKENDS__{n}__TARGET": f"127.0.0.1:{backend_port}" for n in ("PREDICTOR", "EXPLAINER", "CANDIDATE")},
    }
    prefixed = {f"INFERMESH_TRANSFORMER__{name}": value for name, value in environment.items()}
    return Launch(["-m", "services.transformer", "--config", str(folder / "transformer.yaml")], port, prefixed)


@contextlib.contextmanager
def bare(storage: str, url: str, backend_port: int) -> Iterator[Contender]:
    """A transformer as a user writes one, on what `feature_rows.fill` has written in that way."""
    port = free_port()
    command = ["-m", "benchmarks.bare_transformer", f"127.0.0.1:{backend_port}", url, str(port), storage]
    with process(command, port) as pid:
        yield Contender(PEERS[storage], (pid,), f"127.0.0.1:{port}")


def check(contender: Contender, first: int, count: int) -> None:
    """Raises WrongAnswer unless the backend gets the cards' features, as they were written, and what else was sent."""
    request = request_for(first, count)
    request.id = ECHO
    expected = ModelInferResponse(model_name=request.model_name)
    features = values_of(first + count)[first:]
    add_outputs(expected, [("amount", "FP32", read_inputs(request)["amount"]), (LOOKED_UP, "FP32", features)], raw=True)
    with grpc.insecure_channel(contender.target) as channel:
        answer = awaited(contender, GRPCInferenceServiceStub(channel).ModelInfer, request)
    if answer.id != ECHO:
        raise WrongAnswer(f"{contender.name}: expected the id {ECHO}, got {answer.id!r}")
    check_same(contender.name, answer, expected)


def awaited(
    contender: Contender, infer: grpc.UnaryUnaryMultiCallable, request: ModelInferRequest
) -> ModelInferResponse:
    """The answer, as soon as there is one: what stands behind a port that is open may not be ready yet."""
    end = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        try:
            response: ModelInferResponse = infer(request, timeout=CALL_S, wait_for_ready=True)
            return response
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise RuntimeError(f"{contender.name} does not answer: {error.code()}: {error.details()}") from None
        time.sleep(0.2)
