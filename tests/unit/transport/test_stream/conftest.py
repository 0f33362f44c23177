"""What every test of a stream may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """After the test nothing runs that did not run before."""
    before = asyncio.all_tasks()
    yield
    for _ in range(5):  # callbacks of what has just ended
        await asyncio.sleep(0)
    assert not {t for t in asyncio.all_tasks() - before - {asyncio.current_task()} if not t.done()}
