"""Feature views and feature services, as a YAML file declares them: parsed whole, checked whole, every fault at once.

A *view* is a table of features under one entity: which columns a row has, what stands in for a value that is not there, and how
old a row may be. A *service* belongs to a model and says which columns of which views become which of the model's inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, field_validator, model_validator

from infermesh.config import Duration, Model
from services.transformer.row import unfit

__all__ = ["Entity", "Feature", "FeatureFile", "FeatureService", "FeatureView", "ModelInput", "ViewUse"]

Datatype = Literal["FP32", "FP64", "INT64", "BOOL"]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")  # no dot and no colon: they part names in columns and keys
ALL = "*"

# What a column of one datatype may become in a model's input without losing what it says.
CASTS: dict[str, tuple[str, ...]] = {
    "BOOL": ("BOOL", "INT64", "FP32", "FP64"),
    "INT64": ("INT64", "FP32", "FP64"),
    "FP32": ("FP32", "FP64"),
    "FP64": ("FP64", "FP32"),
}


class Entity(Model):
    """What a view is about: the input that carries its ids, and how they are written."""

    name: str
    """Name of the entity; also of the request's input that carries its ids, unless a feature service says otherwise."""
    type: Literal["string", "int"] = "string"
    """`string`: a BYTES input, ids are bytes and compared as such; `int`: an INT64 input."""

    @property
    def datatype(self) -> str:
        """The datatype of an input that carries ids of this entity."""
        return "BYTES" if self.type == "string" else "INT64"


class Feature(Model):
    """One column of a view."""

    name: str
    """Name of the feature, and of its column in the CSV."""
    datatype: Datatype = "FP32"
    """How its values are stored."""
    default: StrictBool | StrictInt | StrictFloat | None = None
    """What stands in where there is no value; needed under a policy `default`."""
    description: str = ""
    """For people."""

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return _name(name)

    @model_validator(mode="after")
    def _default_fits(self) -> Feature:
        if self.default is not None and (problem := unfit(self.default, self.datatype)):
            raise ValueError(f'feature "{self.name}": default: {problem}')
        return self


class FeatureView(Model):
    """A table of features under one entity. The order of the features is part of the stored format."""

    description: str = ""
    """For people."""
    entity: Entity
    features: list[Feature] = Field(min_length=1, max_length=4096)
    """The columns of a row, in the order in which they are stored."""
    max_age: Duration | None = None
    """A row whose event time is longer ago is stale; left out: no row ever is."""
    missing: Literal["default", "fail"] = "fail"
    """What answers for an entity without a row, with a row of another schema, or with a null."""
    stale: Literal["default", "fail", "serve"] = "fail"
    """What answers for a stale row; `serve`: the row itself."""
    unavailable: Literal["default", "fail"] = "fail"
    """What answers while Redis does not: defaults, or UNAVAILABLE."""
    source: str = ""
    """File name of the CSV that fills this view when a folder is loaded."""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Name and datatype of each feature: the schema of a stored row."""
        return [(feature.name, feature.datatype) for feature in self.features]

    @model_validator(mode="after")
    def _whole(self) -> FeatureView:
        faults = [f'feature "{name}": stands twice' for name in _twice(feature.name for feature in self.features)]
        policies = [policy for policy in ("missing", "stale", "unavailable") if getattr(self, policy) == "default"]
        without = [feature.name for feature in self.features if feature.default is None]
        if policies and without:
            faults.append(f"{policies[0]}: default: every feature needs a default, none is given for {_some(without)}")
        if "stale" in self.model_fields_set and self.max_age is None:
            faults.append("stale: says nothing without max_age")
        _refuse(faults)
        return self


class ViewUse(Model):
    """A view under a name of its own within one feature service, so that payer and payee may both be cards."""

    view: str
    """Name of the view."""
    entity: str = ""
    """The request's input that carries the ids; left out: the name of the view's entity."""


class ModelInput(Model):
    """Where one input of the model comes from: exactly one of the three is given."""

    columns: list[str] | None = Field(None, min_length=1)
    """Looked-up features, `view.feature` or `view.*`, side by side as one matrix [N, W]."""
    feature: str | None = None
    """One looked-up feature, `view.feature`, as a column [N, 1], or as [N] with `rank: 1`."""
    request: str | None = None
    """The request's input under this other name. Inputs that nothing is said about pass as they are."""
    datatype: Datatype | None = None
    """Datatype of the model's input; left out: that of the columns, which must then be one."""
    rank: Literal[1, 2] = 2
    """Dimensions of the model's input; 1 is for a single feature."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelInput:
        given = [name for name in ("columns", "feature", "request") if getattr(self, name) is not None]
        faults = [] if len(given) == 1 else [f"expected one of columns, feature, request, got {given or 'none'}"]
        if self.rank == 1 and self.feature is None:
            faults.append("rank: 1 is for a single feature")
        if self.request is not None and self.datatype is not None:
            faults.append("datatype: a request's input passes with its own")
        _refuse(faults)
        return self


class FeatureService(Model):
    """How a request for one model, in all its versions, becomes the model's inputs."""

    description: str = ""
    """For people."""
    views: dict[str, ViewUse] = Field(default_factory=dict)
    """Views that go by another name here; every other name in `inputs` is a view's own."""
    inputs: dict[str, ModelInput] = Field(min_length=1)
    """The model's inputs that are looked up or renamed, by their name in the model."""
    shared: list[str] = Field(default_factory=list)
    """Inputs of the request that do not have a row for each entity, such as a threshold."""


