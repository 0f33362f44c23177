"""Serving inside a program that is somebody else's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from infermesh.config import ServerConfig, ServiceConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry, serve
from infermesh.service import InferenceService, Stack, stack


class Quiet(InferenceService):
    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def metadata(self, request: Any, call: Any) -> Any:
        return pb.ModelMetadataResponse()

    async def ready(self, model: str = "", version: str = "") -> bool:
        self.asked.set()
        return True


async def test_the_interpreter_of_the_program_stays_as_it_is() -> None:
    """Nothing is frozen and no threshold moves: when the collector runs is the program's matter."""
    service, stop = Quiet(), asyncio.Event()
    config = ServiceConfig(server=ServerConfig(host="127.0.0.1", grpc_port=0, http_port=0, drain="0s"))  # type: ignore[arg-type]

    @asynccontextmanager
    async def build(config: ServiceConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
        yield stack(service=service)

    before = (gc.get_threshold(), gc.get_freeze_count())
    serving = asyncio.ensure_future(serve("quiet", config, build, stop=stop))
    async with asyncio.timeout(5):
        await service.asked.wait()
    during = (gc.get_threshold(), gc.get_freeze_count())
    stop.set()
    await serving

    assert during == before
