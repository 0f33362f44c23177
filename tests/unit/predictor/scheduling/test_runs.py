"""Where and when models run: inline or in threads, in a bounded queue, until a deadline."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
import weakref
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted
from infermesh.filters import WithinDeadline
from infermesh.service import stack
from infermesh.tensors import read_outputs

ENDLESS = np.array([10**9])


@pytest.fixture
def hang(ask: Any) -> Any:
    """A run of model `m` that takes until somebody ends it; returned when it has begun."""
    started: list[asyncio.Future[Any]] = []

    async def hang(predictor: Any, count: int = 1) -> list[asyncio.Future[Any]]:
        version = predictor.repository.resolve("m", "")
        now = [asyncio.ensure_future(predictor.infer(ask("m", n=ENDLESS), Call())) for _ in range(count)]
        started.extend(now)
        async with asyncio.timeout(5):
            while version.running + version.waiting < count:
                await asyncio.sleep(0.001)
        return now

    return hang


async def end(calls: list[asyncio.Future[Any]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_other_models_answer_while_one_hangs(serve: Any, put: Any, models: Any, ask: Any, hang: Any) -> None:
    """Each version has threads of its own: one that does not come back holds up nobody else."""
    put("m", 1, models.slow())
    put("other", 1, models.add(1))
    predictor = await serve(inline_below="0s")
    hanging = await hang(predictor)

    async with asyncio.timeout(5):
        for _ in range(20):
            await predictor.infer(ask("other", x=np.ones(2, np.float32)), Call())
        assert await predictor.ready("m")

    assert not hanging[0].done()
    await end(hanging)


async def test_a_full_queue_refuses_at_once_with_a_pushback(
    serve: Any, put: Any, models: Any, ask: Any, hang: Any
) -> None:
    """As many wait as the bound says; one more is RESOURCE_EXHAUSTED, not started, and told when to come back."""
    put("m", 1, models.slow())
    predictor = await serve(queue={"max_requests": 3})
    version = predictor.repository.resolve("m", "")
    hanging = await hang(predictor, 4)
    assert version.waiting == 3

    with pytest.raises(
        ResourceExhausted, match='model "m" version 1: 3 requests are waiting, which is the bound'
    ) as error:
        await predictor.infer(ask("m", n=np.array([1])), Call())

    assert (error.value.rejected, error.value.reason, error.value.retry_after_s) == (True, "QUEUE_FULL", 0.05)
    await end(hanging)
    assert version.waiting == 0
    async with asyncio.timeout(5):
        assert read_outputs(await predictor.infer(ask("m", n=np.array([1])), Call()))["done"].tolist() == [1]


async def test_without_a_queue_only_what_can_run_is_taken(
    serve: Any, put: Any, models: Any, ask: Any, hang: Any
) -> None:
    """`max_requests: 0` lets as many in as there are instances."""
    put("m", 1, models.slow())
    predictor = await serve(queue={"max_requests": 0}, instances=2)
    hanging = await hang(predictor, 2)

    with pytest.raises(ResourceExhausted, match="0 requests are waiting"):
        await predictor.infer(ask("m", n=np.array([1])), Call())

    await end(hanging)


async def test_calls_that_go_away_leave_nothing_in_the_queue(
    serve: Any, put: Any, models: Any, ask: Any, hang: Any
) -> None:
    """While a model hangs, callers with short deadlines come and go without the queue, or the memory behind it, growing."""
    put("m", 1, models.slow())
    predictor = await serve(queue={"max_requests": 10})
    version = predictor.repository.resolve("m", "")
    hanging = await hang(predictor)
    calls: list[Any] = []

    for _ in range(5):
        these = [Call(request_id="x") for _ in range(10)]
        waiting = [asyncio.ensure_future(predictor.infer(ask("m", n=np.array([1])), call)) for call in these]
        while version.waiting < 10:
            await asyncio.sleep(0)
        calls += [weakref.ref(task) for task in waiting]
        await end(waiting)
        assert version.waiting == 0
        del waiting, these

    gc.collect()
    assert sum(ref() is not None for ref in calls) <= 10  # of fifty: asyncio itself still holds those gathered last
    assert not any(version._instances._queue._lines)
    await end(hanging)


async def test_cancelling_a_call_ends_its_run(serve: Any, put: Any, models: Any, ask: Any, hang: Any) -> None:
    """Nothing goes on computing for a caller who went away: the thread is free again for the next one."""
    put("m", 1, models.slow())
    predictor = await serve()

    await end(await hang(predictor))

    async with asyncio.timeout(5):
        answer = await predictor.infer(ask("m", n=np.array([2])), Call())
    assert read_outputs(answer)["done"].tolist() == [2]


async def test_at_its_deadline_a_run_is_ended(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """DEADLINE_EXCEEDED in time, and the model is free again."""
    put("m", 1, models.slow())
    predictor = await serve()
    service = stack(WithinDeadline(30), service=predictor)

    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match='model "m": no answer within'):
        await service.infer(ask("m", n=ENDLESS), Call(deadline=Deadline.after(0.1)))

    assert time.monotonic() - started < 1
    async with asyncio.timeout(5):
        await service.infer(ask("m", n=np.array([1])), Call())


async def test_a_deadline_that_passes_in_the_queue_starts_no_run(
    serve: Any, put: Any, models: Any, ask: Any, hang: Any
) -> None:
    """When its turn comes too late, a call is refused as not started, and the next in the queue runs."""
    put("m", 1, models.slow())
    predictor = await serve()
    version = predictor.repository.resolve("m", "")
    hanging = await hang(predictor)
    late = asyncio.ensure_future(predictor.infer(ask("m", n=np.array([1])), Call(deadline=Deadline.after(0.02))))
    next_ = asyncio.ensure_future(predictor.infer(ask("m", n=np.array([3])), Call()))
    await asyncio.sleep(0.05)
    runs = version.statistics.compute.count

    await end(hanging)

    with pytest.raises(DeadlineExceeded, match='model "m" version 1: the deadline passed in its queue') as error:
        await late
    assert error.value.rejected
    assert read_outputs(await next_)["done"].tolist() == [3]
    assert version.statistics.compute.count == runs + 1


async def test_instances_run_side_by_side_and_no_more(serve: Any, put: Any, models: Any, hang: Any) -> None:
    """Two instances are two runs at a time; the third call waits."""
    put("m", 1, models.slow())
    predictor = await serve(instances=2)
    version = predictor.repository.resolve("m", "")

    hanging = await hang(predictor, 3)

    assert (version.running, version.waiting) == (2, 1)
    await end(hanging)


async def test_closing_ends_what_runs_and_frees_the_threads(serve: Any, put: Any, models: Any, hang: Any) -> None:
    """After the drain nobody waits for a run, so none may hold the process."""
    put("m", 1, models.slow())
    predictor = await serve()
    version = predictor.repository.resolve("m", "")
    hanging = await hang(predictor)

    predictor.repository.close()

    async with asyncio.timeout(5):
        ended = await asyncio.gather(*hanging, return_exceptions=True)
    assert "its run was ended" in str(ended[0])
    assert version.running == 0
    assert all(worker._thread is None for worker in version._instances._free)


def one_node(models: Any, operator: str, inputs: list[str], **constants: Any) -> bytes:
    return bytes(
        models.model(
            [helper.make_node(operator, inputs, ["y"])],
            {"x": (TensorProto.INT64, [])},
            {"y": (TensorProto.INT64, ["n"])},
            **constants,
        )
    )


async def test_a_tiny_model_runs_inline_and_one_with_a_loop_never(serve: Any, put: Any, models: Any) -> None:
    """Operators whose work depends on values are fast in a warm-up and anything later: they stay off the event loop."""
    put("tiny", 1, models.add(1))
    put("loop", 1, models.slow())
    put("range", 1, one_node(models, "Range", ["zero", "x", "one"], zero=np.array(0), one=np.array(1)))
    predictor = await serve(inline_below="1s")

    inline = {name: predictor.repository.resolve(name, "").runs_inline for name in ("tiny", "loop", "range")}

    assert inline == {"tiny": True, "loop": False, "range": False}


async def test_inline_can_be_turned_off_and_slow_models_are_not(serve: Any, put: Any, models: Any) -> None:
    """0 runs none inline; a model that is slower than the bound in its warm-up is not either."""
    put("m", 1, models.add(1))

    off, never = await serve(inline_below="0s"), await serve(inline_below="1us")

    assert not off.repository.resolve("m", "").runs_inline
    assert not never.repository.resolve("m", "").runs_inline


@pytest.mark.parametrize(("elements", "inline"), [(1, True), (256, True), (257, False), (100_000, False)])
async def test_larger_inputs_than_the_warm_ups_go_to_a_thread(
    serve: Any, put: Any, models: Any, ask: Any, elements: int, inline: bool
) -> None:
    """What was measured goes up to a number of rows; for more nothing was promised."""
    put("m", 1, models.add(1))
    predictor = await serve(inline_below="1s")
    version = predictor.repository.resolve("m", "")
    handed: list[int] = []
    run = version._instances.run
    version._instances.run = lambda *given, **named: handed.append(1) or run(*given, **named)

    await predictor.infer(ask("m", x=np.ones(elements, np.float32)), Call())

    assert bool(handed) is not inline


@pytest.mark.parametrize(("text", "inline"), [(b"short", True), (b"x" * 2000, False)])
async def test_a_long_string_is_a_large_input(
    serve: Any, put: Any, models: Any, ask: Any, text: bytes, inline: bool
) -> None:
    """One element can be a megabyte."""
    put("m", 1, models.echo(TensorProto.STRING))
    predictor = await serve(inline_below="1s")
    version = predictor.repository.resolve("m", "")
    handed: list[int] = []
    run = version._instances.run
    version._instances.run = lambda *arguments: handed.append(1) or run(*arguments)

    await predictor.infer(ask("m", x=np.array([text], object)), Call())

    assert bool(handed) is not inline


async def test_a_model_that_becomes_slow_leaves_the_loop_and_one_hiccup_does_not_count(
    serve: Any, put: Any, models: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are slow by their own CPU time end inline runs; one now and then, or a process that waits, does not."""
    put("m", 1, models.add(1))
    predictor = await serve(inline_below="1s")
    version = predictor.repository.resolve("m", "")
    version._inline._slow_s = 0.001
    takes = {"perf_counter": 0.0, "thread_time": 0.0}
    now = dict(takes)

    def clock(name: str) -> float:
        now[name] += takes[name]
        return now[name]

    for name in takes:
        monkeypatch.setattr(f"services.predictor.execution.inline.time.{name}", functools.partial(clock, name))
    request = ask("m", x=np.ones(1, np.float32))

    async def runs(count: int, *, wall: float, cpu: float) -> bool:
        takes.update(perf_counter=wall, thread_time=cpu)
        for _ in range(count):
            await predictor.infer(request, Call())
        return bool(version.runs_inline)

    for _ in range(10):
        assert await runs(1, wall=0.002, cpu=0.002)
        assert await runs(60, wall=0.0, cpu=0.0)
    assert await runs(100, wall=5.0, cpu=0.0)
    assert not await runs(4, wall=0.002, cpu=0.002)


