"""The chains of `chain_cost`: a transformer that looks cards up in Valkey, and a predictor behind it; ours and KServe's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort

from benchmarks.contenders import PEERS, WAYS, check_same, ours, serve
from benchmarks.feature_rows import FEATURES, LOOKED_UP, MODEL, request_for, values_of
from benchmarks.pairs import Contender
from benchmarks.payloads import Payload, scores_of_cards
from benchmarks.processes import free_port, process
from benchmarks.transformers import awaited, transformer
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_outputs, read_inputs

__all__ = ["CARDS_MODEL", "KSERVE", "check", "expected", "kserve", "our_chain", "our_name"]

CARDS_MODEL = Payload(MODEL, lambda: scores_of_cards(FEATURES), LOOKED_UP, np.zeros((1, FEATURES), np.float32), 64)
KSERVE = {"kserve": "KServe's chain", "kserve-tuned": "KServe's chain, tuned"}


def our_name(way: str) -> str:
    """What our chain, run in one of the ways, is called in tables."""
    return f"infermesh chain, {way}"


@contextlib.contextmanager
def our_chain(folder: Path, models: Path, url: str, way: str) -> Iterator[Contender]:
    """Our transformer and our predictor, both on the engine of the way and with the samples' settings."""
    with ours(CARDS_MODEL, models, WAYS[way][0]) as predictor:
        port = int(predictor.target.rsplit(":", 1)[1])
        with transformer(folder, url, port, way=way) as front:
            yield Contender(our_name(way), (*front.pids, *predictor.pids), front.target)


@contextlib.contextmanager
def kserve(name: str, file: Path, url: str) -> Iterator[Contender]:
    """Both of KServe's SDK, in one of the ways of KSERVE. Raises FileNotFoundError when its environment was not made."""
    peer, port = PEERS[name], free_port()
    options = ["--tuned"] if name == "kserve-tuned" else []
    with serve(peer, CARDS_MODEL, file) as predictor:
        command = ["-m", "benchmarks.kserve_transformer", predictor.target, url, MODEL, str(port), *options]
        with process(command, port, python=peer.python) as pid:
            yield Contender(KSERVE[name], (pid, *predictor.pids), f"127.0.0.1:{port}")


def expected(file: Path, first: int, count: int) -> ModelInferResponse:
    """What the model says of some cards, from the features as they were written."""
    amount = read_inputs(request_for(first, count))["amount"]
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (values,) = session.run(["probabilities"], {"amount": amount, LOOKED_UP: values_of(first + count)[first:]})
    response = ModelInferResponse(model_name=MODEL)
    add_outputs(response, [("probabilities", "FP32", values)], raw=True)
    return response


def check(contender: Contender, file: Path, first: int, count: int) -> None:
    """Raises WrongAnswer unless the chain says of the cards, bit for bit, what the model does in process."""
    with grpc.insecure_channel(contender.target) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        check_same(contender.name, awaited(contender, infer, request_for(first, count)), expected(file, first, count))
