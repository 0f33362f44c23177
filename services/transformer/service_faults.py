"""What is wrong with a feature service beside the views of its file: every fault, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from services.transformer.after.bind import faults_of_steps
from services.transformer.feature_service import (
    ALL,
    HOOK,
    NAME,
    NOT_A_NAME,
    REQUEST,
    Column,
    FeatureService,
    ModelInput,
    Reference,
    twice,
)
from services.transformer.transforms import ColumnType, can_become, step_of
from services.transformer.transforms.types import NUMBERS

if TYPE_CHECKING:
    from services.transformer.views import FeatureFile

__all__ = ["faults_of_service", "type_of", "types_of"]


def faults_of_service(file: FeatureFile, service: FeatureService) -> Iterator[str]:
    """Every fault of one service."""
    yield from faults_of_steps(service.after)
    if not service.inputs and not service.after:
        yield "inputs: expected one or more, or steps after the model"
    unknown = list(_unknown(file, service))
    yield from unknown
    if unknown:
        return  # what follows looks at the columns
    for name, source in service.inputs.items():
        yield from (f"inputs.{name}: {fault}" for fault in _faults_of_input(file, service, source))
    yield from _faults_of_ids(file, service)
    yield from _faults_of_request(file, service)


def types_of(file: FeatureFile, service: FeatureService, reference: Reference) -> list[ColumnType]:
    """The types of the sources that a reference names, before any transform."""
    if reference.of == REQUEST and service.request:
        return [service.request[reference.name].type]
    if reference.of == HOOK and service.hook is not None:
        return [service.hook.returns[reference.name].type]
    features = file.features_of(service, reference)
    return [ColumnType(feature.datatype, feature.stored.elements) for feature in features]


def type_of(file: FeatureFile, service: FeatureService, column: Column) -> ColumnType:
    """What a column is after its transforms. Raises ValueError where they can't be done; of plain columns, one type alone."""
    sources = [each for reference in column.references for each in types_of(file, service, reference)]
    if column.ratio is not None:
        for source in sources:
            if source.datatype not in NUMBERS or source.width != 1:
                raise ValueError(f"ratio: expected two columns of numbers, got {source.datatype} [{source.width}]")
        found = ColumnType("FP64")
    else:
        datatypes = sorted({source.datatype for source in sources})
        if len(datatypes) > 1:
            raise ValueError(f"transform: columns of one datatype are expected, these are {', '.join(datatypes)}")
        found = ColumnType(datatypes[0], sum(source.width for source in sources))
    for transform in column.transform:
        found = step_of(transform, found).becomes
    return found


def _unknown(file: FeatureFile, service: FeatureService) -> Iterator[str]:
    for alias, use in service.views.items():
        if (view := file.views.get(use.view)) is None:
            yield f'views.{alias}: no view "{use.view}"'
        elif isinstance(use.entity, dict):
            keys = [key.name for key in view.entity.parts]
            for key in sorted(use.entity.keys() - keys):
                yield f'views.{alias}.entity: no key "{key}"; the entity has {", ".join(keys)}'
        elif use.entity and view.entity.keys:
            yield f"views.{alias}.entity: expected an input for each of {', '.join(k.name for k in view.entity.keys)}"
        if alias in (REQUEST, HOOK) and (service.request or service.hook):
            yield f"views.{alias}: another name is needed beside fields of the request and a hook"
    for name in service.request:
        if not NAME.fullmatch(name):
            yield f'request: "{name}": {NOT_A_NAME}'
    for name, source in service.inputs.items():
        for column in source.parts:
            for reference in column.references:
                if column.ratio is not None or source.feature is not None:
                    yield from _prefixed(f"inputs.{name}", _not_one(column, reference))
                yield from _prefixed(
                    f"inputs.{name}", _fault_of(file, service, reference, many=source.columns is not None)
                )
    for text in service.hook.columns if service.hook else ():
        reference = Reference.parse(text)
        if reference.of == HOOK:
            yield f'hook.columns: "{text}": a hook can\'t take what it returns'
        else:
            yield from _prefixed("hook.columns", _fault_of(file, service, reference, many=True))


