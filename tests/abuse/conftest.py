"""A predictor that is abused by all tests of a file: each must leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.abuse.victim import MIB, Victim

MAX_IN_FLIGHT = 16
MAX_CONNECTIONS = 40
GROWTH = 96 * MIB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Victim]:
    """One process with engine Envoy for all tests of a file."""
    folder = tmp_path_factory.mktemp("victim")
    bounds = {"max_message": "4MiB", "max_in_flight": MAX_IN_FLIGHT, "max_connections": MAX_CONNECTIONS}
    async with Victim(folder, **bounds) as victim:
        yield victim


@pytest_asyncio.fixture(loop_scope="module")
async def victim(process: Victim) -> AsyncIterator[Victim]:
    """The process; after the test an innocent caller is answered, nothing is left of any call, it is still the same process,
    and its memory has grown by no more than `may_grow`."""
    process.may_grow = GROWTH
    pid, before = process.pid, process.resident_bytes
    yield process
    await process.until_free()
    await process.innocent()
    assert process.pid == pid
    assert process.resident_bytes - before < process.may_grow
