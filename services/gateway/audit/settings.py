"""Settings of the audit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from infermesh.config import OFF, ConfigPath, Duration, Model, Size

__all__ = ["AuditConfig"]


class AuditConfig(Model):
    """One JSON line for each inference."""

    mode: Annotated[Literal["off", "stdout", "file"], OFF] = "off"
    """Where lines go; `off` costs nothing."""
    file: ConfigPath | None = None
    """File of mode `file`; its folder must be there. One that is moved away is begun anew. Each gateway needs its own."""
    max_bytes: Size = Field("100MiB", ge=64 << 10)  # type: ignore[assignment]  # checked like a file's
    """Size at which the file becomes `<file>.1`, that one `<file>.2`, and so on."""
    keep: int = Field(5, ge=0, le=1000)
    """Earlier files that are kept."""
    sample: float = Field(1.0, ge=0, le=1)
    """Share of the inferences that get a line, by a hash of the request id: all gateways choose the same."""
    failures: Literal["always", "sampled"] = "always"
    """Whether an inference that failed gets its line in any case."""
    peer: bool = True
    """Whether a line has the address that the call came from."""
    max_waiting: int = Field(10_000, ge=100, le=1_000_000)
    """Lines that wait to be written, at most; more are dropped, and counted."""
    give_up_after: Duration = "5s"  # type: ignore[assignment]
    """How long lines that can't be written are tried again before they are lost, and counted."""

    @model_validator(mode="after")
    def _has_file(self) -> AuditConfig:
        if self.mode == "file" and self.file is None:
            raise ValueError("expected `file` with mode file")
        return self
