"""The services behind the gateway."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from infermesh.filters import Retry
from infermesh.service import Filter, InferenceService, ModelRepository, stack

__all__ = ["Backend", "Remote"]


class Remote(InferenceService, ModelRepository, Protocol):
    """What a backend is asked through: in this process or on the other side of a channel."""

    def variant(self, *, model: str = "", version: str = "") -> InferenceService:
        """The same service, asked for another model or version than the request says."""
        ...


@dataclass(frozen=True)
class Backend:
    """A backend of the configuration, with the filters that stand round each call to it. Its state outlives route tables."""

    name: str
    remote: Remote
    filters: tuple[Filter, ...] = ()
    copy_filters: tuple[Filter, ...] = ()  # that stand round copies of calls, which are not retried
    address: object = None  # backends with the same one are one service: what is for all is sent to it once

    @property
    def identity(self) -> object:
        return self.name if self.address is None else self.address

    def answering(self, *, model: str = "", version: str = "", not_started: bool = False) -> InferenceService:
        """The backend with its filters; as a service that is asked for this model and version. `not_started`: only what was not
        begun is tried again, from the same budget."""
        service = self.remote.variant(model=model, version=version)
        filters = self.filters
        if not_started:
            filters = tuple(replace(each, rejected_only=True) if isinstance(each, Retry) else each for each in filters)
        return stack(*filters, service=service) if filters else service

    def copying(self, *, model: str = "", version: str = "") -> InferenceService:
        """The same for copies of calls."""
        service = self.remote.variant(model=model, version=version)
        return stack(*self.copy_filters, service=service) if self.copy_filters else service
