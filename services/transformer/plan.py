"""What joining means for one model, worked out at load: which inputs carry ids, which keys they name, which tensors result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from infermesh.errors import FailedPrecondition, InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, add_inputs
from services.transformer.assembly import Assembly, ColumnRefused, Given, input_of
from services.transformer.bounds import Bounds, check_rows
from services.transformer.columns import Rows
from services.transformer.entities import Entities, read_field, read_ids, wrong
from services.transformer.feature_service import FeatureService
from services.transformer.hook_columns import HookColumns
from services.transformer.keys import joined_ids
from services.transformer.overrides import PREFIX, GivenInputs, Overrides
from services.transformer.policy import Served
from services.transformer.statuses import Matrix, take_wish, wants_statuses
from services.transformer.tally import Tally
from services.transformer.use import Use
from services.transformer.views import FeatureFile, is_view

__all__ = ["Entities", "JoinPlan"]


class JoinPlan:
    """Reads the entities of a request, names the keys of their rows, and makes the model's request of what was found.

    The looked-up tensors come last, in the order of the declaration. Everything else of the request stays as it is, in its place:
    a request's inputs may come in any order. `tally(view)` is where is counted what a view gave. Raises HookFault.
    """

    def __init__(
        self,
        file: FeatureFile,
        service: FeatureService,
        *,
        prefix: str,
        max_entities: int,
        tally: Callable[[str], Tally] = lambda view: Tally(),
    ) -> None:
        self._max_entities = max_entities
        self._shared = frozenset(service.shared)
        uses = file.uses(service)
        used: dict[str, dict[str, None]] = {alias: {} for alias in uses}
        for _, reference in service.references():
            if is_view(reference, service):
                used[reference.of].update(dict.fromkeys(f.name for f in file.features_of(service, reference)))
        self.uses = [Use(alias, use, used[alias], prefix, tally(use.name)) for alias, use in uses.items()]
        self.is_packed = all(use.is_packed for use in self.uses)
        """Whether a look-up by `keys` is all that is to be done."""
        self._composites = [use for use in self.uses if len(use.inputs) > 1]
        self.feature_names = [f"{use.alias}.{feature}" for use in self.uses for feature in use.features]
        """What the columns of `statuses` are about."""
        formats = {use.alias: use.policy.format for use in self.uses}
        self.entities = {
            name: key.datatype
            for view, _, inputs in uses.values()
            for name, key in zip(inputs, view.entity.parts, strict=True)
        }
        self.fields = service.request
        """Inputs of the request of which columns are made."""
        self._needed = {**self.entities, **{name: of.datatype for name, of in self.fields.items()}}
        own = [*self.entities, *(name for name in self.fields if name not in self._shared), *self.fields]
        self._counted = next(iter(own), "")  # the input whose rows are those of the request
        self.looked_up = {
            name: input_of(file, service, source, formats)
            for name, source in service.inputs.items()
            if source.request is None
        }
        self.renamed = {s.request: name for name, s in service.inputs.items() if s.request is not None}
        """The model's name of an input by the request's."""
        self._given = GivenInputs(service.given, service.overrides, [*self.entities, *self.fields])
        self._bounds = Bounds(file, service, self.looked_up, formats.values())
        self._overrides = Overrides(service.overrides, {use.alias: use.features for use in self.uses}, formats)
        self._hook = HookColumns(file, service, service.hook, formats) if service.hook is not None else None
        self._plain = {name: each for name, each in self.looked_up.items() if not isinstance(each, Assembly)}
        self._has_texts = any(each.datatype == "BYTES" for each in self.looked_up.values())
        self._is_assembled = len(self._plain) < len(self.looked_up)

    def read(self, request: ModelInferRequest, tenant: str = "") -> Entities | None:
        """The entities of a request; None when it brings the looked-up inputs itself and no ids: it is the model's already.

        Raises InvalidRequest for a request that is neither, or whose ids can't be read, or that gives inputs which the service
        refuses; PermissionDenied for what the tenant may not give or override; ResourceExhausted for too many rows.
        """
        raws = request.raw_input_contents
        if raws and len(raws) != len(request.inputs):
            raise InvalidRequest(
                f"model {quoted(request.model_name)}: raw contents: expected one raw_input_contents entry for each of "
                f"{len(request.inputs)} inputs, got {len(raws)}",
                reason="RAW_COUNT",
            )
        at: dict[str, int] = {}
        given, overriding = [], []
        for position, tensor in enumerate(request.inputs):
            name = tensor.name
            if name in self._needed:
                if name in at:
                    raise wrong(request, name, "expected once, got it twice", "INPUT_DUPLICATE")
                at[name] = position
            elif name in self.looked_up:
                given.append(name)
            elif name.startswith(PREFIX):
                overriding.append(position)
        if len(at) != len(self._needed) or given or overriding:
            if self._is_the_models(at, given, overriding):
                self._given.check(request, given[0], tenant)
                return None
            if len(at) != len(self._needed) or given:
                raise self._wrong_inputs(request, at, given)
        return self._read(request, at, overriding, tenant)

    def count_given(self, request: ModelInferRequest) -> None:
        """Count the values of a request that brought the looked-up inputs itself, once the model has taken them."""
        shape = next(tensor.shape for tensor in request.inputs if tensor.name in self.looked_up)
        for use in self.uses:
            use.count_given(shape[0] if shape else 1)

    def keys(self, entities: Entities) -> list[bytes]:
        """The keys of all rows of all views: N of the first view, then N of the next."""
        return [use.prefix + entity for use in self.uses for entity in entities.ids[use.entity]]

    def join(
        self, request: ModelInferRequest, entities: Entities, found: Sequence[bytes | None], now_us: int
    ) -> tuple[ModelInferRequest, Served]:
        """The model's request from what the keys held, and the worst of what was served. Raises FailedPrecondition."""
        rows, worst = self.serve(entities, found, now_us)
        return self.joined(request, entities, rows), worst

    def serve(
        self, entities: Entities, found: Sequence[bytes | None], now_us: int
    ) -> tuple[Mapping[str, Rows], Served]:
        """The rows of each view from what the keys held, and the worst of what was served.

        Raises FailedPrecondition, and ResourceExhausted where their texts are too long together.
        """
        rows: dict[str, Rows] = {}
        worst = Served.PRESENT
        start = 0
        for use in self.uses:
            stop = start + entities.rows
            if use.has_texts and entities.rows > 1:
                check_rows(found[start:stop])
            rows[use.alias], served = use.serve(found[start:stop], entities, now_us)
            worst = max(worst, served)
            start = stop
        return self._overridden(rows, entities), worst

    def serve_without(
        self, entities: Entities, why: str, kept: Sequence[bytes | None] | None = None, now_us: int = 0
    ) -> tuple[Mapping[str, Rows], Served]:
        """The rows while the store does not answer, from what is `kept`. Raises Unavailable where a view says so."""
        rows: dict[str, Rows] = {}
        worst = Served.CACHED
        for use, part in zip(self.uses, self._parts(kept, entities.rows), strict=True):
            if part is not None and use.has_texts:
                check_rows(part)
            rows[use.alias], served = use.serve_unavailable(entities, why, part, now_us)
            worst = max(worst, served)
        return self._overridden(rows, entities), worst

    def statuses(
        self, entities: Entities, found: Sequence[bytes | None] | None, now_us: int, *, kept: bool = False
    ) -> Matrix:
        """(N, features) for what `serve` served, or with `kept` for what `serve_without` did, of which `found` may be None."""
        parts = zip(self.uses, self._parts(found, entities.rows), strict=True)
        matrices = [use.statuses(part, entities, now_us, kept=kept) for use, part in parts]
        return np.hstack(matrices) if matrices else np.zeros((entities.rows, 0), np.uint8)

    def _parts(self, found: Sequence[bytes | None] | None, rows: int) -> list[Sequence[bytes | None] | None]:
        """What was found for each view."""
        return [None if found is None else found[at * rows : (at + 1) * rows] for at in range(len(self.uses))]

    def _overridden(self, rows: Mapping[str, Rows], entities: Entities) -> Mapping[str, Rows]:
        return self._overrides.written(rows, entities.overrides) if entities.overrides else rows

    def joined(self, request: ModelInferRequest, entities: Entities, rows: Mapping[str, Rows]) -> ModelInferRequest:
        """A copy with the ids replaced by tensors; raw if the request is, else typed, never a mix. Raises ResourceExhausted."""
        joined = ModelInferRequest()
        joined.CopyFrom(request)  # with parameters, requested outputs and fields that nobody here knows
        raw = bool(request.raw_input_contents)
        for position in sorted(entities.positions, reverse=True):
            if not self.renamed or joined.inputs[position].name not in self.renamed:  # else the model takes it too
                del joined.inputs[position]
                if raw:
                    del joined.raw_input_contents[position]
        if self.renamed:
            for tensor in joined.inputs:
                tensor.name = self.renamed.get(tensor.name, tensor.name)
        if entities.wants_statuses:
            take_wish(joined)
        tensors: dict[str, Array] = {name: columns.take(rows) for name, columns in self._plain.items()}
        if self._is_assembled:
            tensors |= self._assembled(request, entities, rows)
            tensors = {name: tensors[name] for name in self.looked_up}
        if entities.rows > 1 and self._has_texts:
            self._bounds.check_texts(tensors)
        add_inputs(joined, tensors, raw=raw)
        return joined

    def _assembled(self, request: ModelInferRequest, entities: Entities, rows: Mapping[str, Rows]) -> dict[str, Array]:
        given = Given(rows, entities.fields, {})
        try:
            if self._hook is not None:
                given = given._replace(hooked=self._hook.made(given, entities.rows))
            return {
                name: each.take(given, entities.rows)
                for name, each in self.looked_up.items()
                if isinstance(each, Assembly)
            }
        except ColumnRefused as refused:
            if refused.of_request:
                text = f"model {quoted(request.model_name)}: {refused}"
                raise InvalidRequest(text, reason="FEATURE_VALUE") from None
            raise FailedPrecondition(str(refused), reason="FEATURE_VALUE") from None
        except InvalidRequest as error:
            text = f"model {quoted(request.model_name)}: {error.message}"
            raise InvalidRequest(text, reason=error.reason) from None

    def _read(self, request: ModelInferRequest, at: dict[str, int], overriding: list[int], tenant: str) -> Entities:
        first = self._counted
        shape = request.inputs[at[first]].shape
        if (
            shape and 0 < shape[0] <= self._max_entities
        ):  # more are told as too many entities, and a wrong shape as that
            self._bounds.check(request, shape[0])
        ids = {
            name: read_ids(request, name, at[name], datatype, self._max_entities)
            for name, datatype in self.entities.items()
        }
        fields: dict[str, Array] = {}
        if ids:
            rows = len(ids[first])
        else:
            fields[first] = read_field(request, first, at[first], self.fields[first], self._max_entities)
            rows = len(fields[first])
        self._check_rows(request, rows, first)
        wants = wants_statuses(request) if request.parameters or request.outputs else False
        positions = list(at.values())
        if not (self.fields or self._composites or overriding):
            return Entities(rows, positions, ids, wants_statuses=True) if wants else Entities(rows, positions, ids)
        for name, of in self.fields.items():
            if name not in fields:
                shared = rows if name in self._shared else None
                fields[name] = read_field(request, name, at[name], of, self._max_entities, rows=shared)
        for use in self._composites:
            parts = [ids[name] for name in use.inputs]
            ids[use.entity] = [joined_ids(each) for each in zip(*parts, strict=True)]
        overrides = self._overrides.read(request, overriding, rows, tenant) if overriding else {}
        return Entities(rows, [*positions, *overriding], ids, fields, overrides, wants)

    def _check_rows(self, request: ModelInferRequest, rows: int, entity: str) -> None:
        """Every input has a row for each entity: a model that gets fewer may fail in a way that blames nobody."""
        for tensor in request.inputs:
            shape = tensor.shape
            if shape and shape[0] != rows and tensor.name not in self._shared:
                if tensor.name.startswith(PREFIX):
                    continue  # one row may stand for all of them
                what = f"expected {rows} rows as in {quoted(entity)}, got {shape[0]}"
                raise wrong(request, tensor.name, what, "INPUT_ROWS")

    def _is_the_models(self, at: dict[str, int], given: list[str], overriding: list[int]) -> bool:
        return self.looked_up.keys() <= set(given) and not overriding and not at.keys() & self.entities.keys()

    def _wrong_inputs(self, request: ModelInferRequest, at: dict[str, int], given: list[str]) -> InvalidRequest:
        if given and at:
            what = f"is looked up by {quoted(next(iter(at)))}; send one of the two"
            return wrong(request, given[0], what, "INPUT_UNEXPECTED")
        name = next(name for name in self._needed if name not in at)
        others = ", ".join(quoted(name) for name in self.looked_up)
        if name in self.fields:
            width = self.fields[name].type.width
            what = f"missing: expected {self._needed[name]} [N, {width}], of which columns are made"
        else:
            what = f"missing: expected {self._needed[name]} [N, 1] with the ids to look up, or {others} in its place"
        return wrong(request, name, what, "INPUT_MISSING")
