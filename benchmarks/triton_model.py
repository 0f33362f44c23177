"""Triton's Python backend serving an ONNX file: `model.py` of the repository that `triton_server` makes.

As Triton's guide has it: a `TritonPythonModel` whose `execute` gets the requests that are waiting. One run for each; with a
dynamic batcher in the configuration their rows are joined, and one run answers all.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import accumulate

sys.path.insert(0, os.environ["PYTHONPATH"])  # which the backend's Python does not read: it is an isolated one

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The file that the parameter `file` names."""

    def initialize(self, args) -> None:
        config = json.loads(args["model_config"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        file = config["parameters"]["file"]["string_value"]
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._joins = "dynamic_batching" in config

    def execute(self, requests):
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        answers = self._joined(feeds) if self._joins else [self._session.run(self._outputs, feed) for feed in feeds]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(n, v) for n, v in zip(self._outputs, values, strict=True)])
            for values in answers
        ]

    def _joined(self, feeds):
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        parts = [np.split(value, [*accumulate(rows)][:-1]) for value in self._session.run(self._outputs, together)]
        return zip(*parts, strict=True)
