"""Calls that can be pasted: the command line, grpcurl, and a Python client of ten lines."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET

__all__ = ["command_lines", "grpcurl_line", "pasteable", "python_client"]

IRIS = [5.9, 3.0, 5.1, 1.8]


def command_lines(target: str, key: str) -> list[str]:
    """Calls by this program, as it can be called from the present folder."""
    program = "infermesh" if shutil.which("infermesh") else _here(Path(sys.argv[0]))
    at = "" if target == DEFAULT_TARGET else f" --target {target}"
    tail = f" --key {shlex.quote(key)}{at}"
    values = "card_id=c-0042 amount=349 merchant_category=electronics hour=2.5 country=DE"
    applicant = "customer_id=u-0398 amount=12000 term_months=36 purpose=debt_consolidation"
    return [
        f"{program} infer iris features={','.join(map(str, IRIS))}{tail}",
        f"{program} infer breast-cancer patient_id=p-0489{tail}",
        f"{program} infer fraud-detector {values}{tail}",
        f"{program} infer fraud-detector {values} --explain{tail}",
        f"{program} explain credit-score {applicant} --classes defaulted --reasons 4{tail}",
    ]


def grpcurl_line(target: str, key: str) -> str:
    """The same by grpcurl, which needs no .proto file: the services have reflection."""
    tensor = f'{{"name":"features","datatype":"FP32","shape":[1,4],"contents":{{"fp32_contents":{IRIS}}}}}'
    message = f'{{"model_name":"iris","inputs":[{tensor}]}}'
    return (
        f"grpcurl -plaintext -H {shlex.quote(f'x-api-key: {key}')} -d '{message}' "
        f"{target} inference.GRPCInferenceService/ModelInfer"
    )


def python_client(target: str, key: str) -> str:
    """A program that asks for one prediction."""
    return f"""\
import grpc
from infermesh.protocol import open_inference_pb2 as pb, open_inference_pb2_grpc as oip

stub = oip.GRPCInferenceServiceStub(grpc.insecure_channel({json.dumps(target)}))
request = pb.ModelInferRequest(model_name="iris")
features = request.inputs.add(name="features", datatype="FP32", shape=[1, 4])
features.contents.fp32_contents.extend({IRIS})
answer = stub.ModelInfer(request, metadata=[("x-api-key", {json.dumps(key)})], timeout=5)
for output in answer.outputs:
    print(output)
"""


def pasteable(target: str, key: str) -> RenderableType:
    """All of them. To be printed with `soft_wrap`: a line that is cut can't be pasted."""
    parts: list[RenderableType] = [Text("the command line", "bold")]
    parts += [Text(f"  {line}", "green") for line in command_lines(target, key)]
    parts += [Text(), Text("grpcurl", "bold"), Text(f"  {grpcurl_line(target, key)}", "green")]
    code = Syntax("", "python", theme="ansi_dark").highlight(python_client(target, key))
    parts += [Text(), Text("Python", "bold"), code]
    return Group(*parts)


def _here(program: Path) -> str:
    """How the present program is called again."""
    if program.suffix == ".py":
        return "python -m infermesh.cli.main"
    try:
        return f"./{program.resolve().relative_to(Path.cwd())}"
    except ValueError:
        return str(program)
