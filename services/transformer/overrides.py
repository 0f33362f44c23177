"""Features that a request brings itself, in the place of stored ones: for tests, and to ask what would be if."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from infermesh.errors import InvalidRequest, PermissionDenied, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array
from services.transformer.columns import Rows, TextRows
from services.transformer.entities import Override, read_field, wrong
from services.transformer.feature_service import Sized
from services.transformer.row import RowFormat
from services.transformer.schema import TEXT

__all__ = ["OVERRIDDEN", "PREFIX", "GivenInputs", "Overrides"]

PREFIX = "infermesh_feature."
OVERRIDDEN = "infermesh_feature_overrides"  # parameter of the response: what was overridden, by name
REASON = "FEATURE_OVERRIDE"
GIVEN = "FEATURE_GIVEN"


class GivenInputs:
    """Who may send the looked-up inputs themselves, in the place of `ids`: `given` says whether anybody may.

    Where `overrides` lists tenants, they alone may: who may not replace one feature should not be able to replace all at once.
    """

    def __init__(self, given: str, overrides: str | Collection[str], ids: Sequence[str]) -> None:
        self._refused = given == "refuse"
        self._tenants = None if isinstance(overrides, str) else frozenset(overrides)
        self._ids = ids

    def check(self, request: ModelInferRequest, name: str, tenant: str) -> None:
        """Raise InvalidRequest or PermissionDenied for a request that gives this input."""
        if self._refused:
            send = ", ".join(quoted(each) for each in self._ids)
            raise wrong(request, name, f"is looked up and can't be given (given: refuse); send {send}", GIVEN)
        if self._tenants is not None and tenant not in self._tenants:
            raise PermissionDenied(
                f"model {quoted(request.model_name)}: input {quoted(name)}: is looked up, and may not be given by the "
                f"tenant {quoted(tenant)}",
                reason=GIVEN,
            )


class Overrides:
    """The features of one service that inputs `infermesh_feature.<name>` may replace; `<name>` is `view.feature`, or the feature
    alone where no other view of the service has one of that name.

    `allowed` is who may: nobody, everybody or tenants by name. `used` are the features that the service takes, by view.
    """

    def __init__(
        self, allowed: str | Collection[str], used: Mapping[str, Collection[str]], formats: Mapping[str, RowFormat]
    ) -> None:
        self._allowed = allowed
        self._formats = formats
        whole = [(alias, feature) for alias, features in used.items() for feature in features]
        alone = [feature for _, feature in whole]
        self._named = {f"{alias}.{feature}": (alias, feature) for alias, feature in whole}
        self._named |= {feature: (alias, feature) for alias, feature in whole if alone.count(feature) == 1}

    def read(
        self, request: ModelInferRequest, positions: Collection[int], rows: int, tenant: str
    ) -> dict[Override, Array]:
        """The values of the inputs at these positions, (N, k) each. Raises InvalidRequest, PermissionDenied."""
        found: dict[Override, Array] = {}
        for position in positions:
            name = request.inputs[position].name
            if self._allowed == "off":
                raise wrong(request, name, "features can't be overridden here (overrides: off)", REASON)
            if not isinstance(self._allowed, str) and tenant not in self._allowed:
                raise PermissionDenied(
                    f"model {quoted(request.model_name)}: input {quoted(name)}: features may not be overridden by "
                    f"the tenant {quoted(tenant)}",
                    reason=REASON,
                )
            override = self._named.get(name.removeprefix(PREFIX))
            if override is None:
                raise self._unknown(request, name)
            if override in found:
                raise wrong(request, name, "expected once, got it twice", "INPUT_DUPLICATE")
            found[override] = self._value(request, name, position, override, rows)
        return found

    def written(self, rows: Mapping[str, Rows], overrides: Mapping[Override, Array]) -> dict[str, Rows]:
        """Copies of the rows with the given values in them."""
        written = dict(rows)
        for alias in {alias for alias, _ in overrides}:
            held = rows[alias]
            table = np.array(held)  # of the numbers alone
            written[alias] = TextRows.of(table, held.texts.copy()) if isinstance(held, TextRows) else table
        for (alias, feature), values in overrides.items():
            self._write(written[alias], self._formats[alias], feature, values)
        return written

    def _write(self, rows: Rows, layout: RowFormat, feature: str, values: Array) -> None:
        position = _position(layout, feature)
        if layout.schema[position].datatype == TEXT:
            assert isinstance(rows, TextRows)
            rows.texts[:, layout.texts.index(position)] = values[:, 0]
            return
        rows[:, layout.slices[position]] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)

    def _value(self, request: ModelInferRequest, name: str, position: int, override: Override, rows: int) -> Array:
        alias, feature = override
        layout = self._formats[alias]
        column = layout.schema[_position(layout, feature)]
        of = Sized.model_validate({"datatype": column.datatype, "shape": [column.elements] if column.shape else []})
        return read_field(request, name, position, of, max(rows, 1), rows=rows)

    def _unknown(self, request: ModelInferRequest, name: str) -> InvalidRequest:
        names = sorted(self._named)
        known = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        return wrong(request, name, f"no such feature is looked up; there are {known}", REASON)


def _position(layout: RowFormat, feature: str) -> int:
    return [column.name for column in layout.schema].index(feature)
