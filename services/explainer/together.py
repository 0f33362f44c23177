"""Several things at a time, as one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["together"]

R = TypeVar("R")


async def together(parts: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """What the parts return. The first failure, or cancelling, ends the others, and is raised when they have ended."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.gather(*unfinished, return_exceptions=True)
