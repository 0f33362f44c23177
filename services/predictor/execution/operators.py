"""Which operators a model file has.

The file is protobuf (https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto). The few fields that matter here are read
one by one and everything else is skipped by its length, weights too, so that the size of a file costs nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["MalformedModel", "operators_of"]

MOST_NODES = 5000  # of a model that could be tiny: each takes a microsecond to run, and some more to be read here
MOST_NAME_BYTES = 256

_GRAPH, _FUNCTIONS = 7, 25  # of ModelProto
_NODE = 1  # of GraphProto
_OP_TYPE, _DOMAIN = 4, 7  # of NodeProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) are in no ONNX file
_MOST_VARINT_BYTES = 10
_MOST_TAG = 2**32


class MalformedModel(ValueError):
    """The file is no ONNX model, or not one that is written as ONNX files are."""


def operators_of(path: Path) -> set[tuple[str, str]] | None:
    """Domain and name of the operators in the main graph, without subgraphs; None: the model has functions of its own, or more
    than `MOST_NODES` operators. Raises MalformedModel, and OSError. Blocks, for some milliseconds."""
    operators: set[tuple[str, str]] = set()
    nodes = 0
    with path.open("rb") as file:
        reader = _Reader(file)
        while reader.at < reader.size:
            field, end = reader.field(reader.size)
            if field == _FUNCTIONS:
                return None
            if field != _GRAPH:
                reader.skip_to(end)
                continue
            while reader.at < end:
                inner, node_end = reader.field(end)
                if inner != _NODE:
                    reader.skip_to(node_end)
                    continue
                nodes += 1
                if nodes > MOST_NODES:
                    return None
                operators.update(_of_node(reader, node_end))
    return operators


def _of_node(reader: _Reader, end: int) -> set[tuple[str, str]]:
    """One pair, or all that may be meant where a field stands more than once."""
    names, domains = set(), set()
    while reader.at < end:
        field, value_end = reader.field(end)
        if field == _OP_TYPE:
            names.add(reader.text(value_end))
        elif field == _DOMAIN:
            domains.add(reader.text(value_end))
        else:
            reader.skip_to(value_end)
    return {(domain, name) for name in names or {""} for domain in domains or {""}}


class _Reader:
    """Fields of a message, one after the other; `at` is where the next one begins, or the value of the one that was just read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0

    def field(self, end: int) -> tuple[int, int]:
        """Number of the next field and where its value ends; 0 for one that has no bytes of its own to look into."""
        tag = self._varint()
        if tag < 8 or tag >= _MOST_TAG:
            raise MalformedModel("a field has no number")
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            length = self._varint()
            value_end = self.at + length
        elif wire_type == _VARINT:
            self._varint()
            number, value_end = 0, self.at
        elif wire_type in (_FIXED32, _FIXED64):
            number, value_end = 0, self.at + (4 if wire_type == _FIXED32 else 8)
        else:
            raise MalformedModel(f"wire type {wire_type}")
        if value_end > end:
            raise MalformedModel("a field is longer than what it stands in")
        return number, value_end

    def text(self, end: int) -> str:
        """The value of a string field."""
        length = end - self.at
        if length > MOST_NAME_BYTES:
            raise MalformedModel("an operator's name is too long")
        content = self._file.read(length)
        if len(content) != length:
            raise MalformedModel("the file is cut")
        self.at = end
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise MalformedModel("an operator's name is no text") from None

    def skip_to(self, end: int) -> None:
        """To the end of a value."""
        if end != self.at:
            self._file.seek(end)
            self.at = end

    def _varint(self) -> int:
        value = 0
        for place in range(_MOST_VARINT_BYTES):
            byte = self._file.read(1)
            if not byte:
                raise MalformedModel("the file is cut")
            self.at += 1
            value |= (byte[0] & 0x7F) << 7 * place
            if byte[0] < 0x80:
                return value
        raise MalformedModel("a number is too long")
