"""What is abused: programs on Envoy, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import yaml
from onnx import TensorProto, helper, save

from infermesh.cli.scrape import says_ready
from infermesh.cli.service_process import ServiceProcess
from infermesh.cli.spawn import spawn
from infermesh.engine.ask import ask
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.tensors import add_inputs

__all__ = ["MIB", "Counted", "Victim", "request", "until"]

MIB = 1 << 20
START_S = 60.0
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
]


def request(count: int = 3) -> pb.ModelInferRequest:
    """Asks the model `wide` for so many zeros, of four bytes each."""
    asked = pb.ModelInferRequest(model_name="wide", id="7")
    add_inputs(asked, {"count": np.array([count], np.int64)}, raw=True)
    return asked


class Program:
    """A supervisor with one Envoy, from entry to exit."""

    port = 0
    _process: Any

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.terminate()
        if not await asyncio.to_thread(self._process.wait, 30.0):
            self._process.kill()

    @property
    def pid(self) -> int:
        """Of its Envoy."""
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        assert len(listed) == 1, f"children {listed}, status {self._process.status}: {self._process.last_words()}"
        return int(listed[0])

    @property
    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def in_flight(self) -> int:
        """Calls that the service knows of."""
        return int(json.loads(await self.told("/state"))["in_flight"])

    async def told(self, what: str) -> bytes:
        """What the program in Envoy says."""
        return await ask(self._place("control"), "GET", what, 20.0)

    async def stats(self) -> Mapping[str, int]:
        """What Envoy counts, without the names of the listener before it."""
        text = (await ask(self._place("admin"), "GET", "/stats", 20.0)).decode()
        found: dict[str, int] = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(": ")
            if value.isdigit():
                found[name.removeprefix("http.grpc.")] = int(value)
        return found

    async def until_free(self) -> None:
        """Until nothing is left of all calls: neither Envoy nor the service knows one."""
        left: tuple[int, int] = (0, 0)

        async def free() -> bool:
            nonlocal left
            left = (await self.stats())["downstream_rq_active"], await self.in_flight()
            return left == (0, 0)

        try:
            await until(free)
        except TimeoutError:
            raise AssertionError(f"calls that Envoy and the service still have: {left}") from None

    def _place(self, kind: str) -> Path:
        words = Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")
        config = next(Path(word) for word in words if word.endswith(".envoy.json"))
        return config.with_name(config.name.removesuffix("envoy.json") + kind)

    def _spawn(self) -> Any:
        raise NotImplementedError

    def _start(self) -> None:
        self._process = self._spawn()
        end = time.monotonic() + START_S
        try:
            while not (told := [line for line in list(self._process.log) if line.get("message") == "listening"]):
                assert time.monotonic() < end and self._process.status is None, self._process.last_words()
                time.sleep(0.02)
            self.port, self.http_port = int(told[0]["grpc_port"]), int(told[0]["http_port"])
            while not says_ready(f"127.0.0.1:{self.http_port}"):
                assert time.monotonic() < end and self._process.status is None, self._process.last_words()
                time.sleep(0.02)
        except BaseException:
            self._process.kill()
            raise


class Victim(Program):
    """A predictor. `server` is merged over that part of its configuration."""

    may_grow = 0
    """What a test allows its memory to grow by."""

    def __init__(self, folder: Path, **server: Any) -> None:
        self._folder = folder
        version = folder / "models" / "wide" / "1"
        version.mkdir(parents=True)
        write_wide(version / "model.onnx")
        ports = {"host": "127.0.0.1", "grpc_port": 0, "http_port": 0, "drain": "0", "grace": "1s"}
        config = {"server": {**ports, "engine": "envoy", **server}, "repository": {"root": str(folder / "models")}}
        (folder / "predictor.yaml").write_text(yaml.safe_dump(config))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=OPTIONS)
        await self.innocent()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._channel.close()
        await super().__aexit__(kind, error, at)

    async def innocent(self) -> None:
        """Fail unless an ordinary call, on a connection that does no harm, is answered."""
        answer = await pb_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer(request(), timeout=20)
        assert (answer.id, answer.outputs[0].shape) == ("7", [3])

    def _spawn(self) -> Any:
        return ServiceProcess("predictor", self._folder / "predictor.yaml", {})


class Counted(Program):
    """`counted_program.py`: its objects can be counted."""

    async def objects(self) -> Mapping[str, int]:
        lines = [line.split() for line in (await self.told("/metrics")).decode().splitlines() if line[0] != "#"]
        return {name: int(count) for name, count in lines}

    def _spawn(self) -> Any:
        return Script(Path(__file__).with_name("counted_program.py"))


class Script:
    """A script as a process, with the log lines that it has written so far."""

    def __init__(self, file: Path) -> None:
        self.log: list[dict[str, Any]] = []
        self._process = spawn([sys.executable, str(file)], env=dict(os.environ))
        self.pid = self._process.pid
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        return "; ".join(str(line.get("message")) for line in self.log[-20:])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(json.loads(line) if line.startswith(b"{") else {"message": line.decode().rstrip()})


async def until(holds: Callable[[], Any], within_s: float = 30) -> None:
    """Until a coroutine function's answer is true."""
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


def write_wide(file: Path) -> None:
    """A model that answers as many zeros as it is asked for: small questions with large answers."""
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [1])
    zeros = helper.make_tensor_value_info("zeros", TensorProto.FLOAT, ["n"])
    node = helper.make_node("ConstantOfShape", ["count"], ["zeros"])
    graph = helper.make_graph([node], "wide", [count], [zeros])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), file)
