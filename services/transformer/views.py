"""Feature views and feature services, as a YAML file declares them: parsed whole, checked whole, every fault at once.

A *view* is a table of features under one entity: which columns a row has, what stands in for a value that is not there, and how
old a row may be. A *service* belongs to a model and says which columns of which views become which of the model's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from infermesh.config import Duration, Model
from services.transformer.feature_service import (
    NAME,
    NOT_A_NAME,
    FeatureService,
    ModelInput,
    Reference,
    ViewUse,
    refuse,
    twice,
)
from services.transformer.layout.settings import LayoutSetting, PackedSetting
from services.transformer.layout.stored import faults_of
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.row import RowFormat
from services.transformer.schema import Column as Stored
from services.transformer.schema import unfit
from services.transformer.transforms.types import Datatype

__all__ = [
    "Entity",
    "EntityKey",
    "Feature",
    "FeatureFile",
    "FeatureService",
    "FeatureView",
    "ModelInput",
    "SourceGroup",
    "UsedView",
    "ViewUse",
]

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Default = Scalar | list[Scalar] | list[list[Scalar]]


class EntityKey(Model):
    """One id of an entity that has several."""

    name: str
    """Name of the key; also of the request's input that carries its ids, unless a feature service says otherwise."""
    type: Literal["string", "int"] = "string"
    """`string`: a BYTES input, ids are bytes and compared as such; `int`: an INT64 input."""

    @property
    def datatype(self) -> str:
        """The datatype of an input that carries ids of this key."""
        return "BYTES" if self.type == "string" else "INT64"


class Entity(Model):
    """What a view is about, and the inputs that carry its ids: one, or with `keys` several, which name it together."""

    name: str
    """Name of the entity; also of the request's input that carries its ids, unless a feature service says otherwise."""
    type: Literal["string", "int"] = "string"
    """`string`: a BYTES input, ids are bytes and compared as such; `int`: an INT64 input."""
    keys: list[EntityKey] = Field(default_factory=list, max_length=16)
    """For an entity that takes several ids to name, such as a card at a shop: each of them, in the order of the stored key."""

    @property
    def parts(self) -> list[EntityKey]:
        """The ids that name the entity."""
        return self.keys or [EntityKey(name=self.name, type=self.type)]

    @property
    def datatype(self) -> str:
        """The datatype of an input that carries ids of this entity, if it has one."""
        return self.parts[0].datatype

    @model_validator(mode="after")
    def _whole(self) -> Entity:
        faults = [f'entity: key "{name}": stands twice' for name in twice(key.name for key in self.keys)]
        if self.keys and "type" in self.model_fields_set:
            faults.append("entity: type: each of the keys has its own")
        refuse(faults)
        return self


class PastFeature(Model):
    """One column of an earlier schema."""

    name: str
    """Name of the feature."""
    datatype: Datatype = "FP32"
    """How its values were stored."""
    shape: list[int] = Field(default_factory=list)
    """Its shape, if it was a vector."""
    group: str = ""
    """Its source group, if it had one."""

    @property
    def stored(self) -> Stored:
        """The column as rows hold it."""
        return Stored(self.name, self.datatype, tuple(self.shape), self.group)

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(NOT_A_NAME)
        return name

    @model_validator(mode="after")
    def _storable(self) -> PastFeature:
        self.stored.check()
        return self


class Feature(PastFeature):
    """One column of a view."""

    name: str
    """Name of the feature, and of its column in the CSV."""
    datatype: Datatype = "FP32"
    """How its values are stored."""
    shape: list[int] = Field(default_factory=list)
    """Left out: one value; [k]: a vector of k; [m, k]: a matrix."""
    group: str = ""
    """Its source group, by which it has an event time; left out: that of the view."""
    default: Default | None = None
    """What stands in where there is no value; needed under a policy `default`."""
    description: str = ""
    """For people."""
    owner: str = ""
    """Who answers for it; left out: who answers for the view."""

    @model_validator(mode="after")
    def _default_fits(self) -> Feature:
        if self.default is not None and (problem := unfit(self.default, self.datatype, self.shape)):
            raise ValueError(f'feature "{self.name}": default: {problem}')
        return self


class SourceGroup(Model):
    """Features of a view that are computed together: each group of a row has an event time of its own."""

    description: str = ""
    """For people."""
    owner: str = ""
    """Who answers for it; left out: who answers for the view."""
    max_age: Duration | None = None
    """The age from which on its features are stale; left out: that of the view."""
    missing: Literal["default", "fail"] | None = None
    """What answers for its features where there is no row, or a null; left out: as in the view."""
    stale: Literal["default", "fail", "serve"] | None = None
    """What answers for its features when they are stale; left out: as in the view."""


