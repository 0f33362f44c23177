"""TLS of those who ask from outside: the command line, and health checks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infermesh.call import Call
from infermesh.cli.asking import Connection, connect_by
from infermesh.cli.main import app
from infermesh.config import ServerConfig, ServerTlsConfig
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.transport import Server
from infermesh.transport import probe as probe_module
from infermesh.transport.outside import OutsideCaller
from infermesh.transport.probe import ClientTls, is_serving, wait_until_serving
from tests.certificates import Authority


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What one test said of connections holds for no other."""
    yield
    connect_by(Connection())


@dataclass
class Door:
    """A server with mutual TLS whose certificate is for another name than its address."""

    target: str
    tls: ClientTls
    service: Any

    @property
    def environ(self) -> dict[str, str]:
        tls = self.tls
        values = {"CA": tls.ca, "CERT": tls.cert, "KEY": tls.key, "SERVER_NAME": tls.server_name}
        return {f"INFERMESH_TLS_{name}": value for name, value in values.items()}


@pytest.fixture
async def door(tmp_path: Path, scripted: Any) -> AsyncIterator[Door]:
    class Asked(scripted):  # type: ignore[misc]  # a fixture
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[str] = []

        async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
            self.asked.append(call.metadata.get("authorization", ""))
            return pb.ModelMetadataResponse(name=request.name)

    authority = Authority(tmp_path)
    pair, ours, service = authority.pair(dns=["gateway.mesh"]), authority.pair("us"), Asked()
    tls = ServerTlsConfig(cert=pair.cert, key=pair.key, client_ca=authority.file)
    server = Server("tested", ServerConfig(host="127.0.0.1", grpc_port=0, tls=tls), inside_mesh=False)
    await server.start()
    server.mount(stack(service=service))
    await server.set_ready(True)
    client = ClientTls(str(authority.file), str(ours.cert), str(ours.key), "gateway.mesh")
    yield Door(f"127.0.0.1:{server.port}", client, service)
    await server.stop(0)


async def test_health_is_asked_over_tls(door: Door) -> None:
    """With the certificates it serves; without them, or by another name, it does not."""
    asked = [door.tls, None, ClientTls(door.tls.ca, door.tls.cert, door.tls.key), ClientTls(door.tls.ca)]

    serves = [await asyncio.to_thread(is_serving, door.target, tls=tls, timeout_s=5) for tls in asked[:1]]
    serves += [await asyncio.to_thread(is_serving, door.target, tls=tls) for tls in asked[1:]]

    assert serves == [True, False, False, False]
    assert await asyncio.to_thread(wait_until_serving, door.target, 5.0, tls=door.tls)


async def test_the_program_for_containers_takes_its_tls_from_the_environment(door: Door, tmp_path: Path) -> None:
    """Run by its path, as the images do; a file that is missing is said."""
    command = [sys.executable, "-P", probe_module.__file__, door.target]

    async def run(**more: str) -> tuple[int, str]:
        ended = await asyncio.to_thread(
            subprocess.run,
            command,
            env={**os.environ, **door.environ, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout

    assert await run() == (0, f"{door.target} serves\n")
    status, said = await run(INFERMESH_TLS_CA=str(tmp_path / "none.pem"))
    assert status == 1
    assert "none.pem" in said


async def test_an_outside_caller_asks_over_tls(door: Door) -> None:
    """The same calls as in plain text, which ends UNAVAILABLE here."""

    def ask(tls: ClientTls | None) -> bool:
        with OutsideCaller(door.target, timeout_s=5, tls=tls) as caller:
            return caller.is_ready()

    assert await asyncio.to_thread(ask, door.tls)
    with pytest.raises(Unavailable):
        await asyncio.to_thread(ask, None)


def test_no_variables_are_plain_text() -> None:
    """TLS is asked for, and never guessed."""
    assert ClientTls.of({}) is None
    assert ClientTls.of({"INFERMESH_TLS_CA": "ca"}) == ClientTls("ca")


async def _command(*words: str, **environ: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words], env=environ)


async def test_commands_ask_over_tls(door: Door, tmp_path: Path) -> None:
    """By options before the command, or by variables; a token goes along as a bearer's."""
    tls = door.tls
    options = ["--tls-ca", tls.ca, "--tls-cert", tls.cert, "--tls-key", tls.key, "--tls-server-name", "gateway.mesh"]

    assert (await _command(*options, "ready", door.target, "--wait", "5")).exit_code == 0
    assert (await _command("ready", door.target, **door.environ)).exit_code == 0
    assert (await _command("ready", door.target)).exit_code == 1
    await _command("--token", "a.b.c", "infer", "m", "x=1", "--target", door.target, **door.environ)
    assert door.service.asked == ["Bearer a.b.c"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tls-ca", "no.pem", "models", "ls"], "no.pem"),
        (["--tls-ca", "no.pem", "ready", "127.0.0.1:1"], "no.pem"),
        (["--tls-cert", "c", "models", "ls"], "both --tls-cert and --tls-key"),
        (["--token", "a.b.c", "models", "ls", "--key", "k"], "one of them is enough"),
    ],
)
async def test_mistakes_are_said(words: list[str], said: str) -> None:
    """A line and status 2, no traceback."""
    result = await _command(*words)

    assert result.exit_code == 2
    assert said in result.output
