"""The comparison of shadows through a real gateway and its comparing process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from infermesh.call import ANONYMOUS, Call, Caller
from infermesh.errors import DeadlineExceeded, InvalidRequest, NotFound, PermissionDenied, Unavailable
from infermesh.protocol import shadow_reports_pb2 as pb
from infermesh.telemetry import Metrics
from services.gateway.compare_frames import REPORT
from services.gateway.compare_metrics import CompareMetrics
from services.gateway.comparer import REPORT_RPC, RESET_RPC, Comparer
from services.gateway.comparer_config import ComparerConfig
from services.gateway.targets import ShadowConfig
from tests.unit.gateway.compare.pairs import fraud

ROOT = Path(__file__).parents[3]
SHADOW = ShadowConfig(name="candidate", fraction=1.0)


class Running:
    """A comparer with its process, and what it counted."""

    def __init__(self, comparer: Comparer, metrics: Metrics) -> None:
        self.comparer = comparer
        self.metrics = metrics
        self.admitted: list[tuple[str, str]] = []
        self.pairs = comparer.pairs("fraud", SHADOW, lambda *_: None)
        comparer.adopt({("fraud", "candidate"): SHADOW})
        self.tools = comparer.tools(self.admit)

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.admitted.append((rpc, model))
        if rpc == "ShadowReset" and "admin" not in call.caller.scopes:
            raise PermissionDenied("ShadowReset needs the scope admin")

    def compare(self, count: int, *, kind: str = "shadow") -> None:
        """Hand over pairs that disagree."""
        for number in range(count):
            head = {
                "kind": kind, "model": "fraud", "shadow": "candidate", "variant": "stable", "request_id": f"r{number}",
                "at_s": 1.0, "primary": ["OK", 0.001], "other": ["OK", 0.001],
            }  # fmt: skip
            self.pairs._offer(json.dumps(head).encode(), fraud(0.2), fraud(0.8))

    async def report(self, caller: Caller = ANONYMOUS, **asked: str) -> pb.ReportResponse:
        answer = await self.tools[REPORT_RPC](pb.ReportRequest(**asked).SerializeToString(), Call(caller=caller))
        return pb.ReportResponse.FromString(answer)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"service": "gateway", **labels})


@asynccontextmanager
async def comparing(**config: Any):
    metrics = Metrics("gateway")
    counted = CompareMetrics(metrics)
    comparer = Comparer(
        ComparerConfig(enabled=True, **config), counted, environment={"PYTHONPATH": str(ROOT)}, pause_s=0.01
    )
    feed = comparer.feed
    counted.process(comparer.gauges, lambda: feed.restarts, lambda: feed.waiting_bytes)
    await comparer.start()
    try:
        yield Running(comparer, metrics)
    finally:
        await comparer.close()


async def test_pairs_go_out_and_a_report_comes_back():
    """All that was handed over before is in it, and the process's words are metrics."""
    async with comparing() as running:
        running.compare(60)

        (report,) = (await running.report(model="fraud")).reports
        assert (report.shadow, report.variant, report.pairs) == ("candidate", "stable", 60)
        assert running.admitted == [("ShadowReport", "fraud")]

        labels = {"model": "fraud", "shadow": "candidate", "variant": "stable"}
        async with asyncio.timeout(20):
            while running.value("infermesh_shadow_pairs", **labels) != 60:
                await asyncio.sleep(0.01)
        assert running.value("infermesh_gateway_compare_restarts") == 0


async def test_who_may_read_what():
    """A caller sees the models that it may use; a reset needs the right to administer."""
    async with comparing() as running:
        running.compare(1)
        guest = Caller("guest", models=("iris",))

        assert list((await running.report(guest)).reports) == []
        assert len((await running.report(Caller("team", models=("fra*",)))).reports) == 1
        with pytest.raises(PermissionDenied):
            await running.tools[RESET_RPC](b"", Call(caller=guest))
        admin = Call(caller=Caller("ops", scopes=frozenset({"admin"})))
        with pytest.raises(InvalidRequest, match="model: expected the model whose comparisons"):
            await running.tools[RESET_RPC](b"", admin)
        gone = await running.tools[RESET_RPC](pb.ResetRequest(model="fraud").SerializeToString(), admin)
        assert pb.ResetResponse.FromString(gone).forgotten == 1


