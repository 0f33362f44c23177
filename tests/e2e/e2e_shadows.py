"""A gateway that compares, and what is asked of it: calls by the hundred, reports, and its comparing process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from e2e_door import CALLER
from e2e_engines import serving_pids
from e2e_gateway import Answer, Backend, Gateway, serving
from e2e_load import Load

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.protocol import shadow_reports_pb2 as reports_pb
from infermesh.protocol.shadow_reports_pb2_grpc import ShadowReportsStub
from infermesh.tensors import add_inputs, add_outputs

__all__ = [
    "VARIANT", "Caller", "comparer_pid", "comparing", "fraud", "has_ended", "loading", "mirrored", "mirroring", "refusing",
    "route", "saying", "until",
]  # fmt: skip

VARIANT = "infermesh_variant"
AT_ONCE = 16
MODULE = "services.gateway.compare"
# No repeats, and the fewest pairs that are judged: then what is said of a test's pairs is certain, and not drawn.
FEW: Mapping[str, Any] = {"min_pairs": 50, "repeat": 0}


def fraud(probability: float) -> list[tuple[str, str, Any]]:
    """What a fraud detector says of one row."""
    both = np.array([[1 - probability, probability]], np.float32)
    return [("label", "INT64", both.argmax(1)), ("probabilities", "FP32", both)]


def saying(outputs: Sequence[tuple[str, str, Any]]) -> Answer:
    """A backend's answer: always the same."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        add_outputs(response, outputs, raw=True)
        return response

    return answer


def refusing(error: Exception) -> Answer:
    """A backend's answer: none."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise error

    return answer


def mirrored(**more: Any) -> dict[str, Any]:
    """A shadow of all calls, behind the backend `shadow`, with a budget that no test uses up; none is shed, unless a test says
    how many may be under way."""
    bounds = {"budget": "60s"} if "max_in_flight" in more else {"budget": "60s", "max_waiting": 65_536}
    compare = {**FEW, **more.pop("compare", {})}
    return {"name": "candidate", "backend": "shadow", "fraction": 1, "compare": compare, **bounds} | more


def route(model: str = "m", *shadows: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A route to the backend `primary`; left out: with one shadow of all calls."""
    return {"model": model, "backend": "primary", "shadows": [dict(each) for each in shadows] or [mirrored()]} | more


def comparing(
    folder: Path, backends: Mapping[str, Any], routes: Sequence[Mapping[str, Any]], **settings: Any
) -> Gateway:
    """A gateway that compares, and copies calls however busy the machine is."""
    more = {"compare": {"enabled": True}, "mirroring": {"suppress_lag": "1h"}, "concurrency": {"mode": "observe"}}
    for part, value in settings.items():
        more[part] = {**more.get(part, {}), **value}
    return Gateway(folder, backends, routes, **more)


def comparer_pid(gateway: Gateway) -> int | None:
    """The gateway's comparing process; None while there is none."""
    files = (file for pid in serving_pids(gateway.pid) for file in Path(f"/proc/{pid}/task").glob("*/children"))
    for file in files:
        for child in file.read_text().split():
            try:
                if MODULE in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
            except OSError:  # it has ended in between
                continue
    return None


