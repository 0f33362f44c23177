"""What is known of an answer's outputs between two steps, before there is an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["OutputType", "Outputs"]

ANY = -1  # a dimension of any size


class OutputType(NamedTuple):
    """Datatype and shape; empty and None where nobody knows."""

    datatype: str = ""
    shape: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        """Values in a row of [N] or [N, C]; ANY: it is not known."""
        if self.shape is None or len(self.shape) not in (1, 2):
            return ANY
        return 1 if len(self.shape) == 1 else self.shape[1]


class Outputs:
    """The outputs by name, in their order, as steps change them one after the other; `faults` gathers what can't be.

    Begun with `model`, the outputs that its metadata name, there are no others; without it, any name may be the model's until a
    step took it away. `classes` are the names in the model's property: None while the model is unknown, empty where it has none.
    """

    def __init__(self, model: Mapping[str, OutputType] | None = None, classes: Sequence[str] | None = None) -> None:
        self.known = dict(model or {})
        self.classes = classes
        self.faults: list[str] = []
        self.place = ""
        """Where in the service the step stands, such as `after.0.classes`."""
        self._is_open = model is None
        self._gone: dict[str, str] = {}
        self._kept_by = ""

    def fault(self, key: str, text: str) -> None:
        """Name a fault of the step."""
        self.faults.append(f"{self.place}{'.' if key else ''}{key}: {text}")

    def use(self, key: str, name: str) -> OutputType:
        """An output that the step takes."""
        if name in self.known:
            return self.known[name]
        if gone := self.is_gone(name):
            self.fault(key, f'"{name}" is no more: {gone}')
        elif self._is_open:
            self.known[name] = OutputType()
        else:
            self.fault(key, f'the model has no output "{name}"; there are {", ".join(self.known)[:256] or "none"}')
        return OutputType()

    def put(self, key: str, name: str, of: OutputType, *, instead: str | None = None) -> None:
        """An output that the step makes: a further one, or one in the place and under the name of `instead`."""
        if instead != name and name in self.known:
            self.fault(key, f'there is an output "{name}" already')
        self.known[name] = of
        self._gone.pop(name, None)

    def remove(self, name: str) -> None:
        """An output goes; `use` it first."""
        self.known.pop(name, None)
        self._gone[name] = f"{self.place} took it away"

    def rename(self, names: Mapping[str, str]) -> None:
        """Outputs get other names, all at once, in their places; `use` them first."""
        for new in names.values():
            if new in self.known and new not in names:
                self.fault("", f'there is an output "{new}" already')
        for old in names:
            self._gone[old] = f"{self.place} took it away"
        self.known = {names.get(name, name): of for name, of in self.known.items()}
        for new in names.values():
            self._gone.pop(new, None)

    def keep(self, names: Sequence[str]) -> None:
        """All others go; `use` these first."""
        for name in [name for name in self.known if name not in names]:
            self.remove(name)
        if self._is_open:
            self._is_open, self._kept_by = False, f"{self.place} does not keep it"

    def names(self, key: str, declared: Sequence[str] | None, width: int = ANY) -> None:
        """Check the names of classes that the step takes, its own or the model's, for so many of them."""
        found = declared if declared is not None else self.classes
        if found is None:
            return
        if not found:
            self.fault(key, "needed: the model has no property infermesh.classes")
        elif width not in (ANY, len(found)):
            self.fault(key, f"{len(found)} names for {width} classes")

    def is_gone(self, name: str) -> str:
        """What took a name away; empty: nothing did."""
        return "" if name in self.known else self._gone.get(name, self._kept_by)
