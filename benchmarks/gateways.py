"""The servers of `gateway_cost`: our gateway, with and without a shadow, and its peers, all before the same backend."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.contenders import WAYS, WrongAnswer, check_same
from benchmarks.pairs import Contender
from benchmarks.processes import ROOT, Launch, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub

__all__ = [
    "CALL_S",
    "ENVOY",
    "KEY",
    "Did",
    "bare",
    "check",
    "envoy",
    "envoy_did",
    "gateway",
    "gateway_did",
    "gateway_launch",
    "our_name",
    "sampled",
]

KEY = "a-key-for-measuring"
RATE = 1_000_000  # calls a second, and as many at once: a limit that is kept count of and never reached
ENVOY = Path(sys.executable).parent / "envoy"
ANSWERS_WITHIN_S = 30.0
CALL_S = 10.0
_ROUTES = """
routes:
  - model: iris
    backend: predictor
    sticky: {metadata: x-user-id}
    variants:
      - {name: stable, version: "2", weight: 90}
      - {name: canary, version: "3", weight: 10}
"""
_SHADOWS = """
    shadows:
      - {name: candidate, backend: candidate, fraction: %s}
"""


@dataclass(frozen=True, slots=True)
class Did:
    """What a server says that it did, by its own counters, since it began."""

    by_variant: Counter[str]
    copies: Counter[str] = field(default_factory=Counter)  # by what became of them
    pairs: Counter[str] = field(default_factory=Counter)  # of answers, likewise

    @property
    def calls(self) -> int:
        return self.by_variant.total()

    def __str__(self) -> str:
        told = "".join(
            f", {number} {what} {outcome}"
            for what, counts in (("copies", self.copies), ("pairs", self.pairs))
            for outcome, number in counts.items()
            if number
        )
        return f"{self.calls} calls, {self.by_variant['canary'] / max(self.calls, 1):.1%} of them to the canary{told}"


def our_name(way: str) -> str:
    """What our gateway, run in one of the ways, is called in tables."""
    return f"infermesh gateway, {way}"


@contextlib.contextmanager
def gateway(
    folder: Path,
    backend_port: int,
    *,
    mirrored: float = 0,
    candidate_port: int = 0,
    compared: bool = False,
    way: str = "grpcio",
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[Contender, int]]:
    """Our gateway as it is deployed, and the port of its metrics.

    `mirrored` is the share of calls that a candidate sees too; `compared`: both answers go to the comparing process, which is of
    the contender's process tree. `settings` are further ones, by the names of their environment variables.
    """
    http_port = free_port()
    own = {"SERVER__HTTP_PORT": str(http_port), **(settings or {})}
    if mirrored:
        own["BACKENDS__CANDIDATE__TARGET"] = f"127.0.0.1:{candidate_port}"
    if compared:
        own["COMPARE__ENABLED"] = "true"
    launch = gateway_launch(folder, backend_port, mirrored=mirrored, way=way, settings=own)
    title = f"gateway, {mirrored * 100:g} % mirrored" if mirrored else our_name(way)
    title += " and compared" if compared else ""
    with launch.started() as pid:
        yield Contender(title, (pid,), f"127.0.0.1:{launch.port}", KEY), http_port


def gateway_launch(
    folder: Path,
    backend_port: int,
    *,
    mirrored: float = 0,
    way: str = "grpcio",
    settings: Mapping[str, str] | None = None,
) -> Launch:
    """How our gateway is started; its files are in the folder, which is made."""
    folder.mkdir()
    engine, via = WAYS[way]
    port = free_port()
    (folder / "routes.yaml").write_text(_ROUTES.rstrip() + (_SHADOWS % mirrored if mirrored else "\n"))
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "keys.yaml").write_text(f"keys: [{{sha256: {digest}, caller: load, scopes: [infer]}}]\n")
    own = {
        "SERVER__ENGINE": engine,
        "BACKENDS__PREDICTOR__VIA": via,
        "SERVER__HOST": "127.0.0.1",
        "SERVER__GRPC_PORT": str(port),
        "SERVER__DRAIN": "0s",
        "ROUTES": str(folder / "routes.yaml"),
        "AUTH__KEYS": str(folder / "keys.yaml"),
        "RATE_LIMIT__RATE": str(RATE),
        "RATE_LIMIT__BURST": str(RATE),
        "BACKENDS__PREDICTOR__TARGET": f"127.0.0.1:{backend_port}",
    }
    prefixed = {f"INFERMESH_GATEWAY__{name}": value for name, value in {**own, **(settings or {})}.items()}
    return Launch(["-m", "services.gateway"], port, prefixed)


@contextlib.contextmanager
def bare(backend_port: int) -> Iterator[Contender]:
    """The floor: a grpc.aio proxy that passes bytes through."""
    port = free_port()
    with process(["-m", "benchmarks.bare_proxy", f"127.0.0.1:{backend_port}", str(port)], port) as pid:
        yield Contender("bare grpc.aio proxy", (pid,), f"127.0.0.1:{port}")


@contextlib.contextmanager
def envoy(folder: Path, backend_port: int, *, binary: Path = ENVOY) -> Iterator[tuple[Contender, int]]:
    """Envoy with one worker thread, and its admin port. Raises FileNotFoundError when it is not installed."""
    if not binary.is_file():
        raise FileNotFoundError(f"no {binary}: it comes with the extra `envoy`")
    folder.mkdir()
    port, admin_port = free_port(), free_port()
    template = Template((ROOT / "benchmarks" / "envoy.yaml").read_text())
    filled = template.substitute(port=port, admin_port=admin_port, backend_port=backend_port, key=KEY, rate=RATE)
    file = folder / "envoy.yaml"
    file.write_text(filled)
    checked = subprocess.run([binary, "--mode", "validate", "-c", file], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise RuntimeError(f"Envoy does not take benchmarks/envoy.yaml: {checked.stderr[-1000:]}")
    # Without hot restart, since that is a region of shared memory that other Envoys of the machine would meet.
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "off"]
    with process(["-c", str(file), *flags], port, python=binary) as pid:
        yield Contender("Envoy", (pid,), f"127.0.0.1:{port}", KEY), admin_port


def check(contender: Contender, request: ModelInferRequest, expected: ModelInferResponse) -> None:
    """Raises WrongAnswer unless the outputs are the backend's bit for bit and, with a key, nobody gets in without it."""
    with grpc.insecure_channel(contender.target) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        check_same(contender.name, _answer(contender, infer, request), expected)
        if not contender.key:
            return
        for metadata in ((), (("x-api-key", "another"),)):
            try:
                infer(request, timeout=CALL_S, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                    continue
                raise WrongAnswer(f"{contender.name}: expected UNAUTHENTICATED, got {error.code().name}") from None
            raise WrongAnswer(f"{contender.name}: a call without a good key was answered")


def gateway_did(http_port: int) -> Did:
    """What our gateway's metrics say."""
    by_variant, copies, pairs = Counter[str](), Counter[str](), Counter[str]()
    for family in text_string_to_metric_families(_read(http_port, "/metrics")):
        for sample in family.samples:
            if sample.name == "infermesh_gateway_picks_total":
                by_variant[sample.labels["variant"]] += int(sample.value)
            elif sample.name == "infermesh_gateway_shadow_total":
                copies[sample.labels["outcome"]] += int(sample.value)
            elif sample.name == "infermesh_gateway_pairs_total":
                pairs[sample.labels["outcome"]] += int(sample.value)
            elif sample.name == "infermesh_gateway_pairs_lost_total":
                pairs["lost"] += int(sample.value)
    return Did(by_variant, copies, pairs)


def sampled(http_port: int, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    families = text_string_to_metric_families(_read(http_port, "/metrics"))
    samples = (sample for family in families for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def envoy_did(admin_port: int) -> Did:
    """What Envoy's counters say. Raises WrongAnswer unless every call that it sent on had passed its limit."""
    stats = json.loads(_read(admin_port, "/stats?format=json&type=Counters"))["stats"]
    counters = {each["name"]: each["value"] for each in stats if "name" in each}
    did = Did(Counter({name: counters[f"cluster.{name}.upstream_rq_total"] for name in ("stable", "canary")}))
    passed = counters.get("limit.http_local_rate_limit.ok", 0)
    if passed != did.calls:
        raise WrongAnswer(f"Envoy: {did.calls} calls were sent on, {passed} had passed the limit")
    return did


def _answer(
    contender: Contender, infer: grpc.UnaryUnaryMultiCallable, request: ModelInferRequest
) -> ModelInferResponse:
    """The answer, as soon as there is one: a port may be open before what is behind it is ready."""
    end = time.monotonic() + ANSWERS_WITHIN_S
    metadata = (("x-api-key", contender.key),) if contender.key else ()
    while True:
        try:
            response: ModelInferResponse = infer(request, timeout=CALL_S, metadata=metadata, wait_for_ready=True)
            return response
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise RuntimeError(f"{contender.name} does not answer: {error.code()}: {error.details()}") from None
        time.sleep(0.2)


def _read(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=CALL_S) as response:
        text: str = response.read().decode()
        return text
