"""The bounded queue: who waits, who gives way, who is refused at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from infermesh.errors import ResourceExhausted, Unavailable
from tests.unit.predictor.scheduling.gated import BAD, Gated, turn, until


async def test_past_the_bound_requests_are_refused_with_a_pushback(gated: Any) -> None:
    """RESOURCE_EXHAUSTED, not started; those that wait stay."""
    model = gated(max_requests=2)
    held = await model.hold()
    calls = [model.ask(1), model.ask(2)]
    await turn()

    with pytest.raises(ResourceExhausted, match="m: 2 requests are waiting, which is the bound") as error:
        await model.ask(3)

    assert (error.value.reason, error.value.rejected, error.value.retry_after_s) == ("QUEUE_FULL", True, 0.05)
    model.gate.set()
    assert [(await call)[0].tolist() for call in calls] == [[10], [20]]
    await held


async def test_the_pushback_is_the_expected_wait_within_bounds(gated: Any) -> None:
    """What waits takes 2 s: come back then; past five seconds it is five."""
    model = gated(max_requests=2, batching={"enabled": False})
    for _ in range(10):
        model.instances._estimate.observe(4, 1.0)
    model.instances._estimate.observe(8, 2.0)
    await model.hold()
    calls = [model.ask(1), model.ask(2)]
    await turn()

    with pytest.raises(ResourceExhausted) as error:
        await model.ask(3)

    assert 2.0 <= error.value.retry_after_s <= 3.1
    for _ in range(50):
        model.instances._estimate.observe(4, 9.0)
    with pytest.raises(ResourceExhausted) as error:
        await model.ask(3)
    assert error.value.retry_after_s == 5.0
    model.gate.set()
    await asyncio.gather(*calls)


async def test_a_full_queue_gives_a_place_to_a_higher_level(gated: Any) -> None:
    """The youngest of the lowest level gives way, and is told that it was not started; equal levels keep their places."""
    model = gated(max_requests=3)
    await model.hold()
    first, second, third = model.ask(1, level=1), model.ask(2, level=2), model.ask(3, level=2)
    await turn()

    urgent = model.ask(4, level=0)
    with pytest.raises(ResourceExhausted, match="a request of higher priority took the place") as error:
        await third
    assert (error.value.reason, error.value.rejected) == ("QUEUE_FULL", True)
    with pytest.raises(ResourceExhausted, match="which is the bound"):
        await model.ask(5, level=2)

    assert model.instances.waiting == 3
    model.gate.set()
    await asyncio.gather(first, second, urgent)
    assert model.runs[1:] == [[4, 1, 2]]


@pytest.mark.parametrize(
    ("priority", "shadow", "level"),
    [(0, False, 1), (1, False, 0), (2, False, 1), (3, False, 2), (99, False, 2), (1, True, 2)],
)
async def test_priorities_are_levels(gated: Any, priority: int, shadow: bool, level: int) -> None:
    """None is the default one, a number past the last is the last, a shadow copy is always last."""
    assert gated().instances.level(priority, shadow=shadow) == level


async def test_a_default_priority_past_the_last_level_is_the_last(gated: Any) -> None:
    """Fewer levels than the default names are no error."""
    assert gated(priority_levels=1).instances.level(0) == 0


async def test_who_would_be_late_is_refused_before_queueing(gated: Any) -> None:
    """The work ahead and the own run are compared with the deadline: refused at once, and told when it may work."""
    model = gated(batching={"enabled": False})
    _learn(model, 1.0)
    held = await model.hold()
    patient = [model.ask(1), model.ask(2)]
    await turn()

    with pytest.raises(
        ResourceExhausted, match=r"m: expected to be answered in .* ms, the deadline is in 2500 ms"
    ) as error:
        await model.ask(3, deadline=model.deadline(2.5))
    assert (error.value.reason, error.value.rejected) == ("EXPECTED_TOO_LATE", True)
    assert error.value.retry_after_s >= 0.4
    in_time = model.ask(4, deadline=model.deadline(10))
    urgent = model.ask(5, deadline=model.deadline(2.5), level=0)
    await turn()

    assert model.instances.waiting == 4
    model.gate.set()
    await asyncio.gather(held, *patient, in_time, urgent)


async def test_refusing_early_can_be_turned_off(gated: Any) -> None:
    """Then requests wait until their deadline."""
    model = gated(refuse_late=False)
    _learn(model, 1.0)
    await model.hold()

    call = model.ask(1, deadline=model.deadline(0.1))
    await turn()

    assert model.instances.waiting == 1
    model.gate.set()
    await call


async def test_an_idle_model_is_never_refused(gated: Any) -> None:
    """However slow the last runs were: only a run can tell that the next ones are fast again."""
    model = gated()
    _learn(model, 1000.0)

    assert (await model.ask(1, deadline=model.deadline(0.1)))[0].tolist() == [10]


async def test_what_will_be_batched_counts_as_a_batch(gated: Any) -> None:
    """Ten that wait for a model whose run costs the same for one as for ten are one run ahead, not ten."""
    model = gated(batching={"max_rows": 16})
    for rows in (1, 16) * 20:
        model.instances._estimate.observe(4 * rows, 1.0)
    await model.hold()
    calls = [model.ask(n, deadline=model.deadline(3.5)) for n in range(10)]
    await turn()

    assert model.instances.waiting == 10
    model.gate.set()
    await asyncio.gather(*calls)


async def test_batches_that_turn_out_small_count_as_small(gated: Any) -> None:
    """Requests of many kinds don't share runs: what is expected follows what batches were formed, not what the bounds allow."""
    model = gated()
    for rows in (1, 16) * 20:
        model.instances._estimate.observe(4 * rows, 1.0)
    model.instances._admission.left_others(1)
    await model.hold()
    calls = [model.ask(n) for n in range(5)]
    await turn()

    with pytest.raises(ResourceExhausted) as error:
        await model.ask(9, deadline=model.deadline(3.5))

    assert error.value.reason == "EXPECTED_TOO_LATE"
    model.gate.set()
    await asyncio.gather(*calls)


