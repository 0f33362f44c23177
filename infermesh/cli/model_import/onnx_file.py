"""ONNX files: nothing to convert, so they are checked and copied as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.needs import library
from infermesh.cli.model_import.original import NotConvertible
from infermesh.cli.model_import.place import MODEL_FILE
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.run import feed_of, session_of

__all__ = ["check_onnx"]


def check_onnx(file: Path, rows: Rows | None) -> dict[str, bytes | Path]:
    """The files of the version: the model, and the external data that it names. With rows, it has to answer them.

    Raises Failure when ONNX's checker or ONNX Runtime refuses the model, when external data is missing or lies outside the
    model's folder, or when an input or output has a type that the protocol does not carry.
    """
    from services.predictor.execution.onnx_types import DATATYPE_OF

    onnx = library("onnx")
    protobuf = library("google.protobuf.message")
    try:
        proto = onnx.load(str(file), load_external_data=False)
        if not proto.graph.node and not proto.graph.output:
            raise Failure(f"{file}: no ONNX model: it has no graph")
    except (protobuf.DecodeError, OSError) as error:
        raise Failure(f"{file}: no ONNX model: {' '.join(str(error).split())[:300]}") from None
    files: dict[str, bytes | Path] = {MODEL_FILE: file, **_external(file, proto)}
    try:
        onnx.checker.check_model(str(file))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise Failure(f"{file}: ONNX's checker refuses it: {' '.join(str(error).split())[:400]}") from None
    try:
        session = session_of(file)
        for node in (*session.get_inputs(), *session.get_outputs()):
            if node.type not in DATATYPE_OF:
                raise Failure(
                    f"{file}: {node.name} is a {node.type}, which the protocol does not carry: expected tensors",
                    hint="skl2onnx: convert with options={'zipmap': False}" if node.type.startswith("seq(map") else "",
                )
        if rows is not None:
            _answer(file, session, rows)
    except NotConvertible as error:
        raise Failure(f"{file}: {error}") from None
    return files


def _answer(file: Path, session: Any, rows: Rows) -> None:
    feed = feed_of(rows, session.get_inputs())
    try:
        session.run(None, feed)
    except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
        raise Failure(f"{file}: ONNX Runtime fails on the rows: {' '.join(str(error).split())[:400]}") from None


def _external(file: Path, proto: Any) -> dict[str, bytes | Path]:
    """Files with weights, by their path from the model, which is how it names them."""
    found: dict[str, bytes | Path] = {}
    folder = file.parent.resolve()
    helper = library("onnx.external_data_helper")
    for tensor in _tensors(proto.graph):
        if not helper.uses_external_data(tensor):
            continue
        location = helper.ExternalDataInfo(tensor).location
        path = (folder / location).resolve()
        if not path.is_relative_to(folder) or Path(location).is_absolute() or location == MODEL_FILE:
            raise Failure(f"{file}: its external data {location!r} lies outside its folder")
        if not path.is_file():
            raise Failure(f"{file}: its external data {location!r} is missing", hint=f"it is to lie in {folder}")
        found[location] = path
    return found


def _tensors(graph: Any) -> Iterator[Any]:
    """The weights of a graph and of those inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
