"""The last answers of a model, for when it can give none."""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from math import prod
from typing import NamedTuple

from infermesh.call import Call
from infermesh.parameters import GENERATION, PICKED_BY, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from services.gateway.fallback_config import CachedConfig
from services.gateway.sticky import MAX_KEY_BYTES, StickyKey

__all__ = ["AnswerCache"]

ENTRY_BYTES = 400  # what an entry costs besides its answer: key, tuple, and its place in the dictionary
MAX_VERSIONS = 4096  # of models that share a route: what answers of more have to say is not given
MAX_NAME = 256  # characters of a model's name: what is kept by longer ones would be memory without a bound


class _Kept(NamedTuple):
    at: float
    variant: str
    version: str
    data: bytes


class AnswerCache:
    """Keeps answers as bytes, by a digest of the question; `answer` gives back those that are young enough.

    A tenant gets none of another's. `sticky` None: the whole request is the question, every byte of it but the id. With a sticky
    key the question is that key, in full, and everything of the request but the values of its inputs; only a request for one
    entity has one: a single row, one id in the input `entity`, and a key that is not cut. An answer is given while the version
    that gave it is the one that its variant was last seen to answer with: after an update, or a step back, nobody gets what the
    version before had said. What is for one caller's eyes (generation, what picked the variant) is not kept.
    """

    name = "cached"

    def __init__(
        self,
        config: CachedConfig,
        sticky: StickyKey | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        entity: str = "",
    ) -> None:
        self._config = config
        self._sticky = sticky if config.by == "sticky" else None
        self._entity = entity
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._versions: OrderedDict[tuple[str, str], str] = OrderedDict()  # of the last answers, by model and variant
        self.held_bytes = 0

    def remember(self, request: ModelInferRequest, call: Call, response: ModelInferResponse) -> None:
        """Keep the answer, in the place of an older one to the same question."""
        variant = response.parameters[VARIANT].string_param if VARIANT in response.parameters else ""
        by, version = (request.model_name, variant), response.model_version
        if len(request.model_name) > MAX_NAME:
            return
        self._versions[by] = version
        self._versions.move_to_end(by)
        if len(self._versions) > MAX_VERSIONS:
            self._versions.popitem(last=False)
        key = self._key(request, call)
        if key is None or response.ByteSize() > self._config.max_entry:
            return
        self._forget(key)
        data = _for_all(response).SerializeToString()
        self._kept[key] = _Kept(self._clock(), variant, version, data)
        self.held_bytes += len(data) + ENTRY_BYTES
        while self.held_bytes > self._config.max_bytes and self._kept:
            self._forget(next(iter(self._kept)))

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        key = self._key(request, call)
        kept = self._kept.get(key) if key is not None else None
        if key is None or kept is None:
            return None
        latest = self._versions.get((request.model_name, kept.variant))
        if self._clock() - kept.at > self._config.max_age or latest != kept.version:
            self._forget(key)
            return None
        response = ModelInferResponse.FromString(kept.data)
        response.id = request.id
        return response

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"cached by {self._config.by}"

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.held_bytes -= len(kept.data) + ENTRY_BYTES

    def _key(self, request: ModelInferRequest, call: Call) -> bytes | None:
        if request.ByteSize() > self._config.max_entry:
            return None
        digest = blake2b(digest_size=32)  # as wide as SHA-256: nobody can make up a request with another one's key
        _add(digest, call.caller.tenant.encode("utf-8", "backslashreplace"))
        if self._sticky is None:
            _add(digest, _without_id(request))
            return digest.digest()
        if not _is_of_one(request, self._entity):
            return None
        key = self._sticky.of(request, call)
        if not key or len(key) >= MAX_KEY_BYTES:  # the longest ones are cut, and another entity's may begin alike
            return None
        _add(digest, key)
        _add(digest, _form(request))
        return digest.digest()


def _add(digest: blake2b, part: bytes) -> None:
    digest.update(struct.pack("<Q", len(part)))  # else the end of one part could be the beginning of the next
    digest.update(part)


def _for_all(response: ModelInferResponse) -> ModelInferResponse:
    """The answer without what only a caller who may debug is told; a copy, where there is such."""
    if GENERATION not in response.parameters and PICKED_BY not in response.parameters:
        return response
    kept = ModelInferResponse()
    kept.CopyFrom(response)
    for name in (GENERATION, PICKED_BY):
        kept.parameters.pop(name, None)
    return kept


def _is_of_one(request: ModelInferRequest, entity: str) -> bool:
    """Whether it asks about one entity: no input has more rows than one, and the id stands alone in its input."""
    return all(
        (not each.shape or each.shape[0] == 1) and (each.name != entity or prod(each.shape) == 1)
        for each in request.inputs
    )


def _form(request: ModelInferRequest) -> bytes:
    """All of the request but its id and the values of its inputs: whatever the form and the meaning of the answer depend on."""
    form = ModelInferRequest(model_name=request.model_name, model_version=request.model_version)
    for name, value in request.parameters.items():
        form.parameters[name].CopyFrom(value)
    for each in request.inputs:
        tensor = form.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        for name, value in each.parameters.items():
            tensor.parameters[name].CopyFrom(value)
    form.outputs.extend(request.outputs)
    form.id = "raw" if request.raw_input_contents else "typed"
    return form.SerializeToString(deterministic=True)


def _without_id(request: ModelInferRequest) -> bytes:
    kept = request.id
    try:
        request.id = ""  # given back before anybody else can look: there is no await in between
        return request.SerializeToString(deterministic=True)
    finally:
        request.id = kept
