"""The benchmarks of the engines: they run, hold answers against each other, and their load says what came of each call."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks import chain_cost, chains
from benchmarks.bounds import Bound, Later, verdicts
from benchmarks.contenders import WrongAnswer, answer, check_same, ours
from benchmarks.feature_rows import fill
from benchmarks.gateway_cost import iris_request, iris_response
from benchmarks.gateways import check, gateway, gateway_did
from benchmarks.pairs import LEAN_LOAD, Rounds, run_rounds
from benchmarks.payloads import PAYLOADS
from benchmarks.processes import ROOT, free_port, process
from infermesh.cli.valkey import Valkey
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ServerLiveRequest
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub

IRIS = PAYLOADS["iris"]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a backend that answers every ModelInfer with the same bytes."""
    file, port = tmp_path_factory.mktemp("backend") / "response.bin", free_port()
    file.write_bytes(iris_response().SerializeToString())
    with process(["-m", "benchmarks.lean_backend", str(file), str(port)], port):
        yield port


def test_both_engines_answer_alike_and_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The predictor on each engine, with the same model: the same bits, and a short comparison of all calls answered."""
    IRIS.write(tmp_path / "models")
    request = tmp_path / "request.bin"
    request.write_bytes(IRIS.request.SerializeToString())
    with ours(IRIS, tmp_path / "models", "grpcio") as one, ours(IRIS, tmp_path / "models", "envoy") as other:
        check_same(other.name, answer(other, IRIS), answer(one, IRIS))
        measured = run_rounds([one, other], request, rounds=1, seconds=0.2, in_flight=8, load=LEAN_LOAD, warm_s=0.1)

    assert min(of[0]["cpu_us"] for of in measured.results.values()) > 0
    assert len(verdicts([Bound(other.name, one.name, 1.0), Later(other.name, one.name, 0.1)], measured)) == 2
    assert "by the load" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["envoy", "envoy-http2"])
def test_a_gateway_on_envoy_answers_as_its_backend_does(way: str, backend: int, tmp_path: Path) -> None:
    """Which is one that speaks no more HTTP/2 than it must; calls without a key are refused."""
    with gateway(tmp_path / "gateway", backend, way=way) as (contender, http_port):
        check(contender, iris_request(), iris_response())
        did = gateway_did(http_port)

    assert did.calls == 1


def test_the_chain_says_what_the_model_says(tmp_path: Path) -> None:
    """Transformer and predictor on Envoy, with features from Valkey; other features are a wrong answer."""
    with Valkey() as valkey:
        fill(valkey.url, 60)
        file = chains.CARDS_MODEL.write(tmp_path / "models")
        with chains.our_chain(tmp_path / "chain", tmp_path / "models", valkey.url, "envoy-http2") as chain:
            chains.check(chain, file, chain_cost.FIRST, 1)
            chains.check(chain, file, chain_cost.FIRST, 5)
            right, wrong = (chains.expected(file, first, 1) for first in (chain_cost.FIRST, 8))

    with pytest.raises(WrongAnswer, match="probabilities differs"):
        check_same("another card", wrong, right)


@pytest.mark.parametrize(
    "services", [["gateway"], pytest.param(["gateway", "transformer", "predictor"], marks=pytest.mark.long)]
)
def test_services_are_measured_by_themselves(services: list[str]) -> None:
    """Each is built and answers every call; the functions with most time are told."""
    command = [sys.executable, "-m", "benchmarks.in_process", *services, "--rounds=1", "--profile=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    figures = re.findall(r"^(\w+): ([\d.]+) µs a call", done.stdout, re.MULTILINE)
    assert [name for name, _ in figures] == services
    assert all(float(figure) > 0 for _, figure in figures)
    assert done.stdout.count("tottime") == len(services)


@pytest.mark.long
@pytest.mark.parametrize("name", chains.KSERVE)
def test_kserves_chain_says_what_the_model_says(name: str, tmp_path: Path) -> None:
    with Valkey() as valkey:
        fill(valkey.url, 60)
        file = chains.CARDS_MODEL.write(tmp_path / "models")
        with chains.kserve(name, file, valkey.url) as chain:
            chains.check(chain, file, chain_cost.FIRST, 1)
            chains.check(chain, file, chain_cost.FIRST, 5)


def test_the_lean_backend_answers_a_client_of_grpcs_own(backend: int) -> None:
    """With the canned bytes on ModelInfer, many times over, and UNIMPLEMENTED on any other method."""
    with grpc.insecure_channel(f"127.0.0.1:{backend}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        answers = [stub.ModelInfer(ModelInferRequest(model_name="m"), timeout=10) for _ in range(20)]
        with pytest.raises(grpc.RpcError) as refused:
            stub.ServerLive(ServerLiveRequest(), timeout=10)

    assert all(each == iris_response() for each in answers)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_lean_load_sends_whole_messages(tmp_path: Path) -> None:
    """A message of several frames arrives whole, in turns, at a server of gRPC's own; its answers are counted."""
    requests, seen = tmp_path / "requests", set()
    requests.mkdir()
    for number in range(3):
        (requests / f"{number}.bin").write_bytes(_request(number))

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.add(request)
        assert dict(context.invocation_metadata())["x-api-key"] == "a-key"
        return ModelInferResponse(model_name="m").SerializeToString()

    with _served(infer) as target:
        told = _load(target, requests, "a-key")

    assert seen == {_request(number) for number in range(3)}
    assert told["calls"] > 3
    assert told["errors"] == 0
    assert told["cpu_s"] > 0


