"""A backend over endpoints, and one that is strange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from infermesh.config import BackendConfig
from infermesh.transport import RemoteService
from tests.unit.transport.endpoint_parts import Strange, Watched


@pytest.fixture
async def remote() -> AsyncIterator[Callable[..., tuple[RemoteService, Watched]]]:
    async with AsyncExitStack() as resources:

        def make(target: Any, resolver: Any = None, **config: Any) -> tuple[RemoteService, Watched]:
            watched = Watched()
            settings = BackendConfig.model_validate({"target": target, **config})
            made = RemoteService(settings, "backend", resolver=resolver, observe=watched)
            resources.push_async_callback(made.close)
            return made, watched

        yield make


@pytest.fixture
async def strange() -> AsyncIterator[Strange]:
    async with Strange() as server:
        yield server
