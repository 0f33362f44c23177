"""The forms of the artefacts: the model with its metadata, golden values, backgrounds, requests and feature tables.

Everything here writes the same bytes for the same values: no time, no random name, no order of a set.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

from samples.make.covers import write_covers

__all__ = ["Inputs", "Model", "columns_of", "rows_of", "tensors", "write_features", "write_json", "write_tensors"]

# ONNX Runtime 1.14 and later run these; nothing in the samples needs a newer operator.
OPSET, ML_OPSET, IR_VERSION = 18, 3, 8

# The graph computes in FP32 and scikit-learn in FP64.
TOLERANCE = 1e-5

Inputs = dict[str, NDArray[Any]]  # input name → [rows, width], float32 or str, in the model's order


@dataclass(frozen=True)
class Model:
    """One version of one model: the trained estimator, and the files it is written to."""

    name: str
    version: str
    estimator: Any  # takes the inputs side by side, as `columns_of` joins them; `predict` answers with integers

    def answer(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """scikit-learn's answer to these rows, named as the outputs of the graph."""
        rows = columns_of(inputs)
        return {
            "label": self.estimator.predict(rows).astype(np.int64),
            "probabilities": self.estimator.predict_proba(rows),
        }

    def write(
        self,
        folder: Path,
        held_out: Inputs,
        *,
        description: str,
        classes: Sequence[str],
        columns: Mapping[str, Sequence[str]],
        reasons: Mapping[str, Mapping[str, str]] | None = None,
    ) -> int:
        """Writes `models/<name>/<version>/model.onnx` and returns its size in bytes.

        `reasons` are texts by feature: what is said of it where it moved the last class's probability "up" or "down".

        Raises ValueError, and writes nothing, when ONNX Runtime's answer to any held-out row is another label than
        scikit-learn's, or a probability further than 1e-5 from it.
        """
        proto = self._convert(held_out, classes=len(classes))
        proto.doc_string = description
        onnx.helper.set_model_props(
            proto,
            {
                "infermesh.description": description,
                "infermesh.classes": json.dumps(list(classes)),
                **{f"infermesh.columns.{name}": json.dumps(list(names)) for name, names in columns.items()},
                **({} if reasons is None else {"infermesh.reasons": json.dumps(reasons)}),
            },
        )
        onnx.checker.check_model(proto, full_check=True)
        content = proto.SerializeToString(deterministic=True)
        self._compare(content, held_out)
        path = folder / "models" / self.name / self.version / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return len(content)

    def golden(self, inputs: Inputs, request: Inputs | None = None) -> dict[str, Any]:
        """A golden case: inputs as the model takes them, as a client sends them, and scikit-learn's answer."""
        outputs = self.answer(inputs)
        return {
            "version": self.version,
            "inputs": tensors(inputs),
            **({} if request is None else {"request": tensors(request)}),
            "outputs": {tensor.pop("name"): tensor for tensor in tensors(outputs)},
        }

    def _convert(self, like: Inputs, *, classes: int) -> onnx.ModelProto:
        types = [
            (name, (StringTensorType if array.dtype.kind == "U" else FloatTensorType)([None, array.shape[1]]))
            for name, array in like.items()
        ]
        proto = convert_sklearn(
            self.estimator,
            name=self.name,  # else skl2onnx draws one
            initial_types=types,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            options={id(self.estimator): {"zipmap": False}},
        )
        # skl2onnx lists some operator sets twice, and in the order of a Python set: another one from run to run.
        operator_sets = {used.domain: used.version for used in proto.opset_import}
        assert all((used.domain, used.version) in operator_sets.items() for used in proto.opset_import)
        del proto.opset_import[:]
        proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in sorted(operator_sets.items()))
        proto.ir_version = IR_VERSION
        proto.model_version = int(self.version)
        proto.domain = "infermesh.samples"
        write_covers(proto.graph, self.estimator)
        _rename_outputs(proto.graph, ["label", "probabilities"])
        label, probabilities = proto.graph.output
        label.CopyFrom(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["rows"]))
        probabilities.CopyFrom(
            onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["rows", classes])
        )
        for value in proto.graph.input:
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
        return proto

    def _compare(self, content: bytes, inputs: Inputs) -> None:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        feed = {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in inputs.items()}
        label, probabilities = session.run(["label", "probabilities"], feed)
        expected = self.answer(inputs)
        worst = float(np.abs(probabilities - expected["probabilities"]).max())
        if worst > TOLERANCE or not np.array_equal(label, expected["label"]):
            raise ValueError(
                f"{self.name} {self.version}: ONNX Runtime differs from scikit-learn: largest difference of a "
                f"probability {worst:.1e}, allowed {TOLERANCE:.0e}; labels that differ: "
                f"{int((label != expected['label']).sum())} of {len(label)}"
            )


def columns_of(inputs: Inputs) -> NDArray[Any]:
    """The inputs side by side, as the estimators take them; of dtype object as soon as one input holds strings.

    Numbers are float32 values in float64: the rows are exactly the ones that the graph sees, and fitting is done in
    double precision.
    """
    strings = any(array.dtype.kind == "U" for array in inputs.values())
    return np.hstack([array.astype(object if strings else np.float64) for array in inputs.values()])


def rows_of(inputs: Inputs, rows: Any) -> Inputs:
    """The same inputs with the given rows only: indices, a mask or a slice; never a single number."""
    return {name: array[rows] for name, array in inputs.items()}


def tensors(arrays: Inputs) -> list[dict[str, Any]]:
    """Tensors in the form of OIP's JSON; floats are the shortest decimals that give the same FP32 back."""
    listed = []
    for name, array in arrays.items():
        kind = array.dtype.kind
        datatype = {"U": "BYTES", "f": "FP32", "i": "INT64"}[kind]
        data = [_shortest(value) for value in array.ravel()] if kind == "f" else array.ravel().tolist()
        listed.append({"name": name, "datatype": datatype, "shape": list(array.shape), "data": data})
    return listed


def write_tensors(path: Path, inputs: Inputs) -> None:
    """Writes `{"inputs": [...]}`: a background or an example request."""
    write_json(path, {"inputs": tensors(inputs)})


def write_features(
    path: Path,
    entity: str,
    ids: Sequence[str],
    columns: Sequence[str],
    values: NDArray[Any],
    texts: Mapping[str, NDArray[np.str_]] | None = None,
) -> None:
    """Writes a feature table: a header, then per entity its id, its values, which read back as the same FP32, and its texts."""
    named = dict(texts or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([entity, *columns, *named])
        for key, row, *words in zip(ids, values, *named.values(), strict=True):
            table.writerow([key, *map(_shortest, row), *words])


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that is read and compared by eye: indented, but a list of plain values stays on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_laid_out(value, "") + "\n", encoding="utf-8")


def _shortest(value: Any) -> float:
    return float(str(np.float32(value)))


def _laid_out(value: Any, margin: str) -> str:
    deeper = margin + "  "
    if isinstance(value, dict):
        lines = [f"{deeper}{json.dumps(key)}: {_laid_out(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(deeper + _laid_out(item, deeper) for item in value) + f"\n{margin}]"
    return json.dumps(value, ensure_ascii=False)


def _rename_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Renames the graph's outputs where they are produced and read: an Identity node per output would cost a copy."""
    renamed = dict(zip((output.name for output in graph.output), names, strict=True))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
