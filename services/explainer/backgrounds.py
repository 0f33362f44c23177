"""The backgrounds of all models, by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from infermesh.errors import FailedPrecondition, InvalidRequest, quoted
from services.explainer.background import ZEROS, Background, zeros
from services.explainer.background_file import BackgroundError, read_background
from services.explainer.background_sets import make_background
from services.explainer.config import BackgroundsConfig
from services.explainer.signature import Signature

__all__ = ["DEFAULT", "Backgrounds"]

DEFAULT = "default"
SUFFIX = ".json"

_log = logging.getLogger(__name__)


class Backgrounds:
    """The sets of a folder, read once: `<model>.json` is a model's default, `<model>/<name>.json` are its others; and the sets
    that the settings declare.

    A source that can't be used costs nobody but its own model: who asks for it is told why. The set `zeros` needs no source.
    """

    def __init__(self, config: BackgroundsConfig) -> None:
        if not config.root.is_dir():
            raise FileNotFoundError(f"backgrounds.root: {config.root} is no folder")
        self._config = config
        self._sets: dict[tuple[str, str], Background | str] = {}
        for path in sorted([*config.root.glob(f"*{SUFFIX}"), *config.root.glob(f"*/*{SUFFIX}")]):
            stem = path.name.removesuffix(SUFFIX)
            model, name = (stem, DEFAULT) if path.parent == config.root else (path.parent.name, stem)
            if name not in config.sets.get(model, {}):
                self._add(model, name, partial(read_background, path, name))
        for model, sets in config.sets.items():
            for name, declared in sets.items():
                self._add(model, name, partial(make_background, model, name, declared))

    @classmethod
    async def read(cls, config: BackgroundsConfig) -> Backgrounds:
        """The same in a thread: a payload log of millions of lines takes a while, and health must answer meanwhile."""
        return await asyncio.to_thread(cls, config)

    def _add(self, model: str, name: str, read: Callable[[], Background]) -> None:
        try:
            self._sets[model, name] = read().thinned(self._config.max_rows)
        except BackgroundError as error:
            _log.error("background not usable", extra={"model": model, "background": name, "reason": str(error)})
            self._sets[model, name] = str(error)

    def __len__(self) -> int:
        return len(self._sets)

    def names(self, model: str) -> list[str]:
        """The sets that a request may name."""
        named = [
            name for (owner, name), found in self._sets.items() if owner == model and isinstance(found, Background)
        ]
        return sorted({*named, ZEROS}, key=lambda name: (name != DEFAULT, name))

    def described(self, model: str) -> list[dict[str, str | int]]:
        """Name, rows, source and summary of each set that there are rows of, the default first; as metadata tell it."""
        found = {
            name: found
            for (owner, name), found in self._sets.items()
            if owner == model and isinstance(found, Background)
        }
        return [
            {"name": name, "rows": len(found[name]), "source": found[name].source, "summary": found[name].summary}
            for name in self.names(model)
            if name in found
        ]

    def default(self, model: str) -> str:
        """The set that is used when the request names none; empty: it would be refused."""
        if isinstance(self._sets.get((model, DEFAULT)), Background):
            return DEFAULT
        return ZEROS if (model, DEFAULT) not in self._sets and self._config.missing == ZEROS else ""

    def find(self, signature: Signature, row_shapes: Mapping[str, tuple[int, ...]], name: str = "") -> Background:
        """The set for a request, checked against the model; raises FailedPrecondition, or InvalidRequest for an unknown name."""
        model = signature.model
        wanted = name or self.default(model) or DEFAULT
        found = self._sets.get((model, wanted))
        if found is None and wanted == ZEROS:
            return zeros(signature, row_shapes)
        if found is None and name:
            raise InvalidRequest(
                f'model {quoted(model)}: parameter "background": expected one of {", ".join(self.names(model))[:256]}, got '
                f"{quoted(name)}",
                reason="PARAMETER_INVALID",
            )
        if found is None:
            raise FailedPrecondition(
                f"model {quoted(model)}: it has no background rows to explain against; put {model[:64]}{SUFFIX} into the "
                "folder that the explainer's setting backgrounds.root names, set backgrounds.missing to zeros, or send the "
                'parameter background="zeros"',
                reason="BACKGROUND_MISSING",
            )
        if isinstance(found, str):
            raise FailedPrecondition(
                f"model {quoted(model)}: background {quoted(wanted)} can't be used: {found}", reason="BACKGROUND_BROKEN"
            )
        fitted = found.fitted(signature, row_shapes)
        fitted.check(signature, row_shapes)
        return fitted
