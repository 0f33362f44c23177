"""The filter that hands calls to the payload log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

from infermesh.call import Call
from infermesh.parameters import MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.sample import is_sampled
from infermesh.service import Filter, Infer
from services.gateway.payload.frames import CALL, SHAPES

__all__ = ["PayloadLogged"]

MAX_NAME = 256  # characters of what callers and backends sent
MAX_TENSORS = 64  # whose shapes are told of a call that is too large
MAX_RANK = 16
MAX_KNOWN = 10_000  # routes whose share is kept in mind


class _Tensor(Protocol):
    """What an input and an output have in common."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(kw_only=True)
class PayloadLogged(Filter):
    """Hands a sample of the calls that are answered to `offer`, as bytes, when their answer is on its way.

    Of a call that is larger than `max_call` bytes, request and answer together, it hands over the shapes alone. What `offer` has
    no room for is not logged. Of a stream it is the first answer that is logged.
    """

    offer: Callable[..., bool]  # kind, parts; never waits
    label: Callable[[str], str]  # a model as its route names it
    share: float
    models: Mapping[str, float] = field(default_factory=dict)
    max_call: int = 64 << 10
    wall: Callable[[], float] = time.time
    _shares: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        response = await then(request, call)
        if is_sampled(call.request_id, self._share_of(request.model_name)):
            # Runs when this task waits next, which is for the answer to be sent.
            asyncio.get_running_loop().call_soon(self._hand_over, request, response, call, self.wall())
        return response

    def _share_of(self, model: str) -> float:
        route = self.label(model)
        share = self._shares.get(route)
        if share is None:
            if len(self._shares) >= MAX_KNOWN:  # routes come and go with their file
                self._shares.clear()
            share = self._shares[route] = self._configured(route)
        return share

    def _configured(self, route: str) -> float:
        if route in self.models:
            return self.models[route]
        return next((share for name, share in self.models.items() if fnmatchcase(route, name)), self.share)

    def _hand_over(self, request: ModelInferRequest, response: ModelInferResponse, call: Call, wall: float) -> None:
        parameters = response.parameters
        model = request.model_name
        sizes = request.ByteSize(), response.ByteSize()
        head: dict[str, Any] = {
            "time": wall,
            "request_id": call.request_id[:MAX_NAME],
            "model": model[:MAX_NAME],
            "route": self.label(model),
            "answered": (parameters[MODEL].string_param if MODEL in parameters else model)[:MAX_NAME],
            "version": response.model_version[:MAX_NAME],
            "variant": (parameters[VARIANT].string_param if VARIANT in parameters else "")[:MAX_NAME],
            "bytes": sizes,
        }
        if sum(sizes) <= self.max_call:
            self.offer(CALL, json.dumps(head).encode(), request.SerializeToString(), response.SerializeToString())
        else:
            head["inputs"] = _shapes(request.inputs)
            head["outputs"] = _shapes(response.outputs)
            self.offer(SHAPES, json.dumps(head).encode())

    def __repr__(self) -> str:
        return f"PayloadLogged({self.share:g})"


def _shapes(tensors: Iterable[_Tensor]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tensor in tensors:
        if len(found) == MAX_TENSORS:
            break
        shape = list(tensor.shape[:MAX_RANK])
        found.append({"name": tensor.name[:MAX_NAME], "datatype": tensor.datatype[:MAX_NAME], "shape": shape})
    return found