async def test_what_there_is_not():
    """A model without a shadow, one whose shadow has no pairs, and bytes that are no request."""
    async with comparing() as running:
        with pytest.raises(NotFound, match='model "iris": nothing is compared: no route has a shadow for it'):
            await running.report(model="iris")
        with pytest.raises(NotFound, match='"fraud": nothing was compared yet; its route has the shadows candidate'):
            await running.report(model="fraud")
        with pytest.raises(InvalidRequest, match=r"no infermesh.shadow.v1.ReportRequest"):
            await running.tools[REPORT_RPC](b"\xff", Call())
        assert list((await running.report()).reports) == []


async def test_a_process_that_is_killed_costs_what_it_had(tmp_path):
    """It is started again, knows the settings and what was kept; the loss is counted; who asks meanwhile hears UNAVAILABLE."""
    async with comparing(state=tmp_path / "state", save_every="1s") as running:
        running.compare(60)
        async with asyncio.timeout(20):
            while not (tmp_path / "state").exists():
                await asyncio.sleep(0.01)
        feed = running.comparer.feed
        os.kill(feed.pid, signal.SIGSTOP)
        running.compare(5)
        asked = asyncio.ensure_future(running.report(model="fraud"))
        await asyncio.sleep(0)
        os.kill(feed.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="shadow comparison is not running"):
            await asked

        async with asyncio.timeout(20):
            while feed.restarts < 1:
                await asyncio.sleep(0.01)
        response = await running.report(model="fraud")

        assert [each.pairs for each in response.reports] == [60]
        assert response.not_compared["lost"] == running.value("infermesh_gateway_pairs_lost_total")
        assert response.not_compared["lost"] >= 5


async def test_a_process_that_is_behind(monkeypatch):
    """Pairs past the bound are dropped and counted, nothing waits, and a report says that it takes too long."""
    async with comparing(max_queue="64KiB") as running:
        running.compare(1)
        await running.report()
        monkeypatch.setattr("services.gateway.comparer.ASK_S", 0.05)
        os.kill(running.comparer.feed.pid, signal.SIGSTOP)
        try:
            taken = 0
            while running.pairs._offer(b"{}", b"x" * 10_000, b"x" * 10_000):
                taken += 1
            assert 3 <= taken < 100
            with pytest.raises(DeadlineExceeded, match="shadow comparison: no answer within"):
                await running.report()
            assert running.value("infermesh_gateway_compare_waiting_bytes") < 200_000
        finally:
            os.kill(running.comparer.feed.pid, signal.SIGCONT)


async def test_results_outlive_the_gateway(tmp_path):
    """A second gateway with the same file goes on where the first one ended."""
    for times in (1, 2):
        async with comparing(state=tmp_path / "state") as running:
            running.compare(30)
            assert [each.pairs for each in (await running.report()).reports] == [30 * times]


async def test_there_is_no_process_while_nothing_is_compared(tmp_path):
    """Not for a report or a reset either, which say that there is nothing; the first pair starts it, with the settings."""
    admin = Call(caller=Caller("ops", scopes=frozenset({"admin"})))
    async with comparing(state=tmp_path / "state") as running:
        assert list((await running.report()).reports) == []
        with pytest.raises(NotFound, match="nothing was compared yet"):
            await running.report(model="fraud")
        gone = await running.tools[RESET_RPC](pb.ResetRequest(model="fraud").SerializeToString(), admin)
        assert pb.ResetResponse.FromString(gone).forgotten == 0
        running.comparer.adopt({("fraud", "candidate"): SHADOW, ("iris", "candidate"): SHADOW})
        assert (running.comparer.feed.is_used, running.comparer.feed.pid) == (False, None)

        running.compare(1)
        running.comparer.adopt({("fraud", "candidate"): SHADOW})

        assert [each.pairs for each in (await running.report()).reports] == [1]
        assert running.value("infermesh_gateway_compare_restarts") == 0


