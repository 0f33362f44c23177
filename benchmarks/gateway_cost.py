"""CPU per call of the gateway (key check, rate limit, split) beside a bare grpc.aio proxy that passes bytes, and beside Envoy.

All stand before the same backend, which answers iris' raw 1×4 with bytes that were made once; what it costs is not counted.
Envoy has the same weights, key check and local limit (`envoy.yaml`), and one worker thread.

    python -m benchmarks.gateway_cost [--mirror PERCENT [--compare]] [--pairs 7] [--seconds 5] [--in-flight 64]

With --mirror: also the gateway with a shadow that gets copies of that many of a hundred calls; with --compare too, its answers
are compared with the primary's, and what the comparing process uses is part of the cost. Every contender's answer is held
against the backend's, and who has no good key must be refused, before anything is measured. Where Envoy (the extra
`envoy`) is not installed its row fails: the others are measured, and the status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.comparing import Cost, costs, not_compared, taken
from benchmarks.contenders import WrongAnswer
from benchmarks.gateways import Did, bare, check, envoy, envoy_did, gateway, gateway_did
from benchmarks.pairs import LOAD_CORE, Contender, Ratio, compare_all, free_port, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_inputs, add_outputs

BOUND = 1.5  # of the gateway to the bare proxy, mirroring off
COMPARED_BOUND = 1.25  # of the gateway with mirroring and comparison to the one without
MOST_LOST = 0.01  # of the copies: with more that failed or were shed, it is not mirroring that was measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=float, default=0.0, metavar="PERCENT")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    if not 0 <= options.mirror <= 100:
        parser.error(f"--mirror: expected a percentage, got {options.mirror:g}")
    if options.compare and not options.mirror:
        parser.error("--compare: expected --mirror beside it")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    failed = measure(options.mirror / 100, options.pairs, options.seconds, options.in_flight, compared=options.compare)
    for line in failed:
        print(f"FAILED: {line}")
    sys.exit(bool(failed))


def measure(mirrored: float, pairs: int, seconds: float, in_flight: int, *, compared: bool = False) -> list[str]:
    """Start all, check and compare them, and print the ratios; returns what could not be measured, with the reason."""
    request, response = iris_request(), iris_response()
    failed = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        (folder / "request.bin").write_bytes(request.SerializeToString())
        (folder / "response.bin").write_bytes(response.SerializeToString())
        backend = _backend(folder, servers)
        ours, our_metrics = servers.enter_context(gateway(folder / "gateway", backend))
        floor = servers.enter_context(bare(backend))
        peers = [floor]
        try:
            other, admin = servers.enter_context(envoy(folder / "envoy", backend))
            check(other, request, response)
            peers.append(other)
        except (FileNotFoundError, RuntimeError, WrongAnswer) as error:
            other = None
            failed.append(f"Envoy is NOT measured: {error}")
            print(failed[-1], flush=True)
        if mirrored:
            candidate = _backend(folder, servers)
            mirroring, its_metrics = servers.enter_context(
                gateway(folder / "mirroring", backend, mirrored=mirrored, candidate_port=candidate, compared=compared)
            )
            check(mirroring, request, response)
            peers.append(mirroring)
        check(ours, request, response)
        check(floor, request, response)
        began = _begun(mirroring, request, response) if compared else None
        ratios = compare_all(ours, peers, folder / "request.bin", pairs=pairs, seconds=seconds, in_flight=in_flight)
        print()
        _tell(ours, gateway_did(our_metrics))
        if other:
            try:
                _tell(other, envoy_did(admin))
            except WrongAnswer as error:
                failed.append(f"Envoy's row does not count: {error}")
        if mirrored:
            copied = gateway_did(its_metrics)
            _tell(mirroring, copied)
            failed += lost(copied)
        if began is not None:
            counted = taken(mirroring)
            copied = gateway_did(its_metrics)  # the last copies have ended by now
            failed += not_compared(copied, counted)
            print(f"{mirroring.name}: {(costs(mirroring) - began).told(copied.calls, max(1, counted))}")
    print()
    _print(ours, floor, ratios[floor.name], f"bound {BOUND}: {_met(ratios[floor.name])}")
    if other:
        _print(ours, other, ratios[other.name])
        _print(other, floor, between(ratios[other.name], ratios[floor.name]))
    if mirrored:
        to_ours = ratios[mirroring.name].inverse
        verdict = f"bound {COMPARED_BOUND}: {_met(to_ours, COMPARED_BOUND)}" if compared else ""
        _print(mirroring, ours, to_ours, verdict)
        _print(mirroring, floor, between(ratios[mirroring.name], ratios[floor.name]))
    return failed


def between(to_one: Ratio, to_other: Ratio) -> Ratio:
    """The one's cost to the other's, round by round, from ours to each in the same rounds."""
    return Ratio(tuple(other / one for one, other in zip(to_one.rounds, to_other.rounds, strict=True)))


def lost(did: Did) -> list[str]:
    """What is wrong with the copies; nothing when nearly all reached the candidate."""
    if did.copies["mirrored"] and did.copies["mirrored"] >= (1 - MOST_LOST) * did.copies.total():
        return []
    return [f"of {did.copies.total()} copies {did.copies['mirrored']} reached the candidate"]


def _begun(mirroring: Contender, request: ModelInferRequest, response: ModelInferResponse) -> Cost:
    """What its processes have used when the comparing one, which the first pair starts, has counted that pair."""
    while not taken(mirroring):
        check(mirroring, request, response)
    return costs(mirroring)


def _backend(folder: Path, servers: contextlib.ExitStack) -> int:
    """A backend's port. It shares the load's core, so that every contender has core 0 to itself."""
    port = free_port()
    arguments = ["-m", "benchmarks.canned_backend", str(folder / "response.bin"), str(port)]
    servers.enter_context(process(arguments, port, core=LOAD_CORE))
    return port


def iris_request() -> ModelInferRequest:
    """What is asked."""
    request = ModelInferRequest(model_name="iris", id="1")
    add_inputs(request, {"features": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)})
    return request


def iris_response() -> ModelInferResponse:
    """What the backend answers."""
    response = ModelInferResponse(model_name="iris", model_version="2", id="1")
    label, probabilities = np.array([0]), np.array([[0.9, 0.1, 0.0]], np.float32)
    add_outputs(response, [("label", "INT64", label), ("probabilities", "FP32", probabilities)], raw=True)
    return response


def _tell(contender: Contender, did: Did) -> None:
    print(f"{contender.name}: {did}")


def _print(one: Contender, other: Contender, ratio: Ratio, verdict: str = "") -> None:
    print(f"{one.name} / {other.name}: {ratio}  {verdict}".rstrip())


def _met(ratio: Ratio, bound: float = BOUND) -> str:
    return "met" if ratio.median <= bound else "NOT met"


if __name__ == "__main__":
    main()
