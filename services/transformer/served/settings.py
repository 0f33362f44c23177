"""Settings of the log of what was served."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from infermesh.config import OFF, ConfigPath, Model, Size

__all__ = ["ServedLogConfig"]

Share = Annotated[float, Field(ge=0, le=1)]
Glob = Annotated[str, Field(min_length=1, max_length=256)]


class ServedLogConfig(Model):
    """A sample of the features that models were served, as `infermesh features log` makes training data of."""

    mode: Annotated[Literal["off", "file"], OFF] = "off"
    """`off` costs nothing."""
    folder: ConfigPath | None = None
    """Folder of the files; it must be there. Several transformers may share one."""
    share: Share = 0.01
    """Share of the requests that are logged, by a hash of the request id."""
    models: dict[Glob, Share] = Field(default_factory=dict, max_length=1000)
    """Shares of some models instead; `*` and `?` stand for any characters, an exact name counts before others."""
    shadows: bool = False
    """Whether copies for shadows are logged as well: their features were looked up anew, and reached no caller."""
    max_request: Size = Field("1MiB", ge=0, le=16 << 20)  # type: ignore[assignment]  # checked like a file's
    """Rows and inputs of the largest request that is logged; of a larger one nothing is, and it is counted."""
    max_bytes: Size = Field("64MiB", ge=64 << 10)  # type: ignore[assignment]
    """Size at which a new file is begun."""
    max_total: Size = Field("1GiB", ge=128 << 10)  # type: ignore[assignment]
    """Size of all files together; the oldest are deleted for it."""
    max_waiting: Size = Field("32MiB", ge=64 << 10)  # type: ignore[assignment]
    """What may wait for the thread that writes; past it requests are not logged, and counted."""

    @model_validator(mode="after")
    def _consistent(self) -> ServedLogConfig:
        if self.mode == "file" and self.folder is None:
            raise ValueError("expected `folder` with mode file")
        if self.max_total < 2 * self.max_bytes:
            raise ValueError("max_total: expected at least twice max_bytes, so that a new file has its place")
        return self