async def test_a_model_that_hangs_refuses_nobody_for_ever(gated: Any) -> None:
    """A run that takes longer than expected is taken to end now: with nobody ahead, requests wait until their deadline."""
    model = gated()
    _learn(model, 1e-6)
    held = await model.hold()
    await until(lambda: model.devices == [0])

    call = model.ask(1, deadline=model.deadline(0.5))
    await turn()

    assert model.instances.waiting == 1
    held.cancel()
    model.gate.set()
    assert (await call)[0].tolist() == [10]


async def test_what_failed_or_was_ended_early_teaches_nothing(gated: Any) -> None:
    """Runs that succeeded say how long a run takes; those that were ended do so only when they had taken longer."""
    model = gated()
    _learn(model, 1000.0)
    before = model.instances._estimate._runs
    held = await model.hold()
    held.cancel()
    await until(lambda: not model.instances.busy)
    model.gate.set()
    await asyncio.wait([model.ask(BAD)])

    assert model.instances._estimate._runs == before


async def test_a_model_slower_than_its_deadlines_is_known_to_be_so_until_it_is_fast_again(
    gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 5 to 300 ms, where each caller leaves after 200: no run ever ends by itself, and yet those who would wait in vain are
    refused. An idle instance refuses nobody, so it is found out when the model is fast again."""
    model = gated(batching={"enabled": False})
    monkeypatch.setattr("services.predictor.scheduling.batch.time.perf_counter", lambda: model.now)
    model.takes_s = lambda rows: 0.005
    for _ in range(20):
        await model.ask(1)
    model.takes_s = lambda rows: 0.0
    for _ in range(30):
        begun = len(model.devices)
        held = await model.hold()
        await until(lambda begun=begun: len(model.devices) > begun)
        model.now += 0.2
        held.cancel()
        await until(lambda: not model.instances.busy)
    held = await model.hold()

    with pytest.raises(ResourceExhausted) as error:
        await model.ask(2, deadline=model.deadline(0.2))
    assert error.value.reason == "EXPECTED_TOO_LATE"

    model.takes_s = lambda rows: 0.005
    model.gate.set()
    await held
    for _ in range(60):
        assert (await model.ask(3, deadline=model.deadline(0.2)))[0].tolist() == [30]
    held = await model.hold()
    waits = [model.ask(at, deadline=model.deadline(0.2)) for at in range(5)]
    await turn()
    assert model.instances.waiting == 5
    model.gate.set()
    await asyncio.gather(held, *waits)


@pytest.mark.parametrize("enabled", [False, True])
async def test_nobody_is_refused_for_a_size_that_was_not_seen(gated: Any, enabled: bool) -> None:
    """Of equal requests nothing is known of a thousand times larger ones, neither of their runs nor of the wait behind them."""
    model = gated(batching={"enabled": enabled})
    for _ in range(50):
        model.instances._estimate.observe(4, 0.005)
    held = await model.hold()
    large = [model.ask(x=np.ones((1, 1000), np.float32), deadline=model.deadline(3)) for _ in range(2)]
    small = model.ask(1, deadline=model.deadline(3))
    await turn()

    assert model.instances.waiting == 3
    model.gate.set()
    await asyncio.gather(held, *large, small)


async def test_a_thread_that_can_not_be_started_loses_no_instance(gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is first is RESOURCE_EXHAUSTED, not started; when the system has threads again, the instance has one."""
    model = gated()

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="m: no thread can be started for its run") as error:
                await model.ask(1)
            assert (error.value.reason, error.value.rejected) == ("NO_THREAD", True)

    assert (await model.ask(1))[0].tolist() == [10]
    assert (model.instances.busy, model.instances.running, len(model.instances._free)) == (0, 0, 1)


