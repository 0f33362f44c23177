"""The hook of a feature service among its columns: what it gets of each request, and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping

from infermesh.tensors import Array
from services.transformer.assembly import Given, source_of
from services.transformer.feature_service import FeatureService, HookConfig, Reference
from services.transformer.hooks import Hook
from services.transformer.row import RowFormat
from services.transformer.service_faults import types_of
from services.transformer.views import FeatureFile, is_view

__all__ = ["HookColumns"]


class HookColumns:
    """Gives the hook its columns, each under the reference that names it. Raises HookFault."""

    def __init__(
        self, file: FeatureFile, service: FeatureService, config: HookConfig, formats: Mapping[str, RowFormat]
    ) -> None:
        references = [r for text in config.columns for r in _single(file, service, Reference.parse(text))]
        self._sources = {str(each): source_of(file, service, each, formats) for each in references}
        types = {str(each): types_of(file, service, each)[0] for each in references}
        self._widths = {name: of.width for name, of in types.items()}
        self._hook = Hook(config, types)

    def made(self, given: Given, rows: int) -> Mapping[str, Array]:
        """What the hook returns for N rows, each (N, k). Raises InvalidRequest, Internal."""
        columns = {}
        for name, source in self._sources.items():
            column = source(given)
            column = (column.reshape(-1) if self._widths[name] == 1 else column).view()
            column.flags.writeable = False  # it may be the request's own bytes
            columns[name] = column
        return self._hook(columns, rows)


def _single(file: FeatureFile, service: FeatureService, reference: Reference) -> list[Reference]:
    if not is_view(reference, service):
        return [reference]
    return [Reference(reference.of, feature.name) for feature in file.features_of(service, reference)]
