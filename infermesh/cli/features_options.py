"""What the commands about features share: options, views by name, the store and what it may say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from infermesh.cli.failure import Failure
from infermesh.config import Duration, parse

if TYPE_CHECKING:
    from services.transformer.config import RedisConfig
    from services.transformer.views import FeatureFile

__all__ = [
    "DEFAULT_PREFIX",
    "DEFAULT_REDIS",
    "DEFAULT_VIEWS",
    "Prefix",
    "RedisUrl",
    "View",
    "Views",
    "age",
    "applied_view",
    "named",
    "read_views",
    "redis_config",
    "run",
    "seconds",
    "store",
]

DEFAULT_VIEWS = Path("samples/config/features.yaml")
DEFAULT_REDIS = "redis://127.0.0.1:6379/0"
DEFAULT_PREFIX = "infermesh"
PASSWORD_VARIABLE = "INFERMESH_REDIS_PASSWORD"

T = TypeVar("T")

Views = Annotated[Path, typer.Option(metavar="FILE", help="File of feature views.")]
View = Annotated[str, typer.Option(metavar="NAME", help="The view; may be left out where only one fits.")]
RedisUrl = Annotated[
    str,
    typer.Option(
        "--redis",
        metavar="URL",
        help=f"The feature store; a password better by {PASSWORD_VARIABLE}.",
        envvar="INFERMESH_REDIS_URL",
    ),
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="What every key begins with.")]


def read_views(file: Path) -> FeatureFile:
    """The views of a file. Raises ConfigError."""
    from services.transformer.views import FeatureFile

    return parse(FeatureFile, file)


def named(view: str, declared: FeatureFile, file: Path) -> str:
    """The name, if there is such a view; else Failure."""
    if view not in declared.views:
        raise Failure(f'{file} has no view "{view}"', hint=f"there are {', '.join(declared.views) or 'none'}")
    return view


def redis_config(url: str, prefix: str) -> RedisConfig:
    """The store that the options name. Raises Failure."""
    import os

    from services.transformer.config import RedisConfig

    try:
        return RedisConfig.model_validate(
            {"url": url, "key_prefix": prefix, "password": os.environ.get(PASSWORD_VARIABLE, "")}
        )
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise Failure(f"the feature store: {faults}", hint="such as --redis redis://127.0.0.1:6379/0") from None


@asynccontextmanager
async def store(config: RedisConfig) -> AsyncIterator[Any]:
    """redis-py's client of the store, closed at the end."""
    from services.transformer.administration import administration

    client = administration(config)
    try:
        yield client
    finally:
        await client.aclose()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what asks the store; what the store refuses, and its being away, end in a Failure."""
    from redis.exceptions import RedisClusterException, RedisError

    from services.transformer.writing.faults import in_words

    try:
        return asyncio.run(work)
    except (RedisError, RedisClusterException, OSError) as error:
        raise Failure(
            f"the feature store does not answer as it should: {in_words(error)}", hint="see --redis URL"
        ) from None


async def applied_view(client: Any, config: RedisConfig, declared: FeatureFile, name: str) -> None:
    """Raise Failure when the store has had another schema of this view applied: its rows would be foreign to its readers."""
    from services.transformer.row import RowFormat
    from services.transformer.writing.registry import Registry

    try:
        entry = await Registry(client, config.key_prefix).read_one(f"view:{name}")
    except ValueError as error:
        raise Failure(str(error)) from None
    ours = f"{RowFormat(declared.views[name].columns).fingerprint:08x}"
    if entry is not None and entry.fingerprint != ours:
        raise Failure(
            f"view {name}: this file has schema {ours}, the store was told of {entry.fingerprint} (version {entry.version})",
            hint="see what changes: infermesh features apply --dry-run FILE",
        )


def seconds(text: str, option: str, example: str = "30d") -> float:
    """A duration that was given as text. Raises Failure."""
    try:
        found: float = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise Failure(
            f"{option}: expected a duration with its unit, got {text!r}", hint=f'such as "{example}", or 0'
        ) from None
    return found


def age(duration_s: float) -> str:
    """A time for people, in the largest unit of which there are at least two."""
    if duration_s < 0:
        return f"{age(-duration_s)} ahead"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if duration_s >= 2 * size:
            return f"{duration_s / size:.0f} {unit}"
    return f"{duration_s:.0f} s"
