"""The servers of `predictor_peers`: ours and its peers, all with the same model file, each in its own environment."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks.pairs import Contender
from benchmarks.payloads import Payload
from benchmarks.processes import ROOT, Launch, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import DATATYPES

__all__ = [
    "ENGINES",
    "PEERS",
    "WAYS",
    "Peer",
    "WrongAnswer",
    "answer",
    "check_same",
    "our_launch",
    "our_name",
    "ours",
    "serve",
    "versions",
]

ENGINES = ("grpcio", "envoy")
WAYS = {"grpcio": ("grpcio", "grpc"), "envoy": ("envoy", "grpc"), "envoy-http2": ("envoy", "http2")}
"""How a hop that calls on can be run: its engine, and `via` of its backends."""

ANSWERS_WITHIN_S = 30.0
CALL_S = 10.0


class WrongAnswer(Exception):
    """A peer that answers otherwise than we do: nothing is measured by wrong answers."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server of others. `arguments` gives its command line from the model's file, the model's name and a port."""

    title: str
    arguments: Callable[[str, str, str], list[str]]
    environment: str = ".venv"  # of the project's folder
    packages: tuple[str, ...] = ()  # whose versions are stated
    columns: bool = False  # it can't but answer a vector with a number for each row as a column

    @property
    def python(self) -> Path:
        return ROOT / self.environment / "bin" / "python"


_KSERVE = (".venv-kserve", ("kserve", "grpcio", "protobuf", "numpy", "onnxruntime"))
_MLSERVER = (".venv-mlserver", ("mlserver", "grpcio", "protobuf", "numpy", "onnxruntime"))
_TRITON = (".venv-tritonserver", ("nvidia-pytriton", "numpy", "onnxruntime"))

PEERS = {
    "bare": Peer("bare grpc.aio + ONNX Runtime", lambda file, name, port: ["benchmarks.bare_predictor", file, port]),
    "bare-asyncio": Peer(
        "the same on asyncio's own loop", lambda file, name, port: ["benchmarks.bare_predictor", file, port, "asyncio"]
    ),
    "kserve": Peer("KServe", lambda *model: ["benchmarks.kserve_server", *model], *_KSERVE),
    "kserve-tuned": Peer("KServe, tuned", lambda *model: ["benchmarks.kserve_server", *model, "--tuned"], *_KSERVE),
    "mlserver": Peer("MLServer, no workers", lambda *model: ["benchmarks.mlserver_server", *model], *_MLSERVER),
    "mlserver-default": Peer(
        "MLServer, its defaults", lambda *model: ["benchmarks.mlserver_server", *model, "--default"], *_MLSERVER
    ),
    "triton": Peer("Triton, Python backend", lambda *model: ["benchmarks.triton_server", *model], *_TRITON),
    "triton-batched": Peer(
        "Triton, with its batcher",
        lambda *model: ["benchmarks.triton_server", *model, "--batched"],
        *_TRITON,
        columns=True,
    ),
}


def our_name(engine: str) -> str:
    """What our predictor on an engine is called in tables."""
    return f"infermesh predictor, {engine}"


@contextlib.contextmanager
def ours(payload: Payload, root: Path, engine: str = "grpcio") -> Iterator[Contender]:
    """The predictor as `infermesh up` starts it, but for its models: those of a repository with the payload's.

    One thread for ONNX Runtime, as its peers have.
    """
    launch = our_launch(payload, root, engine)
    with launch.started() as pid:
        yield Contender(our_name(engine), (pid,), f"127.0.0.1:{launch.port}")


def our_launch(payload: Payload, root: Path, engine: str = "grpcio") -> Launch:
    """How it is started."""
    port = free_port()
    environment = {
        "SERVER__ENGINE": engine,
        "SERVER__HOST": "127.0.0.1",
        "SERVER__GRPC_PORT": str(port),
        "SERVER__HTTP_PORT": "0",
        "SERVER__DRAIN": "0s",
        "REPOSITORY__ROOT": str(root),
        "REPOSITORY__MODELS": f'["{payload.name}"]',
        "EXECUTION__INTRA_OP_THREADS": "1",
    }
    prefixed = {f"INFERMESH_PREDICTOR__{name}": value for name, value in environment.items()}
    command = ["-m", "services.predictor", "--config", str(ROOT / "samples" / "config" / "predictor.yaml")]
    return Launch(command, port, prefixed)


@contextlib.contextmanager
def serve(peer: Peer, payload: Payload, file: Path) -> Iterator[Contender]:
    """A peer with the payload's model file. Raises FileNotFoundError when its environment was not made."""
    if not peer.python.is_file():
        raise FileNotFoundError(f"{peer.title}: no {peer.environment}: make {peer.environment}/ready")
    port = free_port()
    arguments = ["-m", *peer.arguments(str(file), payload.name, str(port))]
    # Our own environment is the interpreter that runs this, wherever that is.
    python = sys.executable if peer.environment == ".venv" else peer.python
    with process(arguments, port, python=python) as pid:
        yield Contender(peer.title, (pid,), f"127.0.0.1:{port}")


def answer(contender: Contender, payload: Payload) -> ModelInferResponse:
    """What a server says to the payload's request, as soon as it says anything: a port may be open before its model is loaded."""
    end = time.monotonic() + ANSWERS_WITHIN_S
    with grpc.insecure_channel(contender.target) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        while True:
            try:
                return infer(payload.request, timeout=CALL_S, wait_for_ready=True)
            except grpc.RpcError as error:
                if (
                    time.monotonic() > end
                ):  # no code can be told apart: a model that loads is INVALID_ARGUMENT to MLServer
                    raise RuntimeError(f"{contender.name} does not answer: {error.code()}: {error.details()}") from None
            time.sleep(0.2)


def check_same(title: str, theirs: ModelInferResponse, expected: ModelInferResponse, *, columns: bool = False) -> None:
    """Raises WrongAnswer unless names, datatypes, shapes and every bit of the outputs are the same, raw in both.

    With `columns` a shape [n, 1] is as good as the expected [n].
    """
    for message in (theirs, expected):
        if len(message.raw_output_contents) != len(message.outputs):
            raise WrongAnswer(f"{title}: expected raw contents for {len(message.outputs)} outputs")
    form, expected_form = ({o.name: (o.datatype, tuple(o.shape)) for o in m.outputs} for m in (theirs, expected))
    if columns:
        form = {
            n: expected_form[n] if (d, s[:-1], s[-1:]) == (*expected_form.get(n, ()), (1,)) else (d, s)
            for n, (d, s) in form.items()
        }
    if form != expected_form:
        raise WrongAnswer(f"{title}: expected {expected_form}, got {form}")
    # The raw bytes themselves: MLServer sets empty typed contents beside them, which `read_outputs` would refuse.
    values, expected_values = (
        {o.name: raw for o, raw in zip(m.outputs, m.raw_output_contents, strict=True)} for m in (theirs, expected)
    )
    for name, value in values.items():
        if value != expected_values[name]:
            dtype = DATATYPES[form[name][0]].dtype
            got, wanted = (np.frombuffer(v, dtype).astype(np.float64) for v in (value, expected_values[name]))
            raise WrongAnswer(f"{title}: output {name} differs by up to {np.abs(got - wanted).max():g}")


def versions(peer: Peer) -> str:
    """What a peer's environment has, to be stated beside its figures."""
    script = "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([str(peer.python), "-c", script, *peer.packages], capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {number}" for name, number in json.loads(done.stdout).items())
