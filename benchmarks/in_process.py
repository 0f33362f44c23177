"""CPU per call of a service by itself: what is Python of ours, behind the ASGI adaptor, without Envoy and without a network.

    python -m benchmarks.in_process [gateway transformer predictor] [--rounds 15] [--profile 25]

The service is built in this process as a worker of the engine `envoy` builds it, with the settings that the other benchmarks give
it, and gets its calls from here, 64 at a time. Where a service would ask the one behind it, that one's answer is there at once:
what a channel costs is left out. The transformer reads its features from a Valkey, which is another process. The figure is the
least of the rounds: whatever else the machine does can only add to it. --profile prints the functions with most time of their
own, under a profiler that makes every call dearer, so it is for finding them and not for figures.

The comparison of two versions of the code is made by running this in both, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import itertools
import logging
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import gateway_cost, transformer_cost
from benchmarks.contenders import our_launch
from benchmarks.feature_rows import fill, request_for
from benchmarks.gateways import KEY, gateway_launch
from benchmarks.payloads import PAYLOADS
from benchmarks.processes import LOAD_CORE, ROOT, SERVER_CORE, Launch
from benchmarks.transformers import backend as transformer_backend
from benchmarks.transformers import transformer_launch
from infermesh.cli.valkey import Valkey
from infermesh.config import load
from infermesh.garbage import settle_garbage
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.runtime import Telemetry
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from infermesh.transport.asgi import Application
from infermesh.transport.asgi.wire import frame
from infermesh.transport.channel import INFER, SERVICE, Channel
from services.gateway.app import build as build_gateway
from services.gateway.config import GatewayConfig
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig
from services.transformer.app import build as build_transformer
from services.transformer.config import TransformerConfig

__all__ = ["SERVICES", "measure"]

AT_ONCE = 64
TURNS = 30  # of so many calls, a round
WARM_TURNS = 40
PROFILED_TURNS = 50
ANSWERS_WITHIN_S = 20.0
OK = (b"grpc-status", b"0")
HEADERS = [
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python/1.70.0 grpc-c/45.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"grpc-timeout", b"10S"),
    (b"x-forwarded-proto", b"http"),
]

Turn = Callable[[int], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Case:
    """A service, what it is asked in turns, and what the one behind it answers (None: there is none)."""

    config: type[Any]
    build: Callable[[Any, Telemetry], AbstractAsyncContextManager[Stack]]
    launch: Launch
    requests: Sequence[ModelInferRequest]
    behind: bytes | None = None
    key: str = ""
    inside_mesh: bool = True


def _gateway(folder: Path, servers: ExitStack) -> Case:
    response = gateway_cost.iris_response().SerializeToString()
    (folder / "response.bin").write_bytes(response)
    launch = gateway_launch(folder / "gateway", gateway_cost.lean_backend(folder, servers))
    requests = [gateway_cost.iris_request()]
    return Case(GatewayConfig, build_gateway, launch, requests, response, KEY, inside_mesh=False)


def _transformer(folder: Path, servers: ExitStack) -> Case:
    valkey = servers.enter_context(Valkey())
    os.sched_setaffinity(valkey.pid, {int(LOAD_CORE)})
    fill(valkey.url, transformer_cost.CARDS)
    response = transformer_cost.answer()
    port = servers.enter_context(transformer_backend(folder / "response.bin", response))
    launch = transformer_launch(folder / "transformer", valkey.url, port)
    requests = [request_for(first, 1) for first in range(transformer_cost.REQUESTS)]
    return Case(TransformerConfig, build_transformer, launch, requests, response.SerializeToString())


def _predictor(folder: Path, servers: ExitStack) -> Case:
    payload = PAYLOADS["iris"]
    payload.write(folder / "models")
    return Case(PredictorConfig, build_predictor, our_launch(payload, folder / "models"), [payload.request])


SERVICES = {"gateway": _gateway, "transformer": _transformer, "predictor": _predictor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="*", default=list(SERVICES), metavar="SERVICE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", type=int, default=0, metavar="FUNCTIONS")
    options = parser.parse_args()
    if unknown := set(options.services) - set(SERVICES):
        parser.error(f"expected some of {', '.join(SERVICES)}, got {', '.join(sorted(unknown))}")
    if len(options.services) > 1:  # each in a process of its own, with nothing of the others
        words = [f"--rounds={options.rounds}", f"--profile={options.profile}"]
        for name in options.services:
            subprocess.run([sys.executable, "-m", "benchmarks.in_process", name, *words], cwd=ROOT, check=True)
        return
    (name,) = options.services
    rounds = measure(name, options.rounds, options.profile)
    print(f"{name}: {min(rounds):.1f} µs a call (median of {len(rounds)} rounds {statistics.median(rounds):.1f})")


def measure(name: str, rounds: int, profiled: int) -> list[float]:
    """µs of CPU a call, of each round. This process is pinned to a core for it, and has the service's settings from then on."""
    logging.disable(logging.INFO)
    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as servers,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        case = SERVICES[name](Path(folder), servers)
        os.environ.update(case.launch.environment)
        os.sched_setaffinity(0, {int(SERVER_CORE)})
        return runner.run(_measured(name, case, rounds, profiled))