async def test_how_much_runs_inline_is_told_for_each_input(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """A large input of fixed size does not let another one grow on the event loop."""
    two = models.model(
        [
            helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
            helper.make_node("Add", ["most", "s"], ["y"]),
        ],
        {"image": (TensorProto.FLOAT, [1, 300]), "s": (TensorProto.FLOAT, ["rows"])},
        {"y": (TensorProto.FLOAT, ["rows"])},
    )
    put("m", 1, two)
    predictor = await serve(inline_below="1s")
    version = predictor.repository.resolve("m", "")
    assert version.runs_inline
    threads: list[str] = []
    run = version._instances.run

    def counted(*arguments: Any) -> Any:
        threads.append("")
        return run(*arguments)

    version._instances.run = counted
    image = np.ones((1, 300), np.float32)

    await predictor.infer(ask("m", image=image, s=np.ones(1, np.float32)), Call())
    assert not threads
    await predictor.infer(ask("m", image=image, s=np.ones(300, np.float32)), Call())
    assert threads


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_the_loop_gets_turns_while_many_strings_are_read(
    serve: Any, put: Any, models: Any, ask: Any, raw: bool
) -> None:
    """Strings are taken apart one by one: health and other calls are answered meanwhile."""
    put("m", 1, models.echo(TensorProto.STRING))
    predictor = await serve()
    request = ask("m", raw=raw, x=np.full(300_000, b"x", np.object_))
    turns = 0

    call = asyncio.ensure_future(predictor.infer(request, Call()))
    while not call.done():
        await asyncio.sleep(0)
        turns += 1
    response = await call

    assert list(response.outputs[0].shape) == [300_000]
    assert turns > 100  # on the loop itself there would be a handful
    assert read_outputs(response)["y"].tolist() == [b"x"] * 300_000


async def test_many_strings_are_refused_for_what_is_wrong_with_them(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """Read aside, a request is checked all the same, and counted as a failure."""
    put("m", 1, models.echo(TensorProto.STRING))
    predictor = await serve()
    texts = np.full(10_000, b"x", np.object_)
    texts[9_999] = b"\xff"

    with pytest.raises(InvalidRequest, match="element 9999 is not") as refused:
        await predictor.infer(ask("m", x=texts), Call())

    assert refused.value.reason == "BYTES_NOT_UTF8"
    cut = ask("m", x=texts)
    cut.raw_input_contents[0] = cut.raw_input_contents[0][:-1]
    with pytest.raises(InvalidRequest, match="element 9999 says"):
        await predictor.infer(cut, Call())
    assert predictor.repository.resolve("m", "").statistics.message("m", "1").inference_stats.fail.count == 2
