"""Tests of limits that replicas share, in a real Valkey."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.gateway.gcra import Gcra, Limit
from services.gateway.redis_script import SCRIPT
from services.gateway.redis_units import Units
from tests.unit.gateway.limits import call_of, prefix, replica, until


def _timed(time: str) -> str:
    """The script with a time that is put in by hand, and so without ends of keys, which are of the server's."""
    timed = SCRIPT.replace("redis.call('TIME')", time).replace(", 'PX', ttl", "")
    assert len(timed) < len(SCRIPT)
    return timed


async def test_replicas_share_a_limit(redis_url: str) -> None:
    """Two gateways admit together what the rule lets in, and tell the other callers when to come back."""
    rule, name = {"rate": 0.01, "burst": 5, "per": ["tenant"]}, prefix()
    async with replica(redis_url, rule, key_prefix=name) as one, replica(redis_url, rule, key_prefix=name) as two:
        admitted = await one.admitted(3) + await two.admitted(3) + await one.admitted(2)
        refusal = await two.ask()
        other = await two.ask(call=call_of(tenant="other"))

    assert admitted == 5
    assert refusal is not None
    assert 99 < refusal.wait_s <= 100
    assert (refusal.left, round(refusal.reset_s)) == (0, 500)
    assert other is None


async def test_the_gateways_clocks_do_not_matter(redis_url: str) -> None:
    """Gateways whose clocks are years apart, one of them standing still, share a limit as if they agreed."""
    rule, name = {"rate": 0.01, "burst": 4}, prefix()
    async with (
        replica(redis_url, rule, key_prefix=name, clock=lambda: 0.0) as past,
        replica(redis_url, rule, key_prefix=name, clock=lambda: 1e9) as future,
    ):
        admitted = [await each.ask() is None for each in (past, future, future, past, future, past)]

    assert admitted == [True] * 4 + [False] * 2


async def test_a_refused_call_is_charged_at_no_level(redis_url: str) -> None:
    """Tenant, model and caller are decided about together: one that refuses keeps the others from counting the call."""
    rules = [
        {"name": "tenant", "per": ["tenant"], "rate": 0.01, "burst": 3},
        {"name": "model", "per": ["tenant", "model"], "rate": 0.01, "burst": 1},
        {"name": "caller", "per": ["caller"], "rate": 0.01, "burst": 100},
    ]
    async with replica(redis_url, *rules) as gateway:
        assert await gateway.admitted(20, model="iris") == 1
        gateway.limiter.refusals._known.clear()  # so that Valkey is asked again
        assert await gateway.admitted(20, model="iris") == 0
        assert await gateway.admitted(1, model="fraud") == 1
        assert await gateway.admitted(1, model="card") == 1
        refusal = await gateway.ask(model="other")

        assert refusal is not None
        assert refusal.level.rule.name == "tenant"
        assert gateway.outcome("admitted", 2) == 3


async def test_local_and_shared_levels_are_one_decision(redis_url: str) -> None:
    """A local level that refuses keeps the shared one from counting, and the other way round, under concurrent calls too."""
    rules = [
        {"name": "here", "store": "local", "rate": 0.01, "burst": 5},
        {"name": "all", "rate": 0.01, "burst": 8, "per": ["model"]},
    ]
    async with replica(redis_url, *rules) as gateway:
        first = await asyncio.gather(*(gateway.ask(model="iris") for _ in range(20)))
        gateway.limiter.local._arrival.clear()
        second = await asyncio.gather(*(gateway.ask(model="iris") for _ in range(20)))
        assert not gateway.limiter.local._held

    assert [first.count(None), second.count(None)] == [5, 3]


async def test_a_rule_that_observes_refuses_nobody(redis_url: str) -> None:
    """What an observing rule would refuse is counted, and charged to the rules that enforce alone."""
    rules = [
        {"name": "seen", "mode": "observe", "rate": 0.01, "burst": 2},
        {"name": "kept", "rate": 0.01, "burst": 4},
    ]
    async with replica(redis_url, *rules) as gateway:
        assert await gateway.admitted(6) == 4

        assert (gateway.outcome("admitted", 0), gateway.outcome("observed", 0)) == (2, 2)
        assert gateway.outcome("admitted", 1) == 4


async def test_rows_and_bytes_are_counted(redis_url: str) -> None:
    """A call counts for what it costs; one that costs more than the burst is never let in, nor asked about."""
    rules = [
        {"name": "rows", "cost": "rows", "rate": 0.1, "burst": 100},
        {"name": "bytes", "cost": "bytes", "rate": 1000, "burst": 10**9},
    ]
    async with replica(redis_url, *rules) as gateway:
        assert await gateway.ask(rows=60, size=9 * 10**8) is None
        refused = await gateway.ask(rows=50, size=1)
        cheaper = await gateway.ask(rows=40, size=1)
        never = await gateway.ask(rows=101, size=1)

    assert refused is not None
    assert refused.wait_s == pytest.approx(100, abs=1)
    assert cheaper is None
    assert never is not None
    assert never.wait_s == float("inf")