class FeatureView(Model):
    """A table of features under one entity. The order of the features is part of the stored format."""

    description: str = ""
    """For people."""
    owner: str = ""
    """Who answers for it."""
    entity: Entity
    features: list[Feature] = Field(min_length=1, max_length=4096)
    """The columns of a row, in the order in which they are stored."""
    groups: dict[str, SourceGroup] = Field(default_factory=dict)
    """Source groups, by the names that features give."""
    previous: list[list[PastFeature]] = Field(default_factory=list, max_length=16)
    """Earlier schemas, whose rows are read too during a migration."""
    layout: LayoutSetting = Field(default_factory=PackedSetting)
    """How its rows lie in Redis."""
    max_age: Duration | None = None
    """A row whose event time is longer ago is stale; left out: no row ever is."""
    ttl: Duration | None = Field(None, ge=0.001)
    """How long after it was written a row goes from the store by itself; left out: never."""
    missing: Literal["default", "fail"] = "fail"
    """What answers for an entity without a row, with a row of another schema, or with a null."""
    stale: Literal["default", "fail", "serve"] = "fail"
    """What answers for a stale row; `serve`: the row itself."""
    unavailable: Literal["default", "fail"] = "fail"
    """What answers while Redis does not: defaults, or UNAVAILABLE."""
    source: str = ""
    """File name of the CSV that fills this view when a folder is loaded."""

    @property
    def columns(self) -> list[Stored]:
        """Name, datatype, shape and group of each feature: the schema of a stored row."""
        return [feature.stored for feature in self.features]

    @property
    def max_ages(self) -> dict[str, float]:
        """The groups that have a maximum age of their own, in seconds."""
        return {name: group.max_age for name, group in self.groups.items() if group.max_age is not None}

    def missing_of(self, group: str) -> str:
        """The policy for features of a group that are not there."""
        return (group in self.groups and self.groups[group].missing) or self.missing

    def stale_of(self, group: str) -> str:
        """The policy for features of a group that are stale."""
        return (group in self.groups and self.groups[group].stale) or self.stale

    @property
    def past(self) -> list[list[Stored]]:
        """The earlier schemas."""
        return [[feature.stored for feature in schema] for schema in self.previous]

    @model_validator(mode="after")
    def _whole(self) -> FeatureView:
        faults = [f'feature "{name}": stands twice' for name in twice(feature.name for feature in self.features)]
        faults += self._faults_of_defaults()
        for name, group in self.groups.items():
            if group.stale is not None and group.max_age is None and self.max_age is None:
                faults.append(f"groups.{name}.stale: says nothing without max_age")
        if "stale" in self.model_fields_set and self.max_age is None and not self.max_ages:
            faults.append("stale: says nothing without max_age")
        used = {feature.group for feature in self.features} - {""}
        faults += [f'groups: no group "{name}", which a feature names' for name in sorted(used - self.groups.keys())]
        faults += [f"groups.{name}: no feature is of it" for name in self.groups if name not in used]
        if len({column.name for column in self.columns}) == len(self.columns):
            faults += self._faults_of_rows()
        refuse(faults)
        return self

    def _faults_of_defaults(self) -> list[str]:
        """Features without a default under a policy that needs one: the view's, or their group's."""
        wanting: dict[str, list[str]] = {}
        for feature in self.features:
            if feature.default is not None:
                continue
            group = self.groups.get(feature.group)
            for policy in ("missing", "stale", "unavailable"):
                own = getattr(group, policy, None)
                if (own or getattr(self, policy)) == "default":
                    at = f"groups.{feature.group}.{policy}" if own else policy
                    wanting.setdefault(at, []).append(feature.name)
                    break
        return [
            f"{policy}: default: every feature needs a default, none is given for {_some(names)}"
            for policy, names in wanting.items()
        ]

    def _faults_of_rows(self) -> list[str]:
        stored = RowFormat(self.columns)
        entity = {key.name: key.type for key in self.entity.parts}
        faults = faults_of(self.layout, stored, entity=entity, aged=self.max_age is not None or bool(self.max_ages))
        try:
            PreviousSchemas(stored, self.past)
        except ValueError as error:
            faults.append(str(error))
        return faults


class UsedView(NamedTuple):
    """A view as a feature service reads it: its own name, and the request's inputs with the ids, in the order of the keys."""

    view: FeatureView
    name: str
    inputs: tuple[str, ...]


class FeatureFile(Model):
    """A file of feature views and feature services."""

    views: dict[str, FeatureView] = Field(default_factory=dict)
    """By the name of the view."""
    services: dict[str, FeatureService] = Field(default_factory=dict)
    """By the name of the model; its explainer, `<model>-explainer`, uses the same one."""

    @model_validator(mode="after")
    def _whole(self) -> FeatureFile:
        from services.transformer.service_faults import faults_of_service  # which looks at whole files

        faults = [f'views: "{name}": {NOT_A_NAME}' for name in self.views if not NAME.fullmatch(name)]
        for model, service in self.services.items():
            faults += [f"services.{model}.{fault}" for fault in faults_of_service(self, service)]
        refuse(faults)
        return self

    def view_of(self, service: FeatureService, alias: str) -> FeatureView | None:
        """The view that goes by this name in a service; None if there is none."""
        use = service.views.get(alias)
        return self.views.get(use.view if use else alias)

    def uses(self, service: FeatureService) -> dict[str, UsedView]:
        """The views that a service reads, by their name in it."""
        found: dict[str, UsedView] = {}
        for _, reference in service.references():
            alias = reference.of
            if alias in found or not is_view(reference, service):
                continue
            use = service.views.get(alias) or ViewUse(view=alias)
            view = self.views[use.view]
            found[alias] = UsedView(view, use.view, _inputs(view.entity, use.entity))
        return found

    def features_of(self, service: FeatureService, reference: Reference) -> list[Feature]:
        """The features that `view.feature` or `view.*` names; none of a field or of what a hook returns."""
        if not is_view(reference, service):
            return []
        view = self.view_of(service, reference.of)
        return [feature for feature in view.features if reference.name in ("*", feature.name)] if view else []


def is_view(reference: Reference, service: FeatureService) -> bool:
    """Whether a reference is about a view, and not about a field of the request or the hook."""
    if reference.of == "request":
        return not service.request
    return reference.of != "hook" or service.hook is None


def _inputs(entity: Entity, said: str | dict[str, str]) -> tuple[str, ...]:
    if isinstance(said, str):
        return (said,) if said else tuple(key.name for key in entity.parts)
    return tuple(said.get(key.name, key.name) for key in entity.parts)


def _some(names: Iterable[str], limit: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