async def _measured(name: str, case: Case, rounds: int, profiled: int) -> list[float]:
    async with _calls_of(name, case) as turn:
        await turn(WARM_TURNS)
        if profiled:
            profile = cProfile.Profile()
            with profile:
                await turn(PROFILED_TURNS)
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(profiled)
        took = []
        for _ in range(rounds):
            began = time.process_time()
            await turn(TURNS)
            took.append((time.process_time() - began) / (TURNS * AT_ONCE) * 1e6)
        return took


@contextlib.asynccontextmanager
async def _calls_of(name: str, case: Case) -> AsyncIterator[Turn]:
    """The service, as a coroutine function that makes so many turns of calls; it raises RuntimeError for one that is not OK."""
    arguments = case.launch.arguments
    file = Path(arguments[arguments.index("--config") + 1]) if "--config" in arguments else None
    config = load(case.config, file)
    metrics, tracing = Metrics(name), Tracing(name, config.telemetry)
    application = Application(max_receive=config.server.max_message, max_send=config.server.max_message)
    server = Server(name, config.server, inside_mesh=case.inside_mesh, refused=metrics.refused, carrier=application)
    await server.start()
    async with case.build(config, Telemetry(metrics, tracing)) as service:
        server.mount(service)
        await server.set_ready(True)
        settle_garbage()
        headers = [*HEADERS, (b"x-api-key", case.key.encode())] if case.key else HEADERS
        bodies = itertools.cycle([frame(request.SerializeToString()) for request in case.requests])
        ended: list[bool] = []

        async def call() -> None:
            body = next(bodies)
            scope = {"type": "http", "path": SERVICE + INFER, "headers": headers.copy(), "client": ("127.0.0.1", 50051)}

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(event: Any) -> None:
                if event["type"] == "http.response.trailers":
                    ended.append(OK in event["headers"])

            await application(scope, receive, send)

        async def turn(times: int) -> None:
            loop = asyncio.get_running_loop()
            for _ in range(times):
                ended.clear()
                for task in [loop.create_task(call()) for _ in range(AT_ONCE)]:
                    await task
                if ended != [True] * AT_ONCE:
                    raise RuntimeError(f"{name}: of {AT_ONCE} calls {sum(ended)} were answered")

        async with asyncio.timeout(ANSWERS_WITHIN_S):
            while not ended or not ended[-1]:  # the channels of what is behind it connect meanwhile
                ended.clear()
                await call()
                await asyncio.sleep(0.05)
        with _answered(case.behind):
            yield turn
    await server.stop(0)
    tracing.close()


@contextlib.contextmanager
def _answered(behind: bytes | None) -> Iterator[None]:
    """Inferences over channels have this answer at once."""
    if behind is None:
        yield
        return
    asked = Channel.unary

    async def answered() -> bytes:
        return behind

    def unary(self: Channel, rpc: str, data: bytes, **options: Any) -> Any:
        return answered() if rpc == INFER else asked(self, rpc, data, **options)

    Channel.unary = unary  # type: ignore[method-assign]
    try:
        yield
    finally:
        Channel.unary = asked  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
