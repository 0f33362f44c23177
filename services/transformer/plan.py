"""What joining means for one model, worked out at load: which inputs carry ids, which keys they name, which tensors result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from infermesh.errors import InvalidRequest, ResourceExhausted, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, add_inputs, read_input
from services.transformer.columns import Columns, Rows
from services.transformer.keys import MAX_ID_BYTES, key_prefix
from services.transformer.policy import RowPolicy, Served
from services.transformer.views import FeatureFile, FeatureService

__all__ = ["Entities", "JoinPlan", "ObserveEntities"]

ObserveEntities = Callable[[str, str, int], None]  # view, what was found, how many entities


class Entities(NamedTuple):
    """The entities of one request: how many rows, where the ids stand among the inputs, and the ids as keys hold them."""

    rows: int
    positions: list[int]
    ids: dict[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class _Use:
    alias: str
    entity: str
    prefix: bytes
    policy: RowPolicy


class JoinPlan:
    """Reads the entities of a request, names the keys of their rows, and makes the model's request of what was found.

    The looked-up tensors come last, in the order of the declaration. Everything else of the request stays as it is, in its place:
    a request's inputs may come in any order.
    """

    def __init__(
        self,
        file: FeatureFile,
        service: FeatureService,
        *,
        prefix: str,
        max_entities: int,
        observe: ObserveEntities = lambda view, found, count: None,
    ) -> None:
        self._max_entities = max_entities
        self._shared = frozenset(service.shared)
        uses = file.uses(service)
        columns = {name: file.columns_of(service, source) for name, source in service.inputs.items()}
        self._uses = []
        for alias, (view, name, entity) in uses.items():
            used = {feature.name for each in columns.values() for of, feature in each if of == alias}
            policy = RowPolicy(name, view, used, _named(observe, name))
            self._uses.append(_Use(alias, entity, key_prefix(prefix, name), policy))
        formats = {use.alias: use.policy.format for use in self._uses}
        self.entities = {entity: view.entity.datatype for view, _, entity in uses.values()}
        self.looked_up = {
            name: Columns(
                [(alias, feature.name) for alias, feature in columns[name]],
                formats,
                source.datatype or columns[name][0][1].datatype,
                vector=source.rank == 1,
            )
            for name, source in service.inputs.items()
            if source.request is None
        }
        self.renamed = {s.request: name for name, s in service.inputs.items() if s.request is not None}
        """The model's name of an input by the request's."""

    def read(self, request: ModelInferRequest) -> Entities | None:
        """The entities of a request; None when it brings the looked-up inputs itself and no ids: it is the model's already.

        Raises InvalidRequest for a request that is neither, or whose ids can't be read.
        """
        raws = request.raw_input_contents
        if raws and len(raws) != len(request.inputs):
            raise InvalidRequest(
                f"model {quoted(request.model_name)}: raw contents: expected one raw_input_contents entry for each of "
                f"{len(request.inputs)} inputs, got {len(raws)}",
                reason="RAW_COUNT",
            )
        at: dict[str, int] = {}
        given = []
        for position, tensor in enumerate(request.inputs):
            name = tensor.name
            if name in self.entities:
                if name in at:
                    raise _wrong(request, name, "expected once, got it twice", "INPUT_DUPLICATE")
                at[name] = position
            elif name in self.looked_up:
                given.append(name)
        if len(at) != len(self.entities) or given:
            if not at and self.looked_up.keys() <= set(given):
                return None
            raise self._wrong_inputs(request, at, given)
        ids = {name: self._read_ids(request, name, position) for name, position in at.items()}
        rows = len(next(iter(ids.values())))
        self._check_rows(request, rows, next(iter(ids)))
        return Entities(rows, list(at.values()), ids)

    def keys(self, entities: Entities) -> list[bytes]:
        """The keys of all rows of all views: N of the first view, then N of the next."""
        return [use.prefix + entity for use in self._uses for entity in entities.ids[use.entity]]

    def join(
        self, request: ModelInferRequest, entities: Entities, found: Sequence[bytes | None], now_us: int
    ) -> tuple[ModelInferRequest, Served]:
        """The model's request from what the keys held, and the worst of what was served. Raises FailedPrecondition."""
        rows: dict[str, Rows] = {}
        worst = Served.PRESENT
        start = 0
        for use in self._uses:
            stop = start + entities.rows
            rows[use.alias], served = use.policy.serve(found[start:stop], entities.ids[use.entity], now_us)
            worst = max(worst, served)
            start = stop
        return self._joined(request, entities, rows), worst

    def join_without(
        self, request: ModelInferRequest, entities: Entities, why: str
    ) -> tuple[ModelInferRequest, Served]:
        """The model's request while the store does not answer. Raises Unavailable where a view says so."""
        rows: dict[str, Rows] = {}
        for use in self._uses:
            rows[use.alias], _ = use.policy.serve_unavailable(entities.rows, why)
        return self._joined(request, entities, rows), Served.REDIS_UNAVAILABLE

    def _joined(self, request: ModelInferRequest, entities: Entities, rows: dict[str, Rows]) -> ModelInferRequest:
        """A copy with the ids replaced by tensors; raw if the request is, else typed, never a mix."""
        joined = ModelInferRequest()
        joined.CopyFrom(request)  # with parameters, requested outputs and fields that nobody here knows
        raw = bool(request.raw_input_contents)
        for position in sorted(entities.positions, reverse=True):
            if joined.inputs[position].name not in self.renamed:  # else the model takes the ids too
                del joined.inputs[position]
                if raw:
                    del joined.raw_input_contents[position]
        if self.renamed:
            for tensor in joined.inputs:
                tensor.name = self.renamed.get(tensor.name, tensor.name)
        tensors: dict[str, Array] = {name: columns.take(rows) for name, columns in self.looked_up.items()}
        add_inputs(joined, tensors, raw=raw)
        return joined

    def _read_ids(self, request: ModelInferRequest, name: str, position: int) -> list[bytes]:
        tensor = request.inputs[position]
        datatype = self.entities[name]
        shape = list(tensor.shape)
        if tensor.datatype != datatype or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
            what = f"expected {datatype} [N] or [N, 1], got {quoted(tensor.datatype)} {shape[:16]}"
            raise _wrong(request, name, what, "INPUT_DATATYPE" if tensor.datatype != datatype else "INPUT_SHAPE")
        if shape[0] > self._max_entities:
            raise ResourceExhausted(
                f"model {quoted(request.model_name)}: input {quoted(name)}: {shape[0]} entities, at most "
                f"{self._max_entities} are looked up for one request",
                reason="TOO_MANY_ENTITIES",  # not `rejected`: the same call would fail again, everywhere
            )
        values = read_input(request, position).ravel().tolist()
        if datatype == "INT64":
            return [b"%d" % value for value in values]
        ids: list[bytes] = values
        for row, entity in enumerate(ids):
            if not 0 < len(entity) <= MAX_ID_BYTES:
                got = f"one of {len(entity)} bytes" if entity else "an empty one"
                raise _wrong(
                    request, name, f"row {row}: expected an id of 1 to {MAX_ID_BYTES} bytes, got {got}", "ENTITY_ID"
                )
        return ids

    def _check_rows(self, request: ModelInferRequest, rows: int, entity: str) -> None:
        """Every input has a row for each entity: a model that gets fewer may fail in a way that blames nobody."""
        for tensor in request.inputs:
            shape = tensor.shape
            if shape and shape[0] != rows and tensor.name not in self._shared:
                what = f"expected {rows} rows as in {quoted(entity)}, got {shape[0]}"
                raise _wrong(request, tensor.name, what, "INPUT_ROWS")

    def _wrong_inputs(self, request: ModelInferRequest, at: dict[str, int], given: list[str]) -> InvalidRequest:
        if given and at:
            what = f"is looked up by {quoted(next(iter(at)))}; send one of the two"
            return _wrong(request, given[0], what, "INPUT_UNEXPECTED")
        name = next(name for name in self.entities if name not in at)
        others = ", ".join(quoted(name) for name in self.looked_up)
        what = f"missing: expected {self.entities[name]} [N, 1] with the ids to look up, or {others} in its place"
        return _wrong(request, name, what, "INPUT_MISSING")


def _wrong(request: ModelInferRequest, name: str, what: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"model {quoted(request.model_name)}: input {quoted(name)}: {what}", reason=reason)


def _named(observe: ObserveEntities, view: str) -> Callable[[str, int], None]:
    return lambda found, count: observe(view, found, count)
