"""Callers who send ever new keys and model names: a real gateway's memory and label sets stay as they were."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from e2e_door import CALLER
from e2e_gateway import Backend, Gateway, resident_bytes, serving
from e2e_wire import RawCaller

from infermesh.protocol import open_inference_pb2 as pb

AT_ONCE = 500
GROWTH_BYTES = 8 << 20  # 100,000 names of 30 letters, kept in any one place, are more in Python
SEEN = {"UNAUTHENTICATED", "NOT_FOUND", "OK", "RESOURCE_EXHAUSTED"}
LIMITS = {"mode": "enforce", "rate": 1e6, "burst": 1_000_000, "max_callers": 1000}

Sent = tuple[bytes, list[tuple[str, str]]]


def keys(count: int, run: str) -> Iterator[Sent]:
    """Calls with a key of their own each, which nobody knows."""
    message = pb.ModelInferRequest(model_name="m").SerializeToString()
    return ((message, [("x-api-key", f"key-{run}-{at:020}")]) for at in range(count))


def names(count: int, run: str) -> Iterator[Sent]:
    """Calls of models that there is no route for, and every fourth of one behind a prefix; versions and ids of their own too."""
    for at in range(count):
        model = f"{'p' if at % 4 == 0 else 'n'}-{run}-{at:020}"
        request = pb.ModelInferRequest(model_name=model, id=f"id-{at}", model_version=str(at) if at % 4 == 0 else "")
        yield request.SerializeToString(), [*CALLER, ("x-request-id", f"request-{run}-{at}")]


def send(address: str, calls: Iterable[Sent]) -> int:
    """Make the calls, some at a time, and say how many have ended."""
    calls, ended = iter(calls), 0
    with RawCaller(address, window=1 << 20) as caller:
        while some := list(islice(calls, AT_ONCE)):
            caller.send(b"".join(caller.begin(message, metadata)[1] for message, metadata in some))
            ended += caller.ends(len(some))
    return ended


def series(gateway: Gateway) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    found = gateway.samples().by_name
    return {(name, frozenset(labels.items())) for name, each in found.items() for labels, _ in each}


async def _flat(folder: Path, count: int) -> None:
    backend = Backend()
    routes = [{"model": "m", "backend": "one"}, {"prefix": "p-", "backend": "one"}]
    async with serving(backend) as address, Gateway(folder, {"one": address}, routes, rate_limit=LIMITS) as gateway:
        for calls in (keys(AT_ONCE, "before"), names(2 * AT_ONCE, "before")):
            await asyncio.to_thread(send, gateway.address, calls)
        before, memory = series(gateway), resident_bytes(gateway.pid)
        backend.calls.clear()

        ended = [await asyncio.to_thread(send, gateway.address, each) for each in (keys(count, "k"), names(count, "n"))]

        after, grown = series(gateway), resident_bytes(gateway.pid) - memory
        counted = gateway.sample("infermesh_requests_total")
        print(f"{grown / 2**20:.1f} MiB after {count} keys and {count} names")
        assert ended == [count, count]
        assert counted == 2 * count + 3 * AT_ONCE
        assert len(backend.calls) == count / 4
        assert after - before == set()
        assert {value for _, labels in after for name, value in labels if name == "code"} <= SEEN
        assert {value for _, labels in after for name, value in labels if name == "model"} <= {"", "m", "p-*", "*"}
        assert grown < GROWTH_BYTES, f"{grown / 2**20:.1f} MiB more than before {count} keys and {count} names"


async def test_thousands_of_keys_and_names_leave_a_gateway_as_it_was(tmp_path: Path) -> None:
    """Every call is refused or answered, and counted under labels that there were before."""
    await _flat(tmp_path, 3_000)


@pytest.mark.long
async def test_a_hundred_thousand_keys_and_names_leave_a_gateway_as_it_was(tmp_path: Path) -> None:
    """The same with ten times as many."""
    await _flat(tmp_path, 100_000)
