"""A service of a few lines, to be run as a process: `python tiny_service.py`. What it does is in its configuration."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_settings import SettingsConfigDict

from infermesh.call import Call
from infermesh.config import Duration, ServiceConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry, run
from infermesh.service import InferenceService, Stack, stack


class TinyConfig(ServiceConfig):
    model_config = SettingsConfigDict(env_prefix="INFERMESH_TINY__")

    build: Duration = "0s"  # type: ignore[assignment]
    build_in_thread: bool = False
    answer: Duration = "0s"  # type: ignore[assignment]
    answer_in_thread: bool = False
    fails: bool = False
    closed: Path | None = None
    """Written when what `build` opened is closed."""


class Tiny(InferenceService):
    def __init__(self, config: TinyConfig) -> None:
        self.config = config

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await pause(self.config.answer, in_thread=self.config.answer_in_thread)
        response = pb.ModelInferResponse(id=request.id)
        response.parameters["frozen"].int64_param = gc.get_freeze_count()
        response.parameters["threshold"].int64_param = gc.get_threshold()[0]
        return response

    async def metadata(self, request: Any, call: Call) -> Any:
        return pb.ModelMetadataResponse()

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


async def pause(seconds: float, *, in_thread: bool) -> None:
    """In a thread it is something that can't be interrupted, as a model that is loaded or runs."""
    if in_thread:
        await asyncio.to_thread(threading.Event().wait, seconds)
    else:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def build(config: TinyConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    try:
        if config.fails:
            raise RuntimeError("the store is not there")
        await pause(config.build, in_thread=config.build_in_thread)
        yield stack(service=Tiny(config))
    finally:
        if config.closed is not None:
            config.closed.write_text("closed")


if __name__ == "__main__":
    run("tiny", TinyConfig, build)
