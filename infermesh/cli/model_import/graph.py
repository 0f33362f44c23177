"""A converter's graph, made into one that is pleasant to serve: names, shapes, operator sets, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infermesh.cli.model_import.needs import library
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.run import run

__all__ = ["FEATURES", "ROWS", "content_of", "describe", "finish", "per_column", "second_class"]

FEATURES = "features"  # the one input of a model whose columns are all numbers
ROWS = "rows"  # the name of the first dimension of every input and output
DEFAULT_OPSET = 13  # of nodes that are added to a graph of trees alone
IR_VERSION = 8  # ONNX Runtime 1.14 and later read it


def finish(proto: Any, outputs: Sequence[str], rows: Rows) -> None:
    """Name the outputs, and state shapes that are true: converters leave `[1]` or nothing. Changes the graph in place.

    Runs it once on a few rows. Raises ValueError when it has another number of outputs, NotConvertible when it can't run.
    """
    onnx = library("onnx")
    graph = proto.graph
    if len(graph.output) != len(outputs):
        raise ValueError(f"the converted model has {len(graph.output)} outputs, expected {', '.join(outputs)}")
    _rename_outputs(graph, outputs)
    _trees_in_fp32(graph)
    del graph.value_info[:]  # shapes inside are hints for tools, and those of the converters are wrong at times
    # TreeEnsemble nodes with FP64 thresholds are of ai.onnx.ml 3; skl2onnx writes the version that the node's name came with
    doubles = any(map(_has_doubles, graph.node))
    sets = {used.domain: used.version for used in proto.opset_import}
    sets["ai.onnx.ml"] = max(sets.get("ai.onnx.ml", 1), 3 if doubles else 1)
    if any(node.op_type == "Cast" for node in graph.node):
        sets.setdefault("", DEFAULT_OPSET)
    del proto.opset_import[:]  # some are listed twice, in the order of a Python set: another one from run to run
    proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in sorted(sets.items()))
    proto.ir_version = IR_VERSION
    for value in graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = ROWS
    for value in graph.output:
        value.ClearField(
            "type"
        )  # ONNX Runtime finds it: trees answer in FP32, where converters of FP64 graphs say otherwise
    few = rows.first(3)
    for value, array in zip(graph.output, run(content_of(proto), few).values(), strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype != object else onnx.TensorProto.STRING
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, [ROWS, *array.shape[1:]]))


def per_column(proto: Any, names: Sequence[str]) -> None:
    """Replace the input `features` [-1, M] by M inputs [-1, 1], which are joined first. Changes the graph in place."""
    onnx = library("onnx")
    graph = proto.graph
    kind = graph.input[0].type.tensor_type.elem_type
    joined = _free("features_joined", {*_names(graph), *names})
    _rename(graph, {graph.input[0].name: joined})
    inner = {name: _free(f"{name}_inner", {*_names(graph), *names}) for name in names if name in _names(graph)}
    _rename(graph, inner)
    del graph.input[:]
    graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, [ROWS, 1]) for name in names)
    graph.node.insert(0, onnx.helper.make_node("Concat", list(names), [joined], name="join_columns", axis=1))
    _with_default_operators(proto)


def second_class(proto: Any, output: str, column: int) -> None:
    """Leave one column [-1, 1] of an output [-1, 2]: of two classes' scores, scikit-learn answers one, and the converters write
    both in either order. Changes the graph in place."""
    onnx = library("onnx")
    graph = proto.graph
    both = _free(f"{output}_both", _names(graph))
    chosen = _free(f"{output}_column", _names(graph))
    kept = next(value for value in graph.output if value.name == output)
    described = onnx.ValueInfoProto.FromString(kept.SerializeToString())
    _rename(graph, {output: both})
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([column], np.int64), chosen))
    graph.node.append(onnx.helper.make_node("Gather", [both, chosen], [output], axis=1))
    described.type.tensor_type.shape.dim[1].dim_value = 1
    kept.CopyFrom(described)
    _with_default_operators(proto)


def describe(proto: Any, properties: Mapping[str, str], producer: str) -> None:
    """What the model says of itself: the predictor serves it as the metadata's properties. No time: equal imports give
    equal bytes."""
    library("onnx").helper.set_model_props(proto, dict(properties))
    proto.producer_name, proto.producer_version = "infermesh", producer
    proto.doc_string = ""


def content_of(proto: Any) -> bytes:
    """The bytes of the model file; the same for the same model."""
    return bytes(proto.SerializeToString(deterministic=True))


def _with_default_operators(proto: Any) -> None:
    """A graph of trees alone imports the operators of ai.onnx.ml and no others."""
    if not any(used.domain == "" for used in proto.opset_import):
        proto.opset_import.append(library("onnx").helper.make_opsetid("", DEFAULT_OPSET))


def _trees_in_fp32(graph: Any) -> None:
    """What comes in FP64 is rounded to FP32 before trees with FP32 thresholds, as scikit-learn and XGBoost do: compared in FP64 a
    value would go another way than there."""
    onnx = library("onnx")
    for position, node in reversed(list(enumerate(graph.node))):
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        if graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.DOUBLE or _has_doubles(node):
            continue
        rounded = _free(f"{node.input[0]}_fp32", _names(graph))
        graph.node.insert(
            position, onnx.helper.make_node("Cast", [node.input[0]], [rounded], to=onnx.TensorProto.FLOAT, name=rounded)
        )
        graph.node[position + 1].input[0] = rounded


def _has_doubles(node: Any) -> bool:
    return any(attribute.name.endswith("_as_tensor") for attribute in node.attribute)


def _rename_outputs(graph: Any, wanted: Sequence[str]) -> None:
    """Names where they are produced: an Identity node per output would cost a copy of it."""
    current = [output.name for output in graph.output]
    taken = _names(graph) - set(current)
    moved = {name: _free(f"{name}_inner", {*_names(graph), *wanted}) for name in wanted if name in taken}
    _rename(graph, {**moved, **dict(zip(current, wanted, strict=True))})


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """In the graph and in those inside its nodes, everywhere: equal names stay equal, others apart."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():  # GRAPH, GRAPHS
                _rename(inner, names)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _names(graph: Any) -> set[str]:
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found.update(node.input)
        found.update(node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                found |= _names(inner)
    return found


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
