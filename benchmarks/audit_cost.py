"""What the audit and the payload log cost on the call path: CPU of the calling thread in µs per call.

`python -m benchmarks.audit_cost [--calls 20000]`

A call through the filters that the gateway has round a service that answers at once, less the same call without them. The thread
that writes shares the interpreter with the calls: its own CPU is the second column, per line, to a file. The payload log is timed
at a share of 1, with what hands a call of 1 KiB to the process that writes; a call that is not in the sample is the row before.
Each figure is the median of eleven rounds, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from infermesh.call import Call, Caller
from infermesh.line_writer import LineWriter
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, Stack, stack
from services.gateway.audit.audited import Admitted, Attempted, Audited
from services.gateway.audit.entry import Entry
from services.gateway.audit.line import line_of
from services.gateway.audit.sink import FileSink
from services.gateway.payload.logged import PayloadLogged

ROUNDS = 11
CALLER = Caller("demo", tenant="acme")


class _Answering(InferenceService):
    """Answers with a message of its own for each call, as a backend does."""

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name="fraud", model_version="3")
        response.parameters["infermesh_variant"].string_param = "stable"
        return response


class _Timed(LineWriter[Entry]):
    """Keeps what CPU its thread has used, which can be read there alone."""

    cpu_s = 0.0

    def _run(self) -> None:
        super()._run()
        self.cpu_s = time.thread_time()


def _request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="fraud", raw_input_contents=[bytes(1024)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 256])
    return request


async def _round(service: Stack, calls: int) -> float:
    request = _request()
    made = [Call(request_id=f"request-{number}", caller=CALLER, peer="ipv4:10.0.0.7:1") for number in range(calls)]
    began = time.thread_time()
    for call in made:
        await service.infer(request, call)
    await asyncio.sleep(0)  # for what is done when the answer is on its way
    return (time.thread_time() - began) * 1e6 / calls


def _label(model: str) -> str:
    return model


def _ignore(entry: Entry) -> None:
    """Nobody writes."""


def _taken(kind: int, *parts: bytes) -> bool:
    return True


async def _measure(calls: int, folder: Path) -> None:
    writer = _Timed(
        "audit", FileSink(folder / "audit.jsonl", 1 << 40, 1), max_waiting=10 * calls, give_up_s=5, line=line_of
    )
    writer.start()

    def audited(write: Callable[[Entry], None], **options: float | bool) -> Stack:
        filter_ = Audited(write=write, label=_label, **options)  # type: ignore[arg-type]
        return stack(filter_, Admitted(), Attempted("one"), service=_Answering())

    rows = {
        "off": stack(service=_Answering()),
        "audit on, entries thrown away": audited(_ignore),
        "audit on, written to a file": audited(writer.write),
        "audit of 1 %, failures always": audited(writer.write, sample=0.01),
        "audit of 1 %, failures sampled": audited(writer.write, sample=0.01, failures=False),
        "payload log, share 0": stack(PayloadLogged(offer=_taken, label=_label, share=0.0), service=_Answering()),
        "payload log, share 0.01": stack(PayloadLogged(offer=_taken, label=_label, share=0.01), service=_Answering()),
        "payload log, share 1": stack(PayloadLogged(offer=_taken, label=_label, share=1.0), service=_Answering()),
    }
    took: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, service in rows.items():
            took[name].append(await _round(service, calls))
            _drain(writer)
    writer.close(60)
    off = statistics.median(took["off"])
    print(f"{'':34} {'µs per call':>12}")
    for name, each in took.items():
        print(f"{name:34} {statistics.median(each) - (0 if name == 'off' else off):12.2f}")
    print(
        f"{'the thread that writes, per line':34} {writer.cpu_s * 1e6 / writer.written:12.2f}   {writer.dropped} dropped"
    )


def _drain(writer: LineWriter[Entry]) -> None:
    """Wait, so that no round pays for the one before."""
    while writer.waiting:
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="of a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(_measure(given.calls, Path(folder)))


if __name__ == "__main__":
    main()
