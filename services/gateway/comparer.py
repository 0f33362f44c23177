"""The gateway's end of the comparison of shadows: pairs go out, reports come back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, quoted
from infermesh.protocol import shadow_reports_pb2 as pb
from infermesh.service import Tool
from services.gateway.compare_frames import PAIR, REPORT, RESET, SETTINGS
from services.gateway.comparer_config import ComparerConfig
from services.gateway.pairs import Again, Pairs
from services.gateway.permission import may_use
from services.gateway.targets import ShadowConfig
from services.gateway.worker import Feed
from services.gateway.worker.feed import PAUSE_S

__all__ = ["TOOLS", "Comparer"]

SERVICE = pb.DESCRIPTOR.services_by_name["ShadowReports"].full_name
REPORT_RPC, RESET_RPC = f"{SERVICE}/Report", f"{SERVICE}/Reset"
TOOLS = (REPORT_RPC, RESET_RPC)

MODULE = "services.gateway.compare"
ASK_S = 10.0

Admit = Callable[[str, str, str, Call], Awaitable[None]]
Count = Callable[[str], None]


class PairCounters(Protocol):
    """What counts pairs; `GatewayMetrics` is one."""

    def pairs(self, model: str, shadow: str) -> Count:
        """By outcome: compared, repeated, dropped, skipped."""
        ...

    def pairs_lost(self, count: int) -> None:
        """The process ended with them."""
        ...


class Comparer:
    """Hands pairs to a process that compares them (`services.gateway.compare`), and asks it for reports.

    Nothing waits for it: while it is behind, hangs or is dead, pairs are dropped and counted, and it is started again. There is
    none until the first pair comes, or somebody asks and there is a file of results.
    """

    def __init__(
        self,
        config: ComparerConfig,
        count: PairCounters,
        *,
        environment: Mapping[str, str] | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._max_answer = config.max_answer
        self._count = count
        self._shadows: dict[tuple[str, str], ShadowConfig] = {}
        self._not_compared: Counter[str] = Counter()
        self._state = config.state
        self._questions: dict[bytes, asyncio.Task[bytes]] = {}  # that are under way
        settings = {"state": str(config.state) if config.state else "", "save_every_s": config.save_every}
        self.feed = Feed(
            "shadow comparison",
            MODULE,
            [json.dumps(settings)],
            max_bytes=config.max_queue,
            observe=self._observed,
            environment=environment,
            pause_s=pause_s,
            greeting=lambda: [(SETTINGS, self._settings())],
        )

    async def start(self) -> None:
        """From now on the process is started when there is something for it."""
        self.feed.start_when_used()

    async def close(self) -> None:
        """Let it compare what it has, keep the results and end. To be called when no copy is under way."""
        await self.feed.close()

    def pairs(self, model: str, shadow: ShadowConfig, again: Again) -> Pairs:
        """What takes the answers of a shadow."""
        counted = self._count.pairs(model, shadow.name)

        def observe(outcome: str) -> None:
            counted(outcome)
            if outcome in ("dropped", "skipped"):
                self._not_compared[outcome] += 1

        return Pairs(
            model,
            shadow.name,
            offer=lambda head, primary, other: self.feed.offer(PAIR, head, primary, other),
            again=again,
            repeat=shadow.compare.repeat,
            max_bytes=self._max_answer,
            observe=observe,
        )

    def adopt(self, shadows: Mapping[tuple[str, str], ShadowConfig]) -> None:
        """From now on these are compared, by model and shadow; what is known of those that stay as they were is kept."""
        if shadows != self._shadows:
            self._shadows = dict(shadows)
            if self.feed.is_used:  # each process is greeted with them
                self.feed.offer(SETTINGS, self._settings())

    def tools(self, admit: Admit) -> dict[str, Tool]:
        """The RPCs of `ShadowReports`; `admit` is the service's."""

        async def report(data: bytes, call: Call) -> bytes:
            request = _parsed(pb.ReportRequest, data)
            await admit("ShadowReport", request.model, "", call)
            reports = []
            for question in self._allowed(request, call):
                response = pb.ReportResponse.FromString(await self._asked(question))
                reports += [each for each in response.reports if may_use(call.caller, each.model)]
            if not reports and (request.model or request.shadow):
                raise NotFound(self._nothing(request.model, request.shadow), reason="NO_COMPARISON")
            return pb.ReportResponse(reports=reports, not_compared=self._not_compared).SerializeToString()

        async def reset(data: bytes, call: Call) -> bytes:
            request = _parsed(pb.ResetRequest, data)
            await admit("ShadowReset", request.model, "", call)
            if not request.model:
                raise InvalidRequest("model: expected the model whose comparisons are to begin anew", reason="NO_MODEL")
            if not self._has_results():
                return pb.ResetResponse().SerializeToString()
            return await self.feed.ask(RESET + data, ASK_S)

        return {REPORT_RPC: report, RESET_RPC: reset}

    def gauges(self) -> Iterator[tuple[str, float]]:
        """What the process told last; read in another thread."""
        return iter(list(self.feed.counters.items()))

    def _has_results(self) -> bool:
        """Whether anything can have been compared: else no process is started to say that nothing was."""
        return self.feed.is_used or (self._state is not None and self._state.exists())

    def _allowed(self, request: pb.ReportRequest, call: Call) -> list[pb.ReportRequest]:
        """What is to be asked, so that nothing is reckoned that the caller may not see: a report may take seconds."""
        if not self._has_results():
            return []
        if request.model:
            return [request] if may_use(call.caller, request.model) else []
        if call.caller.models is None:
            return [request]
        models = sorted({model for model, _ in self._shadows if may_use(call.caller, model)})
        return [pb.ReportRequest(model=model, shadow=request.shadow) for model in models]

    async def _asked(self, question: pb.ReportRequest) -> bytes:
        """The process's answer; of equal questions under way there is one, which goes on when who asked it first has gone."""
        data = question.SerializeToString(deterministic=True)
        asking = self._questions.get(data)
        if asking is None:
            asking = self._questions[data] = asyncio.create_task(self.feed.ask(REPORT + data, ASK_S))
            asking.add_done_callback(lambda task: self._answered(data, task))
        return await asyncio.shield(asking)

    def _answered(self, data: bytes, task: asyncio.Task[bytes]) -> None:
        del self._questions[data]
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    def _settings(self) -> bytes:
        shadows = [
            {
                "model": model,
                "shadow": shadow,
                "target": "/".join((each.backend, each.model, each.version)),
                "compare": each.compare.model_dump(mode="json"),
            }
            for (model, shadow), each in self._shadows.items()
        ]
        return json.dumps(shadows).encode()

    def _observed(self, outcome: str, count: int) -> None:
        if outcome == "lost":
            self._not_compared["lost"] += count
            self._count.pairs_lost(count)

    def _nothing(self, model: str, shadow: str) -> str:
        known = sorted(name for of, name in self._shadows if of == model)
        asked = f"model {quoted(model)}" + (f", shadow {quoted(shadow)}" if shadow else "")
        if known:
            return f"{asked}: nothing was compared yet; its route has the shadows {', '.join(known)}"
        return f"{asked}: nothing is compared: no route has a shadow for it"

    def __repr__(self) -> str:
        return f"Comparer({len(self._shadows)} shadows)"


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"{len(data)} bytes that are no {kind.DESCRIPTOR.full_name}", reason="MALFORMED") from None
