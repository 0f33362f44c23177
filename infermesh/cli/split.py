"""What a route file promises about one model: the variants with their weights, and the shadows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infermesh.cli.failure import Failure
from infermesh.config import parse

__all__ = ["Promise", "Shadow", "Variant", "read_promise"]


@dataclass(frozen=True)
class Variant:
    """One of the alternatives that may answer; its weight is relative to the other ones."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True)
class Shadow:
    """Who gets a copy of this fraction of the calls."""

    name: str
    version: str
    fraction: float


@dataclass(frozen=True)
class Promise:
    """A route, as far as a caller can see whether it is kept."""

    variants: tuple[Variant, ...]
    shadows: tuple[Shadow, ...]

    def share(self, variant: Variant) -> float:
        """The share of the calls that the variant should get, 0 to 1."""
        return variant.weight / (sum(each.weight for each in self.variants) or 1.0)

    @property
    def largest(self) -> str:
        """The variant with the most weight."""
        return max(self.variants, key=lambda variant: variant.weight).name if self.variants else ""


def read_promise(file: Path, model: str) -> Promise:
    """The route of a model, by its exact name. Raises Failure when there is none, ConfigError for a file with faults."""
    from services.gateway.routes import RoutesFile

    for route in parse(RoutesFile, file).routes:
        if route.model == model:
            return Promise(
                tuple(Variant(each.name, each.version, each.weight) for each in route.alternatives),
                tuple(Shadow(each.name, each.version, each.fraction) for each in route.shadows),
            )
    raise Failure(f"{file}: no route for {model}")
