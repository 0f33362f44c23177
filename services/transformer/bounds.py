"""How much work one request may make: a few bytes of ids can name wide rows many times, and a transform may be dear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from infermesh.errors import ResourceExhausted, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import DATATYPES, Array
from services.transformer.assembly import Assembly
from services.transformer.columns import Columns
from services.transformer.feature_service import FeatureService
from services.transformer.row import RowFormat
from services.transformer.service_faults import type_of
from services.transformer.transforms import step_of
from services.transformer.views import FeatureFile

__all__ = ["MAX_JOINED_BYTES", "Bounds", "check_rows"]

MAX_JOINED_BYTES = 64 << 20  # a message's default limit: what is more no model would take
# For so long transforms may hold up all other requests, by an estimate: 10,000 rows of 20 hashes are as much.
MAX_WORK_NS = 200_000_000
TEXT_BYTES = 4  # of a text that is not known yet: its length


class Bounds:
    """The bounds of one feature service: what a row costs is worked out at load. All raise ResourceExhausted."""

    def __init__(
        self,
        file: FeatureFile,
        service: FeatureService,
        looked_up: Mapping[str, Columns | Assembly],
        formats: Iterable[RowFormat],
    ) -> None:
        joined = sum(each.width * (DATATYPES[each.datatype].size or TEXT_BYTES) for each in looked_up.values())
        self._row_bytes = max(joined, sum(layout.width for layout in formats))  # rows are laid together whole
        self._row_ns = _work_ns(file, service)

    def check(self, request: ModelInferRequest, rows: int) -> None:
        """Refuse a request by the number of its rows alone, before anything is allocated for it."""
        if rows * self._row_bytes > MAX_JOINED_BYTES:
            what = f"{rows} rows of {self._row_bytes} bytes are joined for the model, at most {MAX_JOINED_BYTES} bytes"
            raise _exhausted(f"model {quoted(request.model_name)}: {what}")
        if rows * self._row_ns > MAX_WORK_NS:
            what = f"{rows} rows: some {rows * self._row_ns // 1_000_000} ms of transforms, at most "
            raise ResourceExhausted(
                f"model {quoted(request.model_name)}: {what}{MAX_WORK_NS // 1_000_000} ms; send fewer rows",
                reason="TOO_MUCH_WORK",
            )

    def check_texts(self, tensors: Mapping[str, Array]) -> None:
        """Refuse texts that many rows share, before they are copied for each."""
        for name, tensor in tensors.items():
            if tensor.dtype.kind == "O":
                held = sum(map(len, tensor.ravel().tolist()))
                if held > MAX_JOINED_BYTES:
                    what = f"input {quoted(name)}: its texts have {held} bytes, at most {MAX_JOINED_BYTES}"
                    raise _exhausted(what)


def check_rows(found: Sequence[bytes | None]) -> None:
    """Refuse rows with texts that are too long together: keys that are equal have one row, which is copied for each."""
    held = sum([len(row) for row in found if row is not None])
    if held > MAX_JOINED_BYTES:
        raise _exhausted(f"{len(found)} rows of a view have {held} bytes, at most {MAX_JOINED_BYTES}")


def _exhausted(what: str) -> ResourceExhausted:
    # Not `rejected`: the same call would fail again, everywhere.
    return ResourceExhausted(what, reason="JOINED_TOO_LARGE")


def _work_ns(file: FeatureFile, service: FeatureService) -> int:
    work = 0
    for source in service.inputs.values():
        for column in source.parts:
            if not column.transform:
                continue
            found = type_of(file, service, column.model_copy(update={"transform": []}))
            for transform in column.transform:
                step = step_of(transform, found)
                work += found.width * step.value_ns
                found = step.becomes
    return work
