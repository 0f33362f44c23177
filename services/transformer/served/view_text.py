"""The rows of one view as JSON; what is the same in every line of the log is made once."""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Sequence

import numpy as np

from services.transformer.columns import Rows, TextRows
from services.transformer.schema import TEXT, Column
from services.transformer.use import Use

__all__ = ["ViewText", "prefixed"]

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class ViewText:
    """Makes `"<alias>":{…}` of rows that were served.

    A line has a tensor for each feature, and a dictionary for each of them took most of the time of a line; the thread that
    makes lines shares the interpreter with the calls.
    """

    def __init__(self, use: Use) -> None:
        layout = use.policy.format
        position = {column.name: at for at, column in enumerate(layout.schema)}
        view, schema = _encode(use.policy.name), f"{layout.fingerprint:08x}"
        self._begin = f'{_encode(use.alias)}:{{"view":{view},"schema":"{schema}","event_times":{{'.encode("ascii")
        self._times = [(_head(group.name, "INT64"), group.event_time) for group in layout.groups]
        columns = [layout.schema[position[feature]] for feature in use.features]
        heads = [_head(column.name, column.datatype) for column in columns]
        tails = [_tail(column) for column in columns]
        stored = [slice(0) if c.datatype == TEXT else layout.slices[position[c.name]] for c in columns]
        texts = [layout.texts.index(position[c.name]) if c.datatype == TEXT else -1 for c in columns]
        truths = [column.datatype == "BOOL" for column in columns]
        self._features = list(zip(heads, tails, stored, texts, truths, strict=True))

    def of(self, rows: Rows) -> bytes:
        """The text of these rows."""
        held, count = rows.view(np.ndarray), b"%d" % len(rows)
        lone = held.tobytes() if len(held) == 1 else None  # a slice of bytes costs a fraction of one of an array
        times = []
        for head, place in self._times:
            raw = held[:, place].tobytes() if lone is None else lone[place]
            times.append(b"%b%b]}" % (head % b2a_base64(raw, newline=False), count))
        features = []
        for head, tail, place, text, is_truth in self._features:
            if text >= 0:
                assert isinstance(rows, TextRows)
                raw = prefixed(rows.texts[:, text].tolist())
            elif is_truth:
                raw = np.not_equal(held[:, place], 0).tobytes()
            else:
                raw = held[:, place].tobytes() if lone is None else lone[place]
            features.append(b"%b%b%b" % (head % b2a_base64(raw, newline=False), count, tail))
        return b'%b%b},"features":{%b}}' % (self._begin, b",".join(times), b",".join(features))


def prefixed(texts: Sequence[bytes | None]) -> bytes:
    """Texts as OIP's raw contents have them; one that is missing is empty."""
    return b"".join([part for text in texts for part in (len(text or b"").to_bytes(4, "little"), text or b"")])


def _head(name: str, datatype: str) -> bytes:
    """A tensor up to the number of its rows, with a place for its data."""
    name = _encode(name).replace("%", "%%")
    return f'{name}:{{"datatype":"{datatype}","data":"%b","shape":['.encode("ascii")


def _tail(column: Column) -> bytes:
    return "".join([*(f",{size}" for size in column.shape), "]}"]).encode("ascii")