async def test_a_refusal_is_remembered_until_its_wait_is_over(redis_url: str, clock: Any) -> None:
    """A caller that comes too early is refused without asking Valkey; a cheaper call and another caller are asked about."""
    rule = {"rate": 1, "burst": 10, "cost": "rows", "per": ["caller"]}
    async with replica(redis_url, rule, clock=clock) as gateway:
        await gateway.ask(rows=8)
        refused = await gateway.ask(rows=10)
        assert refused is not None

        remembered = [await gateway.ask(rows=rows) for rows in (10, 10)]
        cheaper = await gateway.ask(rows=1)
        other = await gateway.ask(rows=1, call=call_of("other"))
        assert gateway.outcome("remembered") == 2
        clock.now += refused.wait_s + 0.001
        await gateway.ask(rows=10)

        assert gateway.outcome("remembered") == 2
        assert gateway.outcome("refused") == 2
    assert [each and each.wait_s for each in remembered] == [pytest.approx(refused.wait_s)] * 2
    assert (cheaper, other) == (None, None)


async def test_a_flushed_script_is_sent_again(redis_url: str) -> None:
    """SCRIPT FLUSH, as after a restart of the server, costs no decision."""
    async with replica(redis_url, {"rate": 0.01, "burst": 5}) as gateway, Redis.from_url(redis_url) as admin:
        admitted = 0
        for _ in range(4):
            await admin.script_flush()
            admitted += await gateway.admitted(2)

        assert admitted == 5
        assert gateway.failures == []


async def test_keys_are_in_one_slot_and_end_when_nothing_is_owed(redis_url: str) -> None:
    """Keys share a hash tag, so that a cluster runs the script on all levels; each has a time to live of what is owed."""
    name = prefix()
    rules = [{"per": ["tenant"], "rate": 0.01, "burst": 10}, {"per": ["caller"], "rate": 0.1, "burst": 10}]
    async with replica(redis_url, *rules, key_prefix=name) as gateway, Redis.from_url(redis_url) as admin:
        await gateway.admitted(5, call=call_of("a}b{c:d\n", tenant="{x}" * 90))
        keys = sorted([key async for key in admin.scan_iter(f"*{name}*") if not key.endswith(b":probe")])
        ttls = sorted([await admin.pttl(key) for key in keys])

    assert len(keys) == 2
    assert all(key.startswith(b"{" + name.encode() + b"}:") for key in keys)
    assert 0 < ttls[0] <= 50_002
    assert ttls[0] + 1000 < ttls[1] <= 500_002


async def test_a_key_that_holds_something_else_is_a_failure_of_the_store(redis_url: str) -> None:
    """Values that are not ours are neither overwritten nor taken for an empty limit: the rule's policy answers."""
    name = prefix()
    async with replica(redis_url, {"on_store_failure": "closed"}, key_prefix=name) as gateway:
        level = gateway.plans.of("iris", call_of()).shared[0]
        async with Redis.from_url(redis_url) as admin:
            await admin.set(level.key, "not ours")
            refusal = await gateway.ask()

            assert refusal is not None
            assert refusal.store_away
            await until(lambda: gateway.failures)
            assert gateway.failures[0] == "error"
            assert await admin.get(level.key) == b"not ours"
            await admin.delete(level.key)


@settings(max_examples=200)
@given(rate=st.floats(1e-3, 1e12), burst=st.integers(1, 10**12))
def test_units_are_exact_whole_numbers_that_never_give_too_much(rate: float, burst: int) -> None:
    """Room and drain stay below what doubles count exactly; the rate is kept within 0.06 %, and never exceeded."""
    if burst / rate > 31 * 86_400:
        return
    units = Units.of(rate, burst)

    assert units.room == units.unit * burst <= 2**52
    assert units.drain <= 2**52
    assert 0.9994 * rate <= units.drain / units.unit * 1e6 <= rate * (1 + 1e-15)


ARRIVALS = st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 6)), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(1, 5000), burst=st.integers(6, 40), arrivals=ARRIVALS)
async def test_the_script_decides_as_the_local_algorithm(
    rate: float, burst: int, arrivals: list[tuple[int, int]], redis_url: str
) -> None:
    """Over random arrivals and costs the script and GCRA admit the same calls, but where rounding makes the script stricter by a
    microsecond."""
    timed = _timed("{0, ARGV[#ARGV]}")
    units, limit, now = Units.of(rate, burst), Limit.of(rate, burst), 0
    local = Gcra(clock=lambda: now / 1e6)
    key = f"{{{prefix()}}}:{random.getrandbits(60)}"
    owed = 0.0
    async with Redis.from_url(redis_url) as admin:
        await admin.delete(key)
        for pause_us, cost in arrivals:
            now += pause_us
            reply = await admin.eval(timed, 1, key, *units.words(True), cost, now)
            wait_s = local.wait("k", limit, cost)
            if reply == 0:
                assert wait_s < 2e-6
                local.charge("k", limit, cost)
                owed += cost
            else:
                assert wait_s > -1e-6
                assert reply[1] / 1e6 == pytest.approx(wait_s, rel=1e-3, abs=5e-6)
        await admin.delete(key)
    assert owed <= burst + rate * (now + 1) / 1e6 + 1e-6


async def test_a_server_clock_that_is_set_back_locks_nobody_out(redis_url: str) -> None:
    """After a failover to a server an hour behind, what was owed is owed, is paid off from then on, and no more is owed."""
    timed = _timed("{ARGV[#ARGV], 0}")
    units, key = Units.of(1, 2), f"{{{prefix()}}}:k"
    async with Redis.from_url(redis_url) as admin:

        async def ask(now_s: int) -> Any:
            return await admin.eval(timed, 1, key, *units.words(True), 1, now_s)

        replies = [await ask(now_s) for now_s in (10_000, 10_000, 6_400, 6_401, 6_402, 6_402)]
        await admin.delete(key)

    assert replies[:2] == [0, 0]
    assert replies[2][:2] == [1, 1_000_000]
    assert replies[3:] == [0, 0, replies[2]]
