"""One answer from the model repositories of several backends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from infermesh.errors import MeshError, NotFound, Unimplemented
from infermesh.protocol.open_inference_pb2 import (
    ModelStatisticsResponse,
    RepositoryIndexResponse,
)

__all__ = ["all_of", "any_of", "merged_index", "merged_statistics"]

READY = "READY"

T = TypeVar("T")


async def all_of(asked: Iterable[Awaitable[T]]) -> list[T]:
    """Every answer; raises the first error when all have answered. A model need not be in each of several backends."""
    results = await asyncio.gather(*asked, return_exceptions=True)
    answers = [result for result in results if not isinstance(result, BaseException)]
    for error in (result for result in results if isinstance(result, BaseException)):
        if not (isinstance(error, NotFound) and answers):
            raise error
    return answers


async def any_of(asked: Iterable[Awaitable[T]]) -> list[T]:
    """The answers of those that answer; raises the first error when none does. Not every backend keeps models or statistics."""
    results = await asyncio.gather(*asked, return_exceptions=True)
    answers: list[T] = []
    failed: MeshError = Unimplemented("there are no backends")
    for result in results:
        if isinstance(result, MeshError):
            failed = result if isinstance(failed, Unimplemented) else failed  # what is away says more than what can't
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    if not answers:
        raise failed
    return answers


def merged_index(answers: Iterable[RepositoryIndexResponse]) -> RepositoryIndexResponse:
    """Each version of each model once; ready when one backend has it ready."""
    merged: dict[tuple[str, str], RepositoryIndexResponse.ModelIndex] = {}
    for entry in (entry for answer in answers for entry in answer.models):
        if merged.setdefault((entry.name, entry.version), entry).state != READY:
            merged[entry.name, entry.version] = entry
    return RepositoryIndexResponse(models=[merged[key] for key in sorted(merged)])


def merged_statistics(answers: Iterable[ModelStatisticsResponse]) -> ModelStatisticsResponse:
    """What every backend counts, one after the other."""
    return ModelStatisticsResponse(model_stats=[each for answer in answers for each in answer.model_stats])
