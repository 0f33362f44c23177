"""What a stored row is made of: its columns, the values that they take, and the fingerprint that tells schemas apart."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "CODES",
    "DATATYPES",
    "INT64",
    "MAX_TEXT_BYTES",
    "TEXT",
    "Column",
    "Value",
    "fingerprint",
    "flat",
    "unfit",
    "zero",
]

TEXT = "BYTES"
MAX_TEXT_BYTES = (
    1 << 20
)  # a feature describes something; what is longer is a document, and would hold up all other lookups
MAX_ELEMENTS = 1 << 20  # of one vector

CODES = {  # as `struct` names them
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "BOOL": "?",
}
DATATYPES = (*CODES, TEXT)
INT64 = range(-(2**63), 2**63)

_INTEGERS = {
    name: range(-(1 << bits - 1), 1 << bits - 1) if name.startswith("I") else range(1 << bits)
    for name, code in CODES.items()
    if "INT" in name
    for bits in [8 * struct.calcsize("<" + code)]
}

Value = float | int | bool | str | bytes | Sequence[Any] | None


class Column(NamedTuple):
    """One feature as a row holds it. A shape makes it a vector or a matrix; features of one group have one event time."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    group: str = ""

    @property
    def elements(self) -> int:
        """Values that stand in a row for it."""
        return math.prod(self.shape)

    @property
    def code(self) -> str:
        """Its fixed part, as `struct` says it. That of a text is where it begins in the row, and its length."""
        return "II" if self.datatype == TEXT else f"{self.elements}{CODES[self.datatype]}"

    def check(self) -> None:
        """Raise ValueError for a column that no row can have."""
        if self.datatype not in DATATYPES:
            raise ValueError(f'feature "{self.name}": expected one of {", ".join(DATATYPES)}, got "{self.datatype}"')
        if self.datatype == TEXT and self.shape:
            raise ValueError(f'feature "{self.name}": a vector of {TEXT} is not stored')
        if any(size < 1 for size in self.shape) or self.elements > MAX_ELEMENTS:
            raise ValueError(
                f'feature "{self.name}": expected a shape of 1 to {MAX_ELEMENTS} elements, got {list(self.shape)}'
            )


def fingerprint(columns: Iterable[Column]) -> int:
    """The first four bytes, read little-endian, of SHA-256 over a line `<name> <datatype>\\n` for each column in order.

    A shape follows the datatype as `[4,8]`; a group comes last, as ` @name`.
    """
    digest = hashlib.sha256()
    for name, datatype, shape, group in columns:
        sizes = f"[{','.join(map(str, shape))}]" if shape else ""
        digest.update(f"{name} {datatype}{sizes}{f' @{group}' if group else ''}\n".encode())
    return int.from_bytes(digest.digest()[:4], "little")


def unfit(value: object, datatype: str, shape: Sequence[int] = ()) -> str | None:
    """What is wrong with a value for a datatype; None when it fits. Floats take integers, nothing else is converted."""
    if shape:
        elements = flat(value, shape)
        if elements is None:
            return f"expected {datatype} {list(shape)}, got {_shortened(value)}"
        return next((problem for each in elements if (problem := unfit(each, datatype))), None)
    if datatype == TEXT:
        if not isinstance(value, (str, bytes)):
            return f"expected {TEXT}, got {_shortened(value)}"
        try:
            length = len(value.encode() if isinstance(value, str) else value)
        except UnicodeEncodeError:
            return f"expected {TEXT}, got {_shortened(value)}, which UTF-8 can't hold"
        return None if length <= MAX_TEXT_BYTES else f"{length} bytes, more than {MAX_TEXT_BYTES}"
    if datatype == "BOOL":
        return None if isinstance(value, bool) else f"expected BOOL, got {_shortened(value)}"
    whole = _INTEGERS.get(datatype)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"expected {datatype}, got {_shortened(value)}"
    if whole is not None:
        bits = 8 * struct.calcsize("<" + CODES[datatype])
        assert isinstance(value, int)
        # Not `in`: of a subclass of int, such as an enumeration's, a range is searched number by number.
        return (
            None
            if whole.start <= value < whole.stop
            else f"expected {datatype}, got {value!r}, which {bits} bits can't hold"
        )
    try:
        struct.pack("<" + CODES[datatype], value)
    except (OverflowError, struct.error):
        return f"expected {datatype}, got {value!r}, which is out of its range"
    return None


def flat(value: object, shape: Sequence[int]) -> list[Any] | None:
    """The elements of a nested sequence (or numpy array) of this shape, row by row; None when it has another."""
    if not shape:
        return [value]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or len(value) != shape[0]:
        return None
    if len(shape) == 1:
        return list(value)
    elements: list[Any] = []
    for each in value:
        below = flat(each, shape[1:])
        if below is None:
            return None
        elements += below
    return elements


def zero(column: Column) -> Value:
    """The value whose bytes are zero; of a text, the empty one."""
    if column.datatype == TEXT:
        return b""
    one: Value = False if column.datatype == "BOOL" else 0
    for size in reversed(column.shape):
        one = [one] * size
    return one


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
