"""CPU per call of the gateway (key check, rate limit, split), run in each way, beside a bare grpc.aio proxy and beside Envoy.

All stand before the same backend, which answers iris' raw 1×4 with bytes that were made once; what it costs is not counted.
Envoy has the same weights, key check and local limit (`envoy.yaml`), and one worker thread.

    python -m benchmarks.gateway_cost [--way grpcio,envoy,envoy-http2] [--mirror PERCENT [--compare]] [--pairs 7] [--seconds 5]
                                      [--in-flight 64]

With --mirror: also the gateway on grpcio with a shadow that gets copies of that many of a hundred calls; with --compare, answers
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.bounds import Bound, verdicts
from benchmarks.comparing import Cost, costs, not_compared, taken
from benchmarks.contenders import WAYS, WrongAnswer
from benchmarks.gateways import Did, bare, check, envoy, envoy_did, gateway, gateway_did
from benchmarks.pairs import LEAN_LOAD, LOAD_CORE, Contender, free_port, process, run_rounds
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_inputs, add_outputs

MOST_OF_BARE = {"grpcio": 1.5, "envoy": 0.55, "envoy-http2": 0.55}  # of the gateway to the bare proxy, mirroring off
COMPARED_BOUND = 1.25  # of the gateway with mirroring and comparison to the one without
MOST_LOST = 0.01  # of the copies: with more that failed or were shed, it is not mirroring that was measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", default=",".join(WAYS))
    parser.add_argument("--mirror", type=float, default=0.0, metavar="PERCENT")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    if not 0 <= options.mirror <= 100:
        parser.error(f"--mirror: expected a percentage, got {options.mirror:g}")
    ways = options.way.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--way: expected some of {', '.join(WAYS)}, got {', '.join(sorted(unknown))}")
    if options.mirror and "grpcio" not in ways:
        parser.error("--mirror: expected the way grpcio, on which it is measured")
    if options.compare and not options.mirror:
        parser.error("--compare: expected --mirror beside it")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    failed = measure(
        ways, options.mirror / 100, options.pairs, options.seconds, options.in_flight, compared=options.compare
    )
    for line in failed:
        print(f"FAILED: {line}")
    sys.exit(bool(failed))


def measure(
    ways: Sequence[str], mirrored: float, pairs: int, seconds: float, in_flight: int, *, compared: bool = False
) -> list[str]:
    """Start all, check and compare them, and print the ratios; returns what could not be measured, with the reason."""
    request, response = iris_request(), iris_response()
    failed = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        (folder / "request.bin").write_bytes(request.SerializeToString())
        (folder / "response.bin").write_bytes(response.SerializeToString())
        backend = lean_backend(folder, servers)
        ours = {way: servers.enter_context(gateway(folder / f"gateway-{way}", backend, way=way)) for way in ways}
        floor = servers.enter_context(bare(backend))
        contenders = [*(each for each, _ in ours.values()), floor]
        for each in contenders:
            check(each, request, response)
        try:
            other, admin = servers.enter_context(envoy(folder / "envoy", backend))
            check(other, request, response)
            contenders.append(other)
        except (FileNotFoundError, RuntimeError, WrongAnswer) as error:
            other = None
            failed.append(f"Envoy is NOT measured: {error}")
            print(failed[-1], flush=True)
        if mirrored:
            candidate = lean_backend(folder, servers)
            mirroring, its_metrics = servers.enter_context(
                gateway(folder / "mirroring", backend, mirrored=mirrored, candidate_port=candidate, compared=compared)
            )
            check(mirroring, request, response)
            contenders.append(mirroring)
        began = _begun(mirroring, request, response) if compared else None
        measured = run_rounds(
            contenders, folder / "request.bin", rounds=pairs, seconds=seconds, in_flight=in_flight, load=LEAN_LOAD
        )
        print()
        for each, metrics in ours.values():
            _tell(each, gateway_did(metrics))
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
    bounds = [Bound(each.name, floor.name, MOST_OF_BARE[way]) for way, (each, _) in ours.items()]
    if other:
        bounds += [Bound(each.name, other.name) for each, _ in ours.values()]
        bounds.append(Bound(other.name, floor.name))
    if mirrored:
        bounds.append(Bound(mirroring.name, ours["grpcio"][0].name, COMPARED_BOUND if compared else None))
        bounds.append(Bound(mirroring.name, floor.name))
    print("\n".join(["", *verdicts(bounds, measured)]))
    return failed


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


def lean_backend(folder: Path, servers: contextlib.ExitStack) -> int:
    """A backend's port. It shares the load's core, so that every contender has core 0 to itself."""
    port = free_port()
    arguments = ["-m", "benchmarks.lean_backend", str(folder / "response.bin"), str(port)]
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


if __name__ == "__main__":
    main()
