"""Settings of the feature store, and of what is kept of it in the process."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from infermesh.config import ConfigPath, Duration, Model, Size
from services.transformer.keys import DEFAULT_PREFIX
from services.transformer.redis.url import read_url

__all__ = ["CacheConfig", "RedisConfig"]


class CacheConfig(Model):
    """Rows that are kept in this process until Redis says that they have changed."""

    max_bytes: Size = "0B"  # type: ignore[assignment]
    """Memory for keys and rows, such as `64MiB`; `0B` keeps nothing. Needs Redis 6 or newer, or Valkey."""
    max_age: Duration = "60s"  # type: ignore[assignment]
    """How long a row is kept at most, though Redis says nothing."""
    keep_when_away: Duration = "5m"  # type: ignore[assignment]
    """How long rows that were cached when Redis went away may stand in for it, flagged as such; `0s`: defaults do at once."""
    negative: bool = True
    """Whether it is kept in mind too that a key holds nothing."""
    tracking: Literal["read", "broadcast"] = "read"
    """`read`: Redis remembers which keys this process has read, and tells of these; `broadcast`: it remembers nothing, and
    tells of every key that is written under `key_prefix`."""


class RedisConfig(Model):
    """The feature store, and what a lookup may cost."""

    url: str = "redis://redis:6379/0"
    """Address, with user and database where needed: `redis://user@redis:6379/1`, `rediss://` (TLS) or `unix://`; Sentinel as
    `redis+sentinel://one:26379,two:26379/name/1`, with the primary's name; a cluster as `redis+cluster://one:6379,two:6379`, by
    some of its nodes; both with `rediss+` for TLS."""
    password: SecretStr = SecretStr("")
    """Password, better given here by the environment than in the address, which may be logged."""
    sentinel_password: SecretStr = SecretStr("")
    """Password of the Sentinels, where they have one."""
    ca: ConfigPath | None = None
    """Roots that are trusted with TLS; left out: the system's."""
    certificate: ConfigPath | None = None
    """Certificate that this service shows with TLS; needs `key`."""
    key: ConfigPath | None = None
    """Key of `certificate`."""
    read_from: Literal["primary", "replica"] = "primary"
    """In a cluster: whether replicas are read, which are a moment behind; the primary is where no replica answers."""
    key_prefix: str = Field(DEFAULT_PREFIX, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """What every key begins with; parts several meshes that share a Redis."""
    connections: int = Field(2, ge=1, le=64)
    """Connections to each server at most; all lookups share them."""
    connect_timeout: Duration = Field("2s", gt=0)  # type: ignore[assignment]
    """How long a connection may take to be made; a lookup waits for it no longer than `timeout`."""
    timeout: Duration = "50ms"  # type: ignore[assignment]
    """How long a lookup may take; past it the policies of the views answer."""
    deadline_share: float = Field(0.3, gt=0, le=1)
    """Share of the call's remaining time that a lookup may take, where that is less."""
    failures: int = Field(3, ge=1)
    """Failures in a row after which Redis is not asked until a probe succeeds; in a cluster each server by itself."""
    probe_every: Duration = "500ms"  # type: ignore[assignment]
    """How often Redis is asked whether it is there."""
    max_entities: int = Field(10_000, ge=1)
    """Entities of one request at most; more are refused with RESOURCE_EXHAUSTED."""
    max_in_flight: int = Field(100_000, ge=1)
    """Keys, or 8 fields of hashes each, asked of one server at a time; past it the policies of the views answer at once."""
    cache: CacheConfig = CacheConfig()

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        read_url(url)
        return url

    @model_validator(mode="after")
    def _fits(self) -> RedisConfig:
        url = read_url(self.url)
        faults = []
        if not url.has_tls:
            named = [name for name in ("ca", "certificate", "key") if getattr(self, name) is not None]
            faults += [f"{name}: expected a url with TLS beside it, such as rediss://" for name in named]
        if (self.certificate is None) != (self.key is None):
            faults.append("certificate, key: expected both or none")
        if self.sentinel_password.get_secret_value() and url.kind != "sentinel":
            faults.append("sentinel_password: expected a url of Sentinels beside it, redis+sentinel://")
        if self.read_from == "replica" and url.kind != "cluster":
            faults.append("read_from: replica: expected a url of a cluster beside it, redis+cluster://")
        if faults:
            raise ValueError("; ".join(faults))
        return self
