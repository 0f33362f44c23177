"""A feature service as a YAML file declares it: which columns of which views, and which fields of the request, a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from infermesh.config import OFF, Model
from services.transformer.after.declared import StepConfig
from services.transformer.declaring import FUNCTION, NAME, NOT_A_NAME, Sized, refuse, twice
from services.transformer.transforms.declared import Transform
from services.transformer.transforms.types import Datatype

__all__ = [
    "ALL",
    "HOOK",
    "NAME",
    "NOT_A_NAME",
    "REQUEST",
    "Column",
    "FeatureService",
    "HookConfig",
    "ModelInput",
    "Reference",
    "Sized",
    "ViewUse",
    "refuse",
    "twice",
]

ALL = "*"
REQUEST, HOOK = (
    "request",
    "hook",
)  # what stands in the place of a view's name before a field, and before what a hook returns

ON = BeforeValidator(lambda value: "on" if value is True else value)  # YAML 1.1 reads a bare `on` as true
Overrides = Annotated[Literal["off", "on"], OFF, ON] | list[str]


class Reference(NamedTuple):
    """`view.feature`, `view.*`, `request.field` or `hook.name`, taken apart."""

    of: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Without a dot, the name is empty."""
        of, _, name = text.partition(".")
        return cls(of, name)

    def __str__(self) -> str:
        return f"{self.of}.{self.name}"


class ViewUse(Model):
    """A view under a name of its own within one feature service, so that payer and payee may both be cards."""

    view: str
    """Name of the view."""
    entity: str | dict[str, str] = ""
    """The request's input that carries the ids; for an entity of several keys, by key. Left out: the names in the view."""


class HookConfig(Model):
    """A function of your own, for what no declared transform does."""

    function: str
    """`module:function`, on the path of Python where the transformer runs."""
    columns: list[str] = Field(min_length=1)
    """What it gets: `view.feature`, `view.*`, `request.field`."""
    returns: dict[str, Sized] = Field(min_length=1)
    """What it returns, by name; an input takes it as `hook.<name>`."""

    @model_validator(mode="after")
    def _whole(self) -> HookConfig:
        faults = (
            [] if FUNCTION.fullmatch(self.function) else [f'function: expected module:function, got "{self.function}"']
        )
        faults += [f'returns: "{name}": {NOT_A_NAME}' for name in self.returns if not NAME.fullmatch(name)]
        refuse(faults)
        return self


class Column(Model):
    """One or several columns of an input, taken as they are or transformed. A text alone is a `column`."""

    column: str | None = None
    """`view.feature`, `view.*`, `request.field` or `hook.name`."""
    ratio: list[str] | None = Field(None, min_length=2, max_length=2)
    """Two of them: the first divided by the second."""
    zero: float = 0.0
    """What a ratio is where its second is 0."""
    transform: list[Transform] = Field(default_factory=list, max_length=16)
    """Steps, done one after the other."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Column:
        faults = [] if (self.column is None) is not (self.ratio is None) else ["expected one of column, ratio"]
        if self.ratio is None and "zero" in self.model_fields_set:
            faults.append("zero: says nothing without ratio")
        refuse(faults)
        return self

    @property
    def references(self) -> list[Reference]:
        return [Reference.parse(text) for text in ([self.column] if self.column is not None else self.ratio or [])]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to it."""
        return self.column is not None and not self.transform

    @property
    def text(self) -> str:
        """How a fault names it."""
        return self.column if self.column is not None else f"ratio {self.ratio}"


class ModelInput(Model):
    """Where one input of the model comes from: exactly one of the three is given."""

    columns: list[Column] | None = Field(None, min_length=1)
    """Columns side by side as one matrix [N, W]."""
    feature: Column | None = None
    """One column, as [N, 1], or as [N] with `rank: 1`."""
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
        refuse(faults)
        return self

    @property
    def parts(self) -> list[Column]:
        """The columns, whether they are many or one; none of a renamed input."""
        return self.columns if self.columns is not None else [self.feature] if self.feature is not None else []


class FeatureService(Model):
    """How a request for one model, in all its versions, becomes the model's inputs."""

    description: str = ""
    """For people."""
    views: dict[str, ViewUse] = Field(default_factory=dict)
    """Views that go by another name here; every other name in `inputs` is a view's own."""
    request: dict[str, Sized] = Field(default_factory=dict)
    """Inputs of the request that become columns; the model gets them themselves only where `inputs` says so."""
    hook: HookConfig | None = None
    """Columns that a function of your own makes."""
    inputs: dict[str, ModelInput] = Field(default_factory=dict)
    """The model's inputs that are looked up or renamed, by their name in the model; needed unless there are steps `after`."""
    shared: list[str] = Field(default_factory=list)
    """Inputs of the request that do not have a row for each entity, such as a threshold."""
    overrides: Overrides = "off"
    """Who may send features in the place of stored ones, as `infermesh_feature.<name>`: nobody, everybody, or these tenants."""
    given: Literal["allow", "refuse"] = "allow"
    """Whether a request may bring the looked-up inputs, without ids; where `overrides` lists tenants, from these alone."""
    after: list[StepConfig] = Field(default_factory=list, max_length=64)
    """Steps on the model's answer, done one after the other; explanations pass untouched."""

    def references(self) -> Iterator[tuple[str, Reference]]:
        """Everything that is taken from somewhere, and where in the service that is said."""
        for name, source in self.inputs.items():
            for column in source.parts:
                for reference in column.references:
                    yield f"inputs.{name}", reference
        for text in self.hook.columns if self.hook else ():
            yield "hook.columns", Reference.parse(text)
