"""The generated code under the next major version of protobuf, in an environment of its own."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-protobuf7" / "bin" / "python"
SCRIPT = """
import google.protobuf
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[bytes(16)])
request.parameters["priority"].uint64_param = 1
assert pb.ModelInferRequest.FromString(request.SerializeToString()) == request
assert pb_grpc.GRPCInferenceServiceStub
print(google.protobuf.__version__)
"""


@pytest.mark.long
def test_the_generated_code_works_under_protobuf_7() -> None:
    """Messages and stubs import and round-trip under protobuf 7."""
    assert PYTHON.is_file(), "make verify sets up .venv-protobuf7"

    done = subprocess.run(
        [str(PYTHON), "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7.")


def test_the_generated_code_was_made_for_the_protobuf_that_is_pinned() -> None:
    """The generator's version is at most the runtime's, which is what protobuf's guarantee is about."""
    code = (ROOT / "infermesh" / "protocol" / "open_inference_pb2.py").read_text()
    made_for = next(line for line in code.splitlines() if line.startswith("# Protobuf Python Version")).split(": ")[1]

    runtime = version("protobuf")

    assert Version(made_for) <= Version(runtime)
