"""Settings of the limits: how often callers may call, and how many calls a backend may have at a time."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from infermesh.config import ConfigPath, Duration, Mode, Model
from services.gateway.redis_url import read_url

__all__ = ["ConcurrencyConfig", "LimitConfig", "LimitStoreConfig", "MatchConfig", "RateLimitConfig", "RuleConfig"]

MAX_REFILL_S = 31 * 86_400.0  # exact to 0.06 % up to here, in the whole numbers that Redis' scripts can hold
DEFAULT_RULE = "default"

Dimension = Literal["tenant", "model", "caller", "host"]
Cost = Literal["request", "rows", "bytes"]


class LimitConfig(Model):
    """How often, in the long run and at once."""

    rate: float = Field(gt=0, le=1e12)
    """Calls a second, in the long run; rows or bytes, where a rule counts these."""
    burst: int = Field(ge=1, le=10**12)
    """Calls at once, after a pause; a single call that costs more than this is never let in."""

    @model_validator(mode="after")
    def _refills(self) -> LimitConfig:
        if self.burst / self.rate > MAX_REFILL_S:
            raise ValueError(
                f"the burst takes {self.burst / self.rate / 86_400:.0f} days to refill, expected at most 31"
            )
        return self


class MatchConfig(Model):
    """Which calls a rule is about: those that fit everything that is named; left out: any."""

    tenant: str = ""
    """Tenant of the caller."""
    model: str = ""
    """Model as it was asked for: exact, or a prefix that ends in `*`. `fraud` leaves out `fraud-explainer`, which has a name
    of its own."""
    caller: str = ""
    """Caller, by its name in the keys file or token."""


class RuleConfig(LimitConfig):
    """A limit for each tenant, model, caller or host, or for each combination of them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")
    """Name in metrics, refusals and keys of Redis."""
    match: MatchConfig = MatchConfig()
    """Calls that it counts; left out: all."""
    per: list[Dimension] = []
    """What each has a limit of its own; left out: all calls share one. `model` is the model as its route names it, so that names
    that somebody makes up share one; a caller without a name is its host."""
    cost: Cost = "request"
    """What a call counts for: 1, the rows of its first input, or its size in bytes. Rows and bytes are those of inferences; other
    RPCs are free for such rules."""
    store: Literal["local", "redis"] = "redis"
    """`redis`: one limit for all replicas of the gateway; `local`: each replica has its own."""
    on_store_failure: Literal["local", "open", "closed"] = "local"
    """While Redis is slow or away: each replica keeps a limit of its own, nobody is refused, or everybody is."""
    local_share: float = Field(1.0, gt=0, le=1)
    """With `on_store_failure: local`: share of rate and burst of each replica; 0.25 for four of them."""
    mode: Mode = "enforce"
    """`observe` counts what would be refused."""

    @field_validator("per")
    @classmethod
    def _distinct(cls, per: list[Dimension]) -> list[Dimension]:
        if len(set(per)) < len(per):
            raise ValueError("expected each of tenant, model, caller and host once at most")
        return per


