"""The models of what a route leads to: variants, shadows, explanations, and what keeps a caller on one variant."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from infermesh.config import Duration, Model, Size
from infermesh.names import LABEL
from services.gateway.compare_config import CompareConfig

__all__ = [
    "DEFAULT_VARIANT",
    "NAME",
    "ExplanationsConfig",
    "MetadataKey",
    "Printable",
    "ShadowConfig",
    "StickyConfig",
    "TargetConfig",
    "VariantConfig",
    "Weight",
    "WhenDead",
]

DEFAULT_VARIANT = "default"  # of a route that has one variant and gives it no name
NAME = r"^[a-z0-9][a-z0-9_.-]{0,62}$"  # of a variant or shadow: it travels in metadata and is a label of metrics

_SECRET = ("authorization", "cookie", "proxy-authorization", "x-api-key")


def _readable(key: str) -> str:
    if key in _SECRET or key.startswith("x-infermesh-") or key.endswith("-bin"):
        raise ValueError("expected metadata of the caller's own; credentials, x-infermesh-* and *-bin are not")
    return key


MetadataKey = Annotated[str, Field(pattern=r"^[a-z0-9_.-]*$", max_length=128), AfterValidator(_readable)]
"""Key of a call's metadata, in lower case; never one that may hold a credential, or that hops of the mesh tell each other."""


def _number(weight: Any) -> Any:
    """`yes` and `"5"` would be weights too: of a slip, most likely."""
    if isinstance(weight, bool | str):
        raise ValueError("expected a number")
    return weight


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("expected a name of printable characters")
    return name


Printable = Annotated[str, AfterValidator(_printable)]

Version = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
    Field(pattern=rf"^(0|[1-9][0-9]{{0,17}}|{LABEL})?$"),
]

WhenDead = Literal["others", "fail"]

Weight = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=math.inf)]


class StickyConfig(Model):
    """Where a call's sticky key is looked for: in each place that is named, in this order; the first that has one counts."""

    metadata: MetadataKey = ""
    """Key of the call's metadata, in lower case."""
    parameter: Printable = ""
    """Request parameter with a text or a whole number."""
    input: Printable = ""
    """Input with entity ids: texts or whole numbers. The first element counts, for all rows of the request."""
    tenant: bool = False
    """The caller's tenant."""
    salt: str = Field("", max_length=128)
    """What keys are hashed with; left out: the route's name. Routes with the same salt and names of variants put a key on the
    same one; another salt deals all keys anew."""

    @model_validator(mode="after")
    def _one(self) -> StickyConfig:
        if not any((self.metadata, self.parameter, self.input, self.tenant)):
            raise ValueError("expected at least one of metadata, parameter, input and tenant")
        return self


class TargetConfig(Model):
    """What is asked for a route's model."""

    backend: str = ""
    """Backend, by its name in the gateway's configuration; left out: the route's."""
    version: Version = ""
    """Version that the backend is asked for, or the label of one; left out: the backend's own choice."""
    model: Printable = ""
    """Model that the backend is asked for, where it has another name there; callers see the name they asked for."""


class VariantConfig(TargetConfig):
    """One alternative behind a route."""

    name: str = Field(pattern=NAME)
    """Name in answers (`infermesh_variant`), metadata, logs and metrics."""
    weight: Weight
    """Share of the split, relative to the other weights; 0: only for who asks for its version, or for it by name, and for
    rules that name it."""


class ShadowConfig(TargetConfig):
    """A candidate that gets a copy of some calls; nobody waits for its answers."""

    name: str = Field(pattern=NAME)
    """What hops below see as the variant of a copy."""
    fraction: float = Field(ge=0, le=1)
    """Share of the calls that are copied; explanations are not."""
    max_in_flight: int = Field(64, ge=1, le=4096)
    """Copies under way at a time."""
    max_waiting: int = Field(0, ge=0, le=65_536)
    """Copies that may wait for their turn past those, within their `budget`; more are dropped, and counted as shed."""
    max_request: Size = Field("1MiB", ge=1)  # type: ignore[assignment]
    """Largest request that is copied: what waits for a slow candidate holds memory."""
    budget: Duration = Field("1s", gt=0)  # type: ignore[assignment]
    """How long a copy may take; the caller's own deadline is about someone who does not wait for it."""
    compare: CompareConfig = CompareConfig()
    """How its answers are compared with the primary's, where the gateway compares. Routes for a prefix are mirrored, and not
    compared: their answers are of many models."""


class ExplanationsConfig(Model):
    """Who answers `<model>-explainer`."""

    backend: str
    """Backend that is asked instead of the variant's own."""
