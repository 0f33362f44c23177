"""What Redis refuses and why, in words that say what to do; and what passes by itself."""

from __future__ import annotations

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

__all__ = ["in_words", "passes"]

_PASSING = (Disconnected, TimedOut, BusyLoadingError, ClusterDownError, TryAgainError, RedisClusterException, OSError)
_FINAL = (AuthenticationError, AuthorizationError)  # which are Disconnected to redis-py

_WORDS = {  # by Redis's code, which redis-py leaves out of the errors that it has a class for
    "OOM": "Redis is full: it has reached its maxmemory and evicts nothing; give it more, or rows a time to live",
    "MISCONF": "Redis takes no writes since it can't save to its disk",
    "READONLY": "this Redis is a read-only replica; name its primary",
    "NOREPLICAS": "Redis takes no writes since it has too few replicas",
    "WRONGPASS": "wrong user or password",
    "NOAUTH": "Redis asks for a password, and none is given",
    "NOPERM": "the Redis user may not do this",
}


def passes(error: BaseException) -> bool:
    """Whether the same may succeed a little later, without anybody doing something: Redis restarts, fails over, loads."""
    if isinstance(error, _FINAL):
        return False
    # A replica stays one, but for the moments of a failover, which ends with a connection that is dropped.
    return isinstance(error, _PASSING)


def in_words(error: BaseException) -> str:
    """What is wrong, for people. Holds no password; may hold what Redis itself said."""
    said = str(error)
    for word, meaning in _WORDS.items():
        if said.startswith(word) or f"-{word} " in said:
            return meaning
    if isinstance(error, OutOfMemoryError):
        return _WORDS["OOM"]
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return _WORDS["NOAUTH"] if "required" in said.lower() else _WORDS["WRONGPASS"]
    if isinstance(error, ReadOnlyError):
        return _WORDS["READONLY"]
    if isinstance(error, NoPermissionError):
        return f"{_WORDS['NOPERM']}: {said}"
    if isinstance(error, ResponseError):
        return f"Redis refuses: {said}"
    if isinstance(error, (RedisError, RedisClusterException, OSError)):
        return f"Redis does not answer: {said or type(error).__name__}"
    return said
