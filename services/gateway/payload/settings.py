"""Settings of the payload log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from infermesh.config import OFF, ConfigPath, Model, Size

__all__ = ["PayloadLogConfig", "RedactConfig"]

Share = Annotated[float, Field(ge=0, le=1)]
Glob = Annotated[str, Field(min_length=1, max_length=256)]


class RedactConfig(Model):
    """What becomes of the values of some inputs and outputs."""

    name: Glob
    """Name of the input or output; `*` and `?` stand for any characters."""
    how: Literal["mask", "hash", "keep"] = "mask"
    """`mask`: REDACTED instead of them; `hash`: a salted SHA-256 of each, which can be joined by; `keep`: as they are."""


class PayloadLogConfig(Model):
    """A sample of the inferences that were answered, with their tensors, in JSON lines."""

    mode: Annotated[Literal["off", "file"], OFF] = "off"
    """`off` costs nothing."""
    folder: ConfigPath | None = None
    """Folder of the files; it must be there."""
    share: Share = 0.01
    """Share of the inferences that are logged, by a hash of the request id: all gateways choose the same."""
    models: dict[Glob, Share] = Field(default_factory=dict, max_length=1000)
    """Shares of some models instead, by the names of their routes, in which `*` and `?` stand for any characters;
    an exact name counts before others, which count in their order."""
    redact: list[RedactConfig] = Field(default_factory=list, max_length=1000)
    """What values are hidden, of inputs and outputs alike; the first that fits a name counts."""
    salt: SecretStr = SecretStr("")
    """What hashes are salted with, at least 16 characters, and better given by the environment. Whoever has it can find
    out by trying what was hashed."""
    max_call: Size = Field("64KiB", ge=0, le=4 << 20)  # type: ignore[assignment]  # checked like a file's
    """Largest call, request and answer together, whose values are logged; of others the shapes are."""
    max_bytes: Size = Field("64MiB", ge=64 << 10)  # type: ignore[assignment]
    """Size at which a new file is begun."""
    max_total: Size = Field("1GiB", ge=128 << 10)  # type: ignore[assignment]
    """Size of all files together; the oldest are deleted for it."""
    max_waiting: Size = Field("16MiB", ge=64 << 10)  # type: ignore[assignment]
    """What may wait for the process that writes; past it calls are not logged, and counted."""

    @model_validator(mode="after")
    def _consistent(self) -> PayloadLogConfig:
        if self.mode == "file" and self.folder is None:
            raise ValueError("expected `folder` with mode file")
        if self.max_total < 2 * self.max_bytes:
            raise ValueError("max_total: expected at least twice max_bytes, so that a new file has its place")
        if any(each.how == "hash" for each in self.redact) and len(self.salt.get_secret_value()) < 16:
            raise ValueError("salt: expected at least 16 characters where something is hashed")
        return self