def _not_one(column: Column, reference: Reference) -> str:
    if reference.name != ALL:
        return ""
    return f'"{reference}": expected one feature; ' + (
        "a ratio is of two" if column.ratio else "give several as columns"
    )


def _fault_of(file: FeatureFile, service: FeatureService, reference: Reference, *, many: bool) -> str:
    of, name = reference
    if not name:
        return f'"{of}": expected view.feature{" or view.*" if many else ""}'
    if of == REQUEST and service.request:
        known = "" if name in service.request else f"no such field; request has {_some(service.request)}"
        return known and f'"{reference}": {known}'
    if of == HOOK and service.hook is not None:
        known = "" if name in service.hook.returns else f"the hook returns {_some(service.hook.returns)}"
        return known and f'"{reference}": {known}'
    view = file.view_of(service, of)
    if view is None:
        if of in service.views:
            return ""  # the fault is named at the use
        if of in (REQUEST, HOOK):
            return f'"{reference}": the service declares no {of}'
        return f'"{reference}": no view "{of}"; there are {_some(sorted({*file.views, *service.views}))}'
    if name != ALL and name not in (feature.name for feature in view.features):
        return f'"{reference}": no such feature; the view has {_some(feature.name for feature in view.features)}'
    return ""


def _faults_of_input(file: FeatureFile, service: FeatureService, source: ModelInput) -> Iterator[str]:
    found: list[ColumnType] = []
    for column in source.parts:
        try:
            if column.is_plain:
                found += [each for reference in column.references for each in types_of(file, service, reference)]
            else:
                found.append(type_of(file, service, column))
        except ValueError as error:
            yield f'"{column.text}": {error}'
    datatypes = {each.datatype for each in found}
    if source.datatype is None and len(datatypes) > 1:
        yield f"datatype: needed, its columns are {', '.join(sorted(datatypes))}"
    for datatype in sorted(datatypes):
        if source.datatype is not None and not can_become(datatype, source.datatype):
            yield f"datatype: {datatype} columns can't become {source.datatype}"
    if source.rank == 1 and any(each.width != 1 for each in found):
        yield f"rank: 1 is for a column of one value, this has {found[0].width}"


def _faults_of_ids(file: FeatureFile, service: FeatureService) -> Iterator[str]:
    uses = file.uses(service)
    if service.inputs and not uses and not service.request:
        yield "inputs: nothing is looked up; leave the service out"
    for alias in service.views.keys() - uses.keys():
        yield f"views.{alias}: no input uses it"
    datatypes: dict[str, str] = {}
    for alias, use in uses.items():
        for key, name in zip(use.view.entity.parts, use.inputs, strict=True):
            if datatypes.setdefault(name, key.datatype) != key.datatype:
                yield f'views.{alias}: input "{name}" can\'t carry ids of both kinds, string and int'
            if (source := service.inputs.get(name)) is not None and source.request != name:
                yield f'inputs.{name}: is also the name of the input that carries the ids of view "{alias}"'
            if name in service.request:
                yield f'request.{name}: is also the name of the input that carries the ids of view "{alias}"'
            if name in service.shared:
                yield f'shared: "{name}" carries the ids of view "{alias}", a row for each'
    renamed = [source.request for source in service.inputs.values() if source.request is not None]
    for name in twice(renamed):
        yield f'inputs: the request\'s "{name}" is named by more than one'


def _faults_of_request(file: FeatureFile, service: FeatureService) -> Iterator[str]:
    used = {reference.name for _, reference in service.references() if reference.of == REQUEST}
    for name in service.request:
        if name not in used:
            yield f"request.{name}: no column is made of it"
        if (source := service.inputs.get(name)) is not None and source.request != name:
            yield f"inputs.{name}: is also a field of the request; give one of them another name"
    if service.hook is not None:
        taken = {reference.name for _, reference in service.references() if reference.of == HOOK}
        for name in service.hook.returns:
            if name not in taken:
                yield f"hook.returns.{name}: no input takes it"


def _prefixed(place: str, fault: str) -> Iterator[str]:
    if fault:
        yield f"{place}: {fault}"


def _some(names: Iterable[str] | Mapping[str, object], limit: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