def has_ended(pid: int) -> bool:
    """Whether a process of ours is gone, or has only its status left to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Caller:
    """A caller with the demo key; `ended` counts its calls by status. Each of its requests holds `payload_bytes` of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.payload_bytes = 0
        self.ended: Counter[str] = Counter()
        self.variants: Counter[str] = Counter()
        self._gateway = gateway
        self._channel = grpc.aio.insecure_channel(gateway.address)
        self._infer = pb_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._reports = ShadowReportsStub(self._channel)

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call(self, count: int = 1, model: str = "m", *, ids: Iterable[str] = ()) -> None:
        """Make so many calls, some at a time; with `ids` as their request ids."""
        given = iter(ids)
        left = count

        async def one_after_another() -> None:
            nonlocal left
            while left:
                left -= 1
                await self.ask(model, next(given, ""))

        await asyncio.gather(*(one_after_another() for _ in range(min(count, AT_ONCE))))

    async def ask(self, model: str = "m", request_id: str = "") -> pb.ModelInferResponse | None:
        """One call; None when it failed."""
        more = (("x-request-id", request_id),) if request_id else ()
        request = pb.ModelInferRequest(model_name=model, id="7")
        if self.payload_bytes:
            add_inputs(request, {"x": np.full(self.payload_bytes, self.ended.total() % 251, np.uint8)}, raw=True)
        try:
            response: pb.ModelInferResponse = await self._infer(request, metadata=(*CALLER, *more), timeout=60)
        except grpc.aio.AioRpcError as error:
            self.ended[error.code().name] += 1
            return None
        self.ended["OK"] += 1
        self.variants[response.parameters[VARIANT].string_param] += 1
        return response

    async def response(self, model: str = "m", shadow: str = "") -> reports_pb.ReportResponse:
        """What the gateway says of a model's shadows; nothing where nothing was compared."""
        request = reports_pb.ReportRequest(model=model, shadow=shadow)
        try:
            response: reports_pb.ReportResponse = await self._reports.Report(request, metadata=CALLER, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                return reports_pb.ReportResponse()
            raise
        return response

    async def report(
        self, compared: int, model: str = "m", shadow: str = "", *, failed: int = 0, repeats: int = 0
    ) -> reports_pb.Report:
        """The one report, as soon as it has so many pairs, repeats, and pairs of which an end failed."""

        def is_whole(found: Sequence[reports_pb.Report]) -> bool:
            for each in found:
                ended = sum(codes.count for codes in each.codes)
                if each.pairs >= compared and each.repeats >= repeats and ended - each.pairs >= failed:
                    return True
            return False

        (report,) = await self._found(is_whole, model, shadow)
        return report

    async def reports(self, compared: int, model: str = "m") -> Sequence[reports_pb.Report]:
        """All reports of a model, as soon as they have so many pairs together."""
        return await self._found(lambda found: sum(each.pairs for each in found) >= compared, model)

    async def _found(
        self, is_whole: Callable[[Sequence[reports_pb.Report]], bool], model: str, shadow: str = ""
    ) -> Sequence[reports_pb.Report]:
        """Reports that are whole; when they never are, what became of each copy and pair is told."""
        found: Sequence[reports_pb.Report] = ()
        try:
            async with asyncio.timeout(60):
                while True:
                    found = (await self.response(model, shadow)).reports
                    if is_whole(found):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            told = {(each.shadow, each.variant): (each.pairs, each.repeats, list(each.codes)) for each in found}
            counted = await asyncio.to_thread(self._gateway.samples)
            became = {
                name: counted.by_name.get(f"infermesh_gateway_{name}")
                for name in ("shadow_total", "pairs_total", "pairs_lost_total", "compare_restarts")
            }
            raise AssertionError(
                f"reports that are not whole: {told} of {became}; {self._gateway.last_words}"
            ) from None


@asynccontextmanager
async def mirroring(
    folder: Path,
    routes: Sequence[Mapping[str, Any]],
    shadow: Backend | str,
    primary: Backend | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Gateway, Caller]]:
    """A gateway that compares, before a shadow, which may be an address, and a primary that says `fraud(0.2)`; and a caller."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        at = {"primary": await enter(serving(primary or Backend(saying(fraud(0.2)))))}
        at["shadow"] = shadow if isinstance(shadow, str) else await enter(serving(shadow))
        gateway = await enter(comparing(folder, at, routes, **settings))
        yield gateway, await enter(Caller(gateway))


@asynccontextmanager
async def loading(gateway: Gateway, model: str = "m") -> AsyncIterator[Load]:
    """Four callers in a closed loop. Their end is awaited in a thread: the backends are in this loop, and have to answer."""
    load = Load([gateway.address], pb.ModelInferRequest(model_name=model, id="7"), callers=4)
    load.__enter__()
    try:
        yield load
    finally:
        await asyncio.to_thread(load.__exit__, None, None, None)


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is true; the condition may block a moment."""
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)