def test_the_lean_load_tells_failures(tmp_path: Path) -> None:
    """By status and message, and not as answers."""
    calls = iter(range(1_000_000))

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(calls) % 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return b""

    (tmp_path / "request.bin").write_bytes(_request(0))
    with _served(infer) as target:
        told = _load(target, tmp_path / "request.bin")

    assert told["errors"] > 0
    assert told["failed"] == {"status 8: enough": told["errors"]}


def test_a_load_that_could_not_ask_more_is_told() -> None:
    """Calls per second are the load's, not the server's, when its core was full and the server's was not."""
    figures = {"cpu_us": 1.0, "calls_per_s": 1.0, "p50_ms": 1.0, "p99_ms": 1.0, "rss_bytes": 1.0}
    slow, fast = ({**figures, "core": core, "load_core": load} for core, load in ((0.99, 0.3), (0.5, 0.98)))

    lines = Rounds({"slow": [slow], "fast": [fast]}).lines()

    assert [line for line in lines if "bottleneck" in line] == [
        "fast: the load was the bottleneck, so calls/s are the load's"
    ]


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        (Bound("ours", "bare", 0.6), "0.50 (0.40 to 0.90)  bound ≤ 0.6: met"),
        (Bound("ours", "bare", 0.4), "0.50 (0.40 to 0.90)  bound ≤ 0.4: NOT met"),
        (Bound("bare", "ours", 2.0, at_least=True), "2.00 (1.11 to 2.50)  bound ≥ 2: met"),
        (Bound("bare", "ours", 2.1, at_least=True), "2.00 (1.11 to 2.50)  bound ≥ 2.1: NOT met"),
        (Later("ours", "bare", 0.1), "+0.050 ms (-0.200 to +0.200)  bound ≤ 0.1 ms: met"),
        (Later("ours", "bare", 0.04), "+0.050 ms (-0.200 to +0.200)  bound ≤ 0.04 ms: NOT met"),
    ],
)
def test_bounds_are_held_against_the_median_of_the_rounds(bound: Bound | Later, verdict: str) -> None:
    rounds = [(40.0, 1.2), (50.0, 1.05), (90.0, 0.8)]
    ours_ = [{"cpu_us": cpu, "p50_ms": p50} for cpu, p50 in rounds]
    measured = Rounds({"ours": ours_, "bare": [{"cpu_us": 100.0, "p50_ms": 1.0}] * 3})

    (line,) = verdicts([bound, Bound("ours", "who was not measured", 1.0)], measured)

    assert line.endswith(verdict)


def _request(number: int) -> bytes:
    return ModelInferRequest(model_name="m", id=str(number), raw_input_contents=[bytes(20_000)]).SerializeToString()


@contextlib.contextmanager
def _served(infer: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _load(target: str, requests: Path, key: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", LEAN_LOAD, target, str(requests), "0.2", "4", key],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told