class FeatureFile(Model):
    """A file of feature views and feature services."""

    views: dict[str, FeatureView] = Field(default_factory=dict)
    """By the name of the view."""
    services: dict[str, FeatureService] = Field(default_factory=dict)
    """By the name of the model; its explainer, `<model>-explainer`, uses the same one."""

    @model_validator(mode="after")
    def _whole(self) -> FeatureFile:
        faults = [f"views: {_not_a_name(name)}" for name in self.views if not NAME.fullmatch(name)]
        for model, service in self.services.items():
            faults += [f"services.{model}.{fault}" for fault in self._faults_of(service)]
        _refuse(faults)
        return self

    def uses(self, service: FeatureService) -> dict[str, tuple[FeatureView, str, str]]:
        """The views that a service reads, by their name in it: the view, its own name, the request's input with the ids."""
        found = {}
        for alias in dict.fromkeys(reference.partition(".")[0] for reference in _references(service)):
            use = service.views.get(alias) or ViewUse(view=alias)
            view = self.views[use.view]
            found[alias] = (view, use.view, use.entity or view.entity.name)
        return found

    def columns_of(self, service: FeatureService, source: ModelInput) -> list[tuple[str, Feature]]:
        """The looked-up columns of an input in order, as (name of the view in the service, feature); none of a renamed input."""
        columns: list[tuple[str, Feature]] = []
        for reference in source.columns or ([source.feature] if source.feature else []):
            alias, _, name = reference.partition(".")
            view = self.views[service.views[alias].view if alias in service.views else alias]
            columns += [(alias, feature) for feature in view.features if name in (ALL, feature.name)]
        return columns

    def _faults_of(self, service: FeatureService) -> Iterator[str]:
        unknown = [
            f'views.{alias}: no view "{use.view}"' for alias, use in service.views.items() if use.view not in self.views
        ]
        unknown += [
            f"inputs.{name}: {fault}"
            for name, source in service.inputs.items()
            for fault in self._unknown_columns(service, source)
        ]
        yield from unknown
        if unknown:
            return  # what follows looks at the columns
        for name, source in service.inputs.items():
            datatypes = {feature.datatype for _, feature in self.columns_of(service, source)}
            if source.datatype is None and len(datatypes) > 1:
                yield f"inputs.{name}: datatype: needed, its columns are {', '.join(sorted(datatypes))}"
            for datatype in sorted(datatypes):
                if source.datatype is not None and source.datatype not in CASTS[datatype]:
                    yield f"inputs.{name}: datatype: {datatype} columns can't become {source.datatype}"
        yield from self._input_faults(service)

    def _input_faults(self, service: FeatureService) -> Iterator[str]:
        uses = self.uses(service)
        if not uses:
            yield "inputs: nothing is looked up; leave the service out"
        for alias in service.views.keys() - uses.keys():
            yield f"views.{alias}: no input uses it"
        datatypes: dict[str, str] = {}
        for alias, (view, _, entity) in uses.items():
            if datatypes.setdefault(entity, view.entity.datatype) != view.entity.datatype:
                yield f'views.{alias}: input "{entity}" can\'t carry ids of both kinds, string and int'
            if (source := service.inputs.get(entity)) is not None and source.request != entity:
                yield f'inputs.{entity}: is also the name of the input that carries the ids of view "{alias}"'
        renamed = [source.request for source in service.inputs.values() if source.request is not None]
        for name in _twice(renamed):
            yield f'inputs: the request\'s "{name}" is named by more than one'

    def _unknown_columns(self, service: FeatureService, source: ModelInput) -> Iterator[str]:
        for reference in source.columns or ([source.feature] if source.feature is not None else []):
            alias, dot, name = reference.partition(".")
            use = service.views.get(alias)
            view = self.views.get(use.view if use else alias)
            if not dot:
                yield f'"{reference}": expected view.feature{" or view.*" if source.columns else ""}'
            elif view is None:
                if use is None:  # else the fault is named at the use
                    yield f'"{reference}": no view "{alias}"; there are {_some(sorted({*self.views, *service.views}))}'
            elif name == ALL and source.feature is not None:
                yield f'"{reference}": expected one feature; give several as columns'
            elif name != ALL and name not in (feature.name for feature in view.features):
                yield f'"{reference}": no such feature; the view has {_some([f.name for f in view.features])}'


def _references(service: FeatureService) -> Iterator[str]:
    for source in service.inputs.values():
        yield from source.columns or ([source.feature] if source.feature else [])


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("expected letters, digits, _ and -, beginning with a letter or _")
    return name


def _not_a_name(name: str) -> str:
    return f'"{name}": expected letters, digits, _ and -, beginning with a letter or _'


def _twice(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _refuse(faults: list[str]) -> None:
    """Raise a ValueError with every fault on a line of its own; without any, do nothing."""
    if faults:
        raise ValueError("\n  ".join(faults))
