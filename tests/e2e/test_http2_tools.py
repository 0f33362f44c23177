"""The tools of nghttp2 as callers, which speak an HTTP/2 that is not gRPC's. They come with a system, not with pip."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e_door import KEY, golden, request_of

from infermesh.cli.processes import Mesh
from infermesh.cli.scrape import scrape
from infermesh.transport.asgi.wire import frame

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = ("te: trailers", "content-type: application/grpc", f"x-api-key: {KEY}")
CALLS = 2000
WITHIN_S = 60.0


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"this system has no {tool}")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answered(mesh: Mesh) -> float:
    """The calls of iris that the predictor has answered."""
    samples = scrape(mesh.http_address("predictor"))
    assert samples is not None
    return samples.total("infermesh_requests_total", model="iris", code="OK")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A file with a request, framed as gRPC frames it."""
    case = golden("iris")[-1]
    file = tmp_path / "body"
    file.write_bytes(frame(request_of("iris", case["inputs"], case["version"]).SerializeToString()))
    return file


@needs("h2load")
def test_h2load_is_served(mesh: Mesh, body: Path) -> None:
    """Thousands of calls on four connections, sixteen at a time on each: all are answered. A predictor has no limit of rate."""
    headers = [word for each in HEADERS for word in ("-H", each)]
    url = f"http://{mesh.address('predictor')}{PATH}"

    before = answered(mesh)
    told = run("h2load", "-n", str(CALLS), "-c", "4", "-m", "16", "-d", str(body), *headers, url)

    assert f"{CALLS} succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    assert answered(mesh) - before == CALLS  # HTTP's status says nothing of gRPC's


@needs("nghttp")
@pytest.mark.parametrize(("key", "status"), [(KEY, "0"), ("nobody's", "16")])
def test_nghttp_reads_an_answer(mesh: Mesh, body: Path, key: str, status: str) -> None:
    """Headers, the message and trailers; of a refused call a status alone."""
    headers = [word for each in (*HEADERS[:2], f"x-api-key: {key}") for word in ("-H", each)]

    told = run("nghttp", "-v", "-n", "-d", str(body), *headers, f"http://{mesh.address('gateway')}{PATH}")

    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert re.search(r"recv \(stream_id=\d+\) :status: 200", plain), plain
    assert f"grpc-status: {status}" in plain, plain
