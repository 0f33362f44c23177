"""What a user of KServe's InferenceGRPCClient does, against `host:port`; prints one JSON line with the checks that failed.

    python kserve_calls.py HOST:PORT KEY GOLDEN

GOLDEN is the folder `samples/golden`: what scikit-learn answers.

Runs in an environment of its own: KServe's stubs register the same message names as the project's.
"""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

TARGET, KEY = sys.argv[1:3]
GOLDEN = Path(sys.argv[3])
DTYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}
HEADERS = (("x-api-key", KEY),)
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def as_array(tensor):
    return np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def iris(case, request_id="", binary=True):
    inputs = []
    for each in case["inputs"]:
        inputs.append(InferInput(each["name"], each["shape"], each["datatype"]))
        inputs[-1].set_data_from_numpy(as_array(each), binary_data=binary)
    return InferRequest("iris", inputs, request_id=request_id, model_version=case["version"])


def cases():
    return json.loads((GOLDEN / "iris.json").read_text())["cases"]


@check
async def health(client):
    assert await client.is_server_live(headers=HEADERS)
    assert await client.is_server_ready(headers=HEADERS)
    assert await client.is_model_ready("iris", headers=HEADERS)


@check
async def golden_values(client):
    for binary in (True, False):
        for case in cases():
            result = await client.infer(iris(case, "r", binary), headers=HEADERS)
            assert result.id == "r"
            outputs = {each.name: each.as_numpy() for each in result.outputs}
            assert outputs["label"].tolist() == case["outputs"]["label"]["data"]
            np.testing.assert_allclose(
                outputs["probabilities"], as_array(case["outputs"]["probabilities"]), rtol=0, atol=1e-5
            )


@check
async def many_at_once(client):
    case = cases()[0]
    results = await asyncio.gather(*(client.infer(iris(case, str(n)), headers=HEADERS) for n in range(50)))
    assert [each.id for each in results] == [str(n) for n in range(50)]


@check
async def errors(client):
    request = iris(cases()[0])
    request.model_name = "no-such-model"
    try:
        await client.infer(request, headers=HEADERS)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error
        assert "no-such-model" in error.details()
    else:
        raise AssertionError("served")


async def main():
    failed = []
    async with InferenceGRPCClient(TARGET, timeout=20) as client:
        for function in CHECKS:
            try:
                await function(client)
            except Exception as error:
                failed.append(f"{function.__name__}: {error!r}")
    print(json.dumps({"checks": len(CHECKS), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
