"""Which variant a call would get, found out by the gateway's own route table over backends that nobody asks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from infermesh.call import Call, Caller
from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.errors import MeshError
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository

if TYPE_CHECKING:
    from services.gateway.routes import RoutesFile, StickyConfig

__all__ = ["Asked", "choice"]

VARIANT = "x-infermesh-variant"


@dataclass(frozen=True)
class Asked:
    """A call, as the command line describes it."""

    model: str = ""
    tenant: str = ""
    key: str = ""
    metadata: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    version: str = ""
    variant: str = ""


def choice(file: RoutesFile, asked: Asked) -> None:
    """Print what becomes of the call. Raises Failure where the gateway would refuse it."""
    from services.gateway.backends import Backend
    from services.gateway.route_table import RouteTable

    names = {name for route in file.routes for name in route.backends}
    table = RouteTable(file, {name: Backend(name, _Unasked()) for name in names}, _Uncounted())
    try:
        answering = table.find(asked.model)
        route = next(route for route in file.routes if route.label == answering.route)
        request, call = _call(asked, route.sticky)
        variant, by = answering.split.choose(request, call)
    except MeshError as error:
        raise Failure(f"{error.code}: {error.message}") from None
    chances = answering.split.chooser.chances(request, call)
    drawn = not (asked.version or asked.variant) and max(chances) < 1
    names_of = [each.name for each in answering.split.variants]
    answer = ", ".join(f"{name} {c * 100:.4g} %" for name, c in zip(names_of, chances, strict=True) if c)
    out.print(Text(f"{asked.model} → {answer if drawn else variant.name}", "bold"))
    chosen = f"{by}: drawn anew for each call" if drawn else by
    if drawn and route.sticky:
        chosen += "; --key gives it a sticky key"
    shadows = ", ".join(f"{each.name} {each.fraction * 100:.4g} %" for each in route.shadows)
    below = (variant.model or asked.model, variant.version or asked.version)
    facts = [
        ("route", route.label),
        ("chosen by", chosen),
        ("backend", "" if drawn else variant.backend.name),
        ("asked for", "" if drawn else " version ".join(filter(None, below))),
        ("copies to", shadows),
    ]
    for name, value in facts:
        if value:
            out.print(Text(f"  {name:10} {value}"), soft_wrap=True)


def _call(asked: Asked, sticky: StickyConfig | None) -> tuple[pb.ModelInferRequest, Call]:
    request = pb.ModelInferRequest(model_name=asked.model, model_version=asked.version)
    metadata = {name.lower(): value for name, value in map(_pair, asked.metadata)}
    tenant = asked.tenant
    for name, text in map(_pair, asked.parameters):
        value: object = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
        if isinstance(value, bool):
            request.parameters[name].bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            request.parameters[name].int64_param = value
        elif isinstance(value, float):
            request.parameters[name].double_param = value
        else:
            request.parameters[name].string_param = value if isinstance(value, str) else text
    if asked.key:
        if sticky is None:
            raise Failure(f"--key: the route of {asked.model} has no sticky key", status=2)
        if sticky.metadata:
            metadata.setdefault(sticky.metadata, asked.key)
        elif sticky.parameter:
            request.parameters[sticky.parameter].string_param = asked.key
        elif sticky.input:
            tensor = request.inputs.add(name=sticky.input, datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(asked.key.encode())
        else:
            tenant = tenant or asked.key
    if asked.variant:
        metadata[VARIANT] = asked.variant
    return request, Call(caller=Caller(tenant=tenant), metadata=metadata)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise Failure(f"{text!r}: expected NAME=VALUE", status=2)
    return name, value


class _Unasked(InferenceService, ModelRepository):
    """A backend that is never asked: only who would be is of interest."""

    def variant(self, *, model: str = "", version: str = "") -> InferenceService:
        return self

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise NotImplementedError

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        raise NotImplementedError

    async def ready(self, model: str = "", version: str = "") -> bool:
        raise NotImplementedError


class _Uncounted:
    """Counts nothing."""

    def pick(self, model: str, variant: str, by: str) -> Callable[[], None]:
        return _nothing

    def sticky_miss(self, model: str) -> Callable[[], None]:
        return _nothing

    def shadow(self, model: str, shadow: str) -> Callable[[str], None]:
        return lambda outcome: None

    def forget(self, model: str, variant: str) -> None:
        return


def _nothing() -> None:
    return
