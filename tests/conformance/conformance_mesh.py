"""The four services as processes of their own, for a run of the suite without `--target`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from conformance_wire import Target

__all__ = ["start_mesh"]


def start_mesh(folder: Path, repository: Path) -> AbstractContextManager[dict[str, Target]]:
    """Start predictor, transformer, gateway and explainer on free ports, serving `repository`; end them on exit.

    `folder` is empty, for configuration files and logs. The result has a target per hop, with every field that a case
    of that hop needs; README.md lists what that is. A process that has ended already is no failure on exit: the drain
    case ends them.
    """
    raise NotImplementedError("name a server with --target")