async def test_what_was_kept_is_told_without_a_pair(tmp_path):
    """A report on a file from before starts the process."""
    async with comparing(state=tmp_path / "state") as running:
        running.compare(30)

    async with comparing(state=tmp_path / "state") as running:
        assert running.comparer.feed.pid is None
        assert [each.pairs for each in (await running.report(model="fraud")).reports] == [30]


def test_a_configuration_that_can_t_be(tmp_path, monkeypatch):
    """A folder that is not there, and numpy that is not installed, are said at the start."""
    with pytest.raises(ValueError, match="state: expected a folder"):
        ComparerConfig(enabled=True, state=tmp_path / "nothing" / "state")
    monkeypatch.setattr("services.gateway.comparer_config.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="enabled: expected numpy to be installed; the extra `compare` has it"):
        ComparerConfig(enabled=True)
    assert not ComparerConfig().enabled


class Asked:
    """Takes the place of the process: it keeps what it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.requests: list[pb.ReportRequest] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, data: bytes, timeout_s: float) -> bytes:
        request = pb.ReportRequest.FromString(data.removeprefix(REPORT))
        self.requests.append(request)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return pb.ReportResponse(reports=[pb.Report(model=request.model, shadow="candidate")]).SerializeToString()


async def _admit(rpc: str, model: str, version: str, call: Call) -> None:
    pass


def asked_of(folder: Path, *models: str) -> tuple[Any, Asked]:
    """The report tool of a comparer of these models, and what stands for its process; there are results from before."""
    (folder / "state").touch()
    comparer = Comparer(ComparerConfig(enabled=True, state=folder / "state"), CompareMetrics(Metrics("gateway")))
    comparer.adopt({(model, "candidate"): SHADOW for model in models})
    comparer.feed.ask = asked = Asked()  # type: ignore[method-assign, assignment]
    return comparer.tools(_admit)[REPORT_RPC], asked


async def test_only_what_the_caller_may_see_is_reckoned(tmp_path):
    """A caller with few rights costs what it may see; one without any costs nothing."""
    report, asked = asked_of(tmp_path, "fraud", "iris", "churn")
    asked.go.set()

    response = pb.ReportResponse.FromString(await report(b"", Call(caller=Caller("team", models=("iris", "ch*")))))
    await report(b"", Call(caller=Caller("guest", models=("other",))))
    with pytest.raises(NotFound):
        await report(pb.ReportRequest(model="fraud").SerializeToString(), Call(caller=Caller("team", models=("iris",))))

    assert [each.model for each in response.reports] == ["churn", "iris"]
    assert [each.model for each in asked.requests] == ["churn", "iris"]


async def test_equal_questions_under_way_are_one(settle, tmp_path):
    """Many who ask the same cost one report; one who goes takes it from nobody."""
    report, asked = asked_of(tmp_path, "fraud")
    data = pb.ReportRequest(model="fraud").SerializeToString()

    first, *others = [asyncio.ensure_future(report(data, Call())) for _ in range(5)]
    await settle()
    first.cancel()
    await settle()
    asked.go.set()
    answers = await asyncio.gather(*others)

    assert len(asked.requests) == 1
    assert all(len(pb.ReportResponse.FromString(each).reports) == 1 for each in answers)
    await report(data, Call())
    assert len(asked.requests) == 2


async def test_a_question_that_fails_fails_for_all_who_asked(settle, tmp_path):
    """And the next one is asked anew."""
    report, asked = asked_of(tmp_path, "fraud")
    asked.error = Unavailable("shadow comparison is not running")
    both = [asyncio.ensure_future(report(b"", Call())) for _ in range(2)]
    await settle()
    asked.go.set()

    for each in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(each, Unavailable)
    asked.error = None
    assert len(pb.ReportResponse.FromString(await report(b"", Call())).reports) == 1