async def test_without_a_second_thread_the_first_serves_all(gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds an instance idle that gets no thread waits for one that has."""
    model = gated(instances=2, batching={"enabled": False})
    held = await model.hold()

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        calls = [model.ask(1), model.ask(2)]
        await turn()
        assert model.instances.waiting == 2
        model.gate.set()
        answers = await asyncio.gather(held, *calls)

    assert [answer[0].tolist() for answer in answers] == [[0], [10], [20]]


async def test_requests_that_go_away_leave_nothing_behind(gated: Any) -> None:
    """While a model hangs, tensors of those who waited and left are freed at once."""
    model = gated()
    await model.hold()
    tensors = []
    for _ in range(20):
        x = np.ones(1000, np.float32)
        tensors.append(weakref.ref(x))
        call = model.ask(x=x)
        del x
        await turn()
        call.cancel()
        await asyncio.wait([call])
        del call

    gc.collect()
    assert model.instances.waiting == 0
    assert not any(model.instances._queue._lines)
    assert model.instances._queue.ahead(2) == (0, 0, 0)
    assert sum(ref() is not None for ref in tensors) <= 1


async def test_answered_requests_are_freed_without_the_collector(gated: Any) -> None:
    """No cycle holds tensors: neither after an answer nor after an error."""
    model = gated()
    gc.disable()
    try:
        refs = []
        for value in (1.0, -1.0):
            x = np.full(100, value, np.float32)
            refs.append(weakref.ref(x))
            call = model.ask(x=x)
            del x
            await asyncio.wait([call])
            call.exception()
            del call
        await model.ask(3)
        await until(lambda: not any(ref() is not None for ref in refs))
    finally:
        gc.enable()


async def test_closing_finishes_what_runs_and_waits(gated: Any) -> None:
    """A version that was replaced answers all that it took, and who held it and comes late; then its threads go."""
    model = gated()
    held = await model.hold()
    waits = model.ask(1)
    await turn()

    model.instances.close()
    late = model.ask(2)
    await turn()
    model.gate.set()

    assert [(await call)[0].tolist() for call in (held, waits, late)] == [[0], [10], [20]]
    assert all(worker._thread is None for worker in model.instances._free)
    assert (await model.ask(3))[0].tolist() == [30]
    assert all(worker._thread is None for worker in model.instances._free)


async def test_ending_ends_what_runs_and_what_waits(gated: Any) -> None:
    """After the drain nobody waits for a run: all is UNAVAILABLE at once, and new requests too."""
    model = gated()
    held = await model.hold()
    waits = model.ask(1)
    await turn()

    model.instances.close(end_runs=True)

    with pytest.raises(Unavailable, match="m: the predictor stops"):
        await waits
    with pytest.raises(Unavailable, match="ended"):
        await held
    with pytest.raises(Unavailable, match="m: the predictor stops"):
        await model.ask(2)


def no_thread(thread: Any) -> None:
    """As `Thread.start` does when the system has no more."""
    raise RuntimeError("can't start new thread")


def _learn(model: Gated, seconds_per_row: float) -> None:
    for rows in (1, 2, 3) * 3:
        model.instances._estimate.observe(4 * rows, seconds_per_row * rows)