class LimitStoreConfig(Model):
    """The Redis or Valkey that holds the limits that replicas share; any that is not told to evict keys (`noeviction`)."""

    url: str = ""
    """Address, with user and database where needed: `redis://user@redis:6379/1`, `rediss://` (TLS) or `unix://`; a cluster by
    any of its nodes; Sentinel as `redis+sentinel://one:26379,two:26379/name/1` or `rediss+sentinel://`, with the primary's
    name."""
    password: SecretStr = SecretStr("")
    """Password, better given here by the environment than in the address, which may be logged."""
    sentinel_password: SecretStr = SecretStr("")
    """Password of the Sentinels, where they have one."""
    ca: ConfigPath | None = None
    """Roots that are trusted with TLS; left out: the system's."""
    key_prefix: str = Field("infermesh-limits", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """What every key begins with, in braces: all keys of a mesh are in one slot of a cluster, so that one script sees all levels
    of a call."""
    timeout: Duration = Field("3ms", gt=0, le=1)  # type: ignore[assignment]
    """How long a decision may take; past it `on_store_failure` answers, and Redis is not asked until a probe succeeds."""
    connect_timeout: Duration = Field("1s", gt=0)  # type: ignore[assignment]
    """How long a connection may take to be made; no call waits for it."""
    probe_every: Duration = Field("500ms", gt=0)  # type: ignore[assignment]
    """How often at most a store that is slow or away is tried; no call waits for it."""

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        if url:
            read_url(url)
        return url

    @model_validator(mode="after")
    def _has_what_it_names(self) -> LimitStoreConfig:
        if self.url:
            url = read_url(self.url)
            if self.ca is not None and not url.has_tls:
                raise ValueError("ca: expected a url with TLS beside it, rediss:// or rediss+sentinel://")
            if self.sentinel_password.get_secret_value() and not url.sentinels:
                raise ValueError("sentinel_password: expected a url of Sentinels beside it, redis+sentinel://")
        return self


class RateLimitConfig(Model):
    """How often callers may call: a limit of each caller at each replica, and rules beside it."""

    mode: Mode = "enforce"
    """`observe` lets all calls pass and counts those that are past a limit."""
    rate: float | None = Field(200, gt=0, le=1e9)
    """Calls a second of one caller at one replica, in the long run; every RPC and every message of a stream is one.
    Nothing (`null`): only the rules count."""
    burst: int = Field(400, ge=1, le=10**9)
    """Calls of one caller at once, after a pause."""
    callers: dict[str, LimitConfig] = Field(default_factory=dict)
    """Callers with limits of their own instead, by their names in the keys file."""
    max_callers: int = Field(10_000, ge=1)
    """Callers, or whatever else has a limit of its own, that are kept in mind; past it new ones have to wait until another
    has been idle."""
    rules: list[RuleConfig] = []
    """More limits. A call is let in when all that match let it in, and counts for none when one refuses."""
    metadata: bool = True
    """Whether every answer tells `x-ratelimit-limit`, `-remaining` and `-reset` in its trailing metadata, of the limit that is
    nearest to its end; without it refusals alone do."""
    redis: LimitStoreConfig = LimitStoreConfig()
    """Where the rules with `store: redis` are counted."""

    @property
    def default(self) -> LimitConfig | None:
        """The limit of a caller that has none of its own."""
        return None if self.rate is None else LimitConfig(rate=self.rate, burst=self.burst)

    @model_validator(mode="after")
    def _whole(self) -> RateLimitConfig:
        names = Counter(rule.name for rule in self.rules)
        faults = [f"rules: the name {name} stands {count} times" for name, count in names.items() if count > 1]
        if DEFAULT_RULE in names:
            faults.append(f"rules: the name {DEFAULT_RULE} is that of `rate` and `burst`")
        shared = [rule.name for rule in self.rules if rule.store == "redis" and rule.mode != "off"]
        if self.mode != "off" and shared and not self.redis.url:
            faults.append(f"redis.url: expected an address, which the rules {', '.join(shared)} with store redis need")
        if self.rate is not None:
            try:
                LimitConfig(rate=self.rate, burst=self.burst)
            except ValueError:
                faults.append("burst: takes more than 31 days to refill")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class ConcurrencyConfig(Model):
    """How many calls a backend may have at a time, from one replica of the gateway; what matters less yields first."""

    mode: Mode = "off"
    """`observe` counts what `enforce` would refuse."""
    max_in_flight: int = Field(256, ge=1, le=100_000)
    """Calls to each backend at a time, retries not counted apart."""
    backends: dict[str, int] = Field(default_factory=dict)
    """Backends with another number, by their names."""
    explanations: float = Field(0.8, gt=0, le=1)
    """Share of it that may be in use when an explanation is let in."""
    background: float = Field(0.8, gt=0, le=1)
    """The same for predictions whose parameter `priority` is `background_from` or more (1 is the highest)."""
    background_from: int = Field(2, ge=2)
    """The priority from which a prediction is in the background."""
    shadows: float = Field(0.5, ge=0, le=1)
    """The same for copies of calls."""

    @field_validator("backends")
    @classmethod
    def _positive(cls, backends: dict[str, int]) -> dict[str, int]:
        if wrong := [name for name, most in backends.items() if most < 1]:
            raise ValueError(f"expected at least 1 for {', '.join(wrong)}")
        return backends
