"""A peer: shap's PermutationExplainer and KernelExplainer round a model behind gRPC. Runs in an environment of its own,
`.venv-shap`; only shap, numpy, grpc, the generated protocol and the standard library are imported.

Reads rows and background, texts as codes, from the npz file that is named, and which column of which input is what from the JSON
beside it. The model is asked as a user would: one ModelInfer for each batch that shap hands over. For each line of its input,
`METHOD SEED ROWS`, explains so many rows at shap's defaults, writes the attributions to the file beside it and says in JSON how
long it took and how many calls and rows. Methods: `permutation`, `kernel`, and `kernel-all`, which is KernelExplainer without its
selection of 10 features.
"""

import json
import logging
import struct
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import shap

from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub

MAX_MESSAGE = 2**30


class Model:
    """The probability of the explained class, for rows of codes."""

    def __init__(self, told: dict) -> None:
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        self._stub = GRPCInferenceServiceStub(grpc.insecure_channel(told["target"], options))
        self._told = told
        self._framed = {
            name: [struct.pack("<I", len(text.encode())) + text.encode() for text in texts]
            for name, texts in told["texts"].items()
        }
        self.calls = self.rows = 0

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        told, at = self._told, 0
        request = ModelInferRequest(model_name=told["model"], model_version=told["version"])
        for name, datatype, width in told["inputs"]:
            columns = codes[:, at : at + width]
            at += width
            request.inputs.add(name=name, datatype=datatype, shape=[len(codes), width])
            if datatype == "BYTES":
                framed = self._framed[name]
                request.raw_input_contents.append(
                    b"".join([framed[code] for code in columns.astype(int).ravel().tolist()])
                )
            else:
                request.raw_input_contents.append(columns.astype("<f4").tobytes())
        request.outputs.add(name=told["output"])
        answer = self._stub.ModelInfer(request)
        self.calls += 1
        self.rows += len(codes)
        scores = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(len(codes), -1)
        return scores[:, told["column"]].astype(np.float64)


def explain(model: Model, method: str, seed: int, rows: np.ndarray, background: np.ndarray) -> np.ndarray:
    if method == "permutation":
        masker = shap.maskers.Independent(background, max_samples=len(background))
        return shap.PermutationExplainer(model, masker, seed=seed)(rows, silent=True).values
    np.random.seed(seed)  # KernelExplainer draws from the global one
    explainer = shap.KernelExplainer(model, background)
    selection = {} if method == "kernel" else {"l1_reg": False}
    return explainer.shap_values(rows, silent=True, **selection)


def main(path: str) -> None:
    logging.getLogger("shap").setLevel(logging.ERROR)
    held, told = np.load(path), json.loads(Path(path).with_suffix(".json").read_text())
    rows, background = held["rows"], held["background"]
    print(shap.__version__, flush=True)
    for line in sys.stdin:
        method, seed, count = line.split()
        model = Model(told)
        wall, cpu = time.perf_counter(), time.process_time()
        values = explain(model, method, int(seed), rows[: int(count)], background)
        took = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        np.save(Path(path).with_suffix(".values.npy"), values)
        print(json.dumps(took | {"calls": model.calls, "rows": model.rows}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
