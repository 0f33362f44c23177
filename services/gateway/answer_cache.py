"""The last answers of a model, for when it can give none."""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from services.gateway.fallback_config import CachedConfig
from services.gateway.sticky import StickyKey

__all__ = ["AnswerCache"]

ENTRY_BYTES = 400  # what an entry costs besides its answer: key, tuple, and its place in the dictionary


class AnswerCache:
    """Keeps answers as bytes, by a digest of the question; `answer` gives back those that are young enough.

    A tenant gets none of another's. `sticky` None: the whole request is the question.
    """

    name = "cached"

    def __init__(
        self, config: CachedConfig, sticky: StickyKey | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._sticky = sticky if config.by == "sticky" else None
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.held_bytes = 0

    def remember(self, request: ModelInferRequest, call: Call, response: ModelInferResponse) -> None:
        """Keep the answer, in the place of an older one to the same question."""
        key = self._key(request, call)
        if key is None or response.ByteSize() > self._config.max_entry:
            return
        self._forget(key)
        data = response.SerializeToString()
        self._kept[key] = (self._clock(), data)
        self.held_bytes += len(data) + ENTRY_BYTES
        while self.held_bytes > self._config.max_bytes and self._kept:
            self._forget(next(iter(self._kept)))

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        key = self._key(request, call)
        kept = self._kept.get(key) if key is not None else None
        if key is None or kept is None:
            return None
        at, data = kept
        if self._clock() - at > self._config.max_age:
            self._forget(key)
            return None
        response = ModelInferResponse.FromString(data)
        response.id = request.id
        return response

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"cached by {self._config.by}"

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.held_bytes -= len(kept[1]) + ENTRY_BYTES

    def _key(self, request: ModelInferRequest, call: Call) -> bytes | None:
        if request.ByteSize() > self._config.max_entry:
            return None
        digest = blake2b(digest_size=16)
        tenant = call.caller.tenant.encode("utf-8", "backslashreplace")
        digest.update(struct.pack("<I", len(tenant)) + tenant)
        if self._sticky is not None:
            key = self._sticky.of(request, call)
            if not key:
                return None
            digest.update(struct.pack("<I", len(key)) + key)
            digest.update(_form(request))
        else:
            digest.update(_without_id(request))
        return digest.digest()


def _form(request: ModelInferRequest) -> bytes:
    """Whatever the form of the answer depends on: a batch of another size is another question."""
    inputs = [(each.name, each.datatype, list(each.shape)) for each in request.inputs]
    outputs = [each.name for each in request.outputs]
    return repr((request.model_name, inputs, outputs, bool(request.raw_input_contents))).encode(
        "utf-8", "backslashreplace"
    )


def _without_id(request: ModelInferRequest) -> bytes:
    kept = request.id
    try:
        request.id = ""  # given back before anybody else can look: there is no await in between
        return request.SerializeToString(deterministic=True)
    finally:
        request.id = kept
