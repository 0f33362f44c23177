"""What models answer on average over a background, remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import Array
from services.explainer.background import Background
from services.explainer.estimate import Floats

__all__ = ["BaseValues", "Remembered", "digest"]

ENTRIES = 256
MAX_VALUES = 2**16  # of an entry: 512 KiB; a wider output is asked for anew

Key = tuple[str, str, str, bytes]  # model, version, output, digest of background and parameters


@dataclass(frozen=True)
class Remembered:
    """The mean over a background [columns], and the answers to some of its rows [probes, columns].

    A version that is loaded anew under its number keeps its name, and nothing in the protocol tells it from the old one. So a few
    background rows are asked about again with every explanation: the mean is used while their answers are the same.
    """

    mean: Floats
    probes: Floats

    def holds(self, probes: Floats) -> bool:
        """Whether the model still answers the same; the last digit of an FP32 may depend on what else is in its batch."""
        return self.probes.shape == probes.shape and bool(np.allclose(self.probes, probes, rtol=1e-6, atol=1e-9))


class BaseValues:
    """The most recently used ones, by model, version, output, background and the parameters that the model is sent."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._known: OrderedDict[Key, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: Key) -> Remembered | None:
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def keep(self, key: Key, mean: Floats, probes: Floats) -> None:
        """Instead of what was kept before; the oldest one goes when there are too many."""
        self._known.pop(key, None)
        if mean.size + probes.size <= MAX_VALUES:
            self._known[key] = Remembered(mean.copy(), probes.copy())
            if len(self._known) > self._entries:
                self._known.popitem(last=False)


def digest(background: Background, parameters: Mapping[str, pb.InferParameter]) -> bytes:
    """Of everything about a question that is not its rows: equal ones are answered alike."""
    sum_ = blake2b(digest_size=16)
    for name in sorted(background.arrays):
        array = background.arrays[name]
        for part in _parts(name, array):
            sum_.update(len(part).to_bytes(8, "little"))
            sum_.update(part)
    sum_.update(background.weights.tobytes())
    for key in sorted(parameters):
        sum_.update(key.encode() + b"\0" + parameters[key].SerializeToString(deterministic=True) + b"\0")
    return sum_.digest()


def _parts(name: str, array: Array) -> Iterable[bytes]:
    yield name.encode()
    yield repr((array.shape, array.dtype.str)).encode()
    if array.dtype == np.object_:
        yield from array.ravel().tolist()
    else:
        yield np.ascontiguousarray(array).tobytes()
