"""HLT: live, ready, model ready by version, and health that answers while a model is busy."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conformance_cases import Subject, case, named
from conformance_models import BROKEN_MODEL, MODELS
from conformance_wire import WAIT_S, Client, infer, int64
from grpc_health.v1 import health_pb2, health_pb2_grpc

from infermesh.protocol import open_inference_pb2 as pb

HEALTH_S = 0.050  # of the protocol
TRIALS = 3
SAMPLES = 21  # of which the median counts, so that one pause of the machine says nothing
CALLERS = 16


@case("HLT-live")
def test_the_server_is_live(client: Client) -> None:
    """ServerLive answers true, without a key."""
    assert client.call("ServerLive", pb.ServerLiveRequest(), key="").live


@case("HLT-ready")
def test_the_server_is_ready(client: Client) -> None:
    """ServerReady answers true once every model has been tried, though one of them could not be loaded."""
    assert client.call("ServerReady", pb.ServerReadyRequest()).ready


@case("HLT-model-ready")
def test_the_model_is_ready(client: Client, subject: Subject) -> None:
    """ModelReady answers true for a model, and for its version."""
    assert client.call("ModelReady", pb.ModelReadyRequest(name=subject.model)).ready
    assert client.call("ModelReady", pb.ModelReadyRequest(name=subject.model, version="1")).ready


@case("HLT-versions", each={"version": MODELS["conf-versions"].versions})
def test_every_version_is_ready(client: Client, version: int) -> None:
    """ModelReady answers true for each version of a model."""
    assert client.call(
        "ModelReady", pb.ModelReadyRequest(name=named(client, "conf-versions"), version=str(version))
    ).ready


@case("HLT-broken")
def test_a_model_that_could_not_be_loaded_is_not_ready(client: Client) -> None:
    """ModelReady answers false, not an error, for a model whose file can't be loaded."""
    assert not client.call("ModelReady", pb.ModelReadyRequest(name=named(client, BROKEN_MODEL))).ready


@case("HLT-under-load")
def test_health_answers_while_a_model_is_busy(client: Client, subject: Subject) -> None:
    """Health Check and ServerLive answer within 50 ms (median of 21) while more calls run than there are cores."""
    health = health_pb2_grpc.HealthStub(client.channel)
    measured = threading.Event()

    def keep_busy() -> None:
        while not measured.is_set():
            client.infer(_busy(subject))

    with ThreadPoolExecutor(CALLERS) as callers:
        busy = [callers.submit(keep_busy) for _ in range(CALLERS)]
        client.infer(_busy(subject))  # the server is at work when this has been answered among the others
        try:
            checks = _least_median_s(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S))
            lives = _least_median_s(lambda: client.call("ServerLive", pb.ServerLiveRequest()))
        finally:
            measured.set()
    for caller in busy:
        caller.result()  # no call of the load failed

    assert checks < HEALTH_S
    assert lives < HEALTH_S


def _busy(subject: Subject) -> pb.ModelInferRequest:
    return infer("conf-slow", int64("n", [100])) if subject.model == "conf-sum" else subject.request(rows=64)


def _least_median_s(call: Callable[[], object]) -> float:
    """Measured anew, twice at most, when it is too long: the machine may have been at something else."""
    return next((took for _ in range(TRIALS - 1) if (took := _median_s(call)) < HEALTH_S), None) or _median_s(call)


def _median_s(call: Callable[[], object]) -> float:
    took = []
    for _ in range(SAMPLES):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return statistics.median(took)
