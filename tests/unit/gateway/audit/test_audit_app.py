"""The audit and the payload log of a gateway as it is built, over a real channel to a server, and of a process."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import yaml

from infermesh.call import Call
from infermesh.config import ConfigError, ServerConfig, TelemetryConfig, load
from infermesh.errors import NotFound, Unauthenticated
from infermesh.payloads import Payloads
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.runtime import Telemetry
from infermesh.service import InferenceService, stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from services.gateway.app import build
from services.gateway.config import GatewayConfig

ROOT = Path(__file__).parents[4]
KEY = {"x-api-key": "k"}


class Backend(InferenceService):
    async def infer(self, request, call):
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="7")
        response.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(0.5)
        return response

    async def ready(self, model="", version=""):
        return True


def write_files(folder, target, **settings):
    """The gateway's files: one caller, one route."""
    key = {"sha256": hashlib.sha256(b"k").hexdigest(), "caller": "demo", "scopes": ["infer"]}
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": [key]}, explicit_end=True))
    (folder / "routes.yaml").write_text(
        yaml.safe_dump({"routes": [{"model": "m", "backend": "one"}]}, explicit_end=True)
    )
    written = {"backends": {"one": {"target": target}}, "routes": "routes.yaml", "auth": {"keys": "keys.yaml"}}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(written | settings))
    return folder / "gateway.yaml"


@asynccontextmanager
async def built(folder, **settings):
    async with AsyncExitStack() as resources:
        server = Server("one", ServerConfig.model_validate({"host": "127.0.0.1", "grpc_port": 0}), inside_mesh=True)
        server.mount(stack(service=Backend()))
        await server.start()
        await server.set_ready(True)
        resources.push_async_callback(server.stop, 0)
        config = load(GatewayConfig, write_files(folder, f"127.0.0.1:{server.port}", **settings), {})
        telemetry = Telemetry(Metrics("gateway"), Tracing("gateway", TelemetryConfig()))
        yield await resources.enter_async_context(build(config, telemetry)), telemetry.metrics


async def test_what_is_off_is_not_there(tmp_path):
    """No filter, no metric and no process: it costs nothing."""
    async with built(tmp_path) as (gateway, metrics):
        names = [type(each).__name__ for each in gateway.filters]
        assert not {"Audited", "Admitted", "PayloadLogged"} & set(names)
        assert "Attempted" not in repr(gateway)
        assert not [each.name for each in metrics.registry.collect() if "audit" in each.name or "payload" in each.name]


async def test_a_built_gateway_writes_both(tmp_path):
    """A call that is answered, one without a key, one for a model without a route; both files are whole when it has stopped."""
    settings = {
        "audit": {"mode": "file", "file": "audit.jsonl"},
        "payload_log": {"mode": "file", "folder": ".", "share": 1},
    }
    async with built(tmp_path, **settings) as (gateway, metrics):
        await gateway.infer(pb.ModelInferRequest(model_name="m"), Call(metadata=KEY, request_id="r1"))
        with pytest.raises(Unauthenticated):
            await gateway.infer(pb.ModelInferRequest(model_name="m"), Call(request_id="r2"))
        with pytest.raises(NotFound):
            await gateway.infer(pb.ModelInferRequest(model_name="none"), Call(metadata=KEY, request_id="r3"))

    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["request_id"], line["caller"], line["code"]) for line in lines] == [
        ("r1", "demo", "OK"),
        ("r2", "", "UNAUTHENTICATED"),
        ("r3", "demo", "NOT_FOUND"),
    ]
    answered = lines[0]
    assert (answered["answered"], answered["version"], answered["variant"]) == ("m", "7", "default")
    ((attempt,), times) = (answered["attempts"], answered["ms"])
    assert (attempt["backend"], attempt["code"]) == ("one", "OK")
    assert times["admission"] + times["backend"] <= times["whole"]
    written = metrics.registry.get_sample_value(
        "infermesh_audit_lines_total", {"service": "gateway", "outcome": "written"}
    )
    assert written == 3
    (record,) = Payloads(tmp_path)
    assert (record.request_id, record.outputs["y"].values()) == ("r1", [0.5])


@pytest.mark.parametrize("file", ["missing/audit.jsonl", "folder"])
async def test_a_file_that_can_not_be_appended_to_is_refused_at_start(tmp_path, file):
    (tmp_path / "folder").mkdir()

    with pytest.raises(ConfigError, match=r"audit\.file: it can't be appended to"):
        async with built(tmp_path, audit={"mode": "file", "file": file}):
            pass


@pytest.mark.parametrize("engine", ["grpcio", "envoy"])
def test_a_process_writes_what_waits_before_it_ends(engine, tmp_path):
    """SIGTERM: 200 refusals have their lines, on standard output and nothing else there, and the exit is clean."""
    server = {"engine": engine, "host": "127.0.0.1", "grpc_port": 0, "http_port": 0, "drain": "0", "grace": "1s"}
    config = write_files(tmp_path, "127.0.0.1:1", server=server, audit={"mode": "stdout"})
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway", "--config", str(config)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            started = (json.loads(line) for line in process.stderr if line.startswith("{"))
            port = next(line["grpc_port"] for line in started if "grpc_port" in line)
            next(line for line in started if line["message"] == "ready")
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = GRPCInferenceServiceStub(channel)
                for _ in range(200):
                    with pytest.raises(grpc.RpcError):
                        stub.ModelInfer(pb.ModelInferRequest(model_name="m"), timeout=10)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()

    assert process.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["code"] for line in lines] == ["UNAUTHENTICATED"] * 200
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") and line["trace_id"] == "" for line in lines)
