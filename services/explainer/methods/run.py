"""One explanation after the model has answered about the rows themselves: by its graph, by all coalitions, or by sampling."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infermesh.call import Call
from infermesh.tensors import Array
from services.explainer.ask import Ask
from services.explainer.background import Background
from services.explainer.coalitions import all_subsets
from services.explainer.config import ExplainerConfig
from services.explainer.estimate import Estimate, Floats
from services.explainer.graph import ModelGraph
from services.explainer.link import Link, linked
from services.explainer.methods.choose import Work, choose
from services.explainer.methods.exact import exact
from services.explainer.methods.from_graph import NotOfGraph, from_graph, value_of, why_not
from services.explainer.methods.sampled import sampled
from services.explainer.parameters import Parameters
from services.explainer.players import Players
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["Found", "Graphs", "Task", "no_graphs", "run"]

PACE_ROWS = 2**12  # composite rows whose time tells how long all of them take; a question of a few is mostly overhead
PACE_SHARE = 10  # all of them are at least so many times these
VALUE = "infermesh_value"  # what the value of a coalition is: two of them have the scale of link logit, and differ
GRAPH_SHARE = 0.25  # of the time that is left, which `auto` waits for a model's file to be read

Graphs = Callable[[str, str, str], Awaitable[ModelGraph | str]]
"""The graph of a model's version for one of its outputs, or why there is none."""


async def no_graphs(model: str, version: str, output: str) -> str:
    """For an explainer that has no files of models."""
    return "the explainer has no files of models; let its setting models.root name the predictor's repository"


@dataclass
class Task:
    """What is to be explained, and afterwards how and with how much work it was."""

    value: Value
    ask: Ask
    columns: NDArray[np.intp] | None
    """Of the output that are explained; None: all."""
    base: Floats
    """With all columns of the output, as the predictions."""
    predictions: Floats
    arrays: Mapping[str, Array]
    background: Background
    players: Players
    parameters: Parameters
    call: Call
    row_s: float | None
    """That a composite row takes, about; None: not known."""
    method: str = ""
    seconds: float = 0.0
    composites: int = 0

    def __post_init__(self) -> None:
        self.method = self.method or self.parameters.method


@dataclass(frozen=True)
class Found:
    """An estimate with what it adds up from and to, on the scale of the link."""

    estimate: Estimate
    base: Floats  # [columns]
    predictions: Floats  # [rows, columns]
    link: str
    told: Mapping[str, str] = field(default_factory=dict)


async def run(
    task: Task, config: ExplainerConfig, graphs: Graphs, threads: Threads, clock: Callable[[], float]
) -> AsyncGenerator[Found, None]:
    """Better and better estimates, the last one the best, by the method that was asked for or, for `auto`, by the best that
    there is. Raises what the method raises."""
    parameters, columns = task.parameters, task.columns
    if parameters.method in ("auto", "tree", "linear"):
        read = await _from_graph(task, graphs, threads)
        if read is not None:
            yield read
            return
    base, predictions = task.base, task.predictions
    if columns is not None:
        task.ask.columns = columns
        base, predictions = base[columns], predictions[:, columns]
    link: Link = "logit" if parameters.link == "logit" else "identity"
    task.value.link = link
    told = {VALUE: "mean_output" if link == "identity" else "logit_of_mean"}
    where = (link, task.ask.model, task.ask.output.name)
    base, predictions = linked(base, *where), await threads.run(predictions.size * 10, linked, predictions, *where)
    rows, players = len(predictions), len(task.players)
    left = task.call.deadline.remaining()
    work = Work(rows, predictions.shape[1], len(task.background), task.row_s or 0.0, left)
    chosen = choose(parameters, players, work, config.methods)
    if parameters.method == "auto" and chosen.method == "exact" and task.row_s is None and left < math.inf:
        work = work._replace(row_s=await _paced(task, clock), left_s=task.call.deadline.remaining())
        chosen = choose(parameters, players, work, config.methods)
    task.method = chosen.method
    began, evaluations = clock(), 0
    if chosen.method == "exact":
        estimate = await exact(task.value, base, predictions, players, threads)
        evaluations = estimate.evaluations
        yield Found(estimate, base, predictions, link, told)
    else:
        estimates = sampled(
            chosen,
            task.value,
            base,
            predictions,
            players,
            parameters,
            task.ask.model,
            task.call.deadline,
            config.deadline,
            threads,
            clock,
        )
        async with aclosing(estimates) as better:
            async for estimate in better:
                evaluations = estimate.evaluations
                yield Found(estimate, base, predictions, link, told)
    task.seconds, task.composites = clock() - began, task.value.cost(max(0, evaluations - 2))


async def _paced(task: Task, clock: Callable[[], float]) -> float:
    """Seconds for a composite row, by some coalitions of the first one; what is few beside all of them is not asked."""
    backgrounds, masks = len(task.background), all_subsets(len(task.players))
    few = masks[1 : 1 + PACE_ROWS // backgrounds]
    if len(few) * PACE_SHARE > len(masks) * len(task.predictions) or not len(few):
        return 0.0
    began = clock()
    await task.value.of(few, range(1))
    return (clock() - began) / (len(few) * backgrounds)


async def _from_graph(task: Task, graphs: Graphs, threads: Threads) -> Found | None:
    """By the model's graph; None: `auto` has to do without it. Raises NotOfGraph where it was asked for and can't be used."""
    parameters, ask = task.parameters, task.ask
    is_auto = parameters.method == "auto"
    left = task.call.deadline.remaining()
    timer = asyncio.timeout(left * GRAPH_SHARE if is_auto and left < math.inf else None)
    try:
        async with timer:
            graph = await graphs(ask.model, ask.version, ask.output.name)
        why = why_not(graph, parameters, ask.output.name)
        if isinstance(graph, str) or why:
            raise NotOfGraph.of(ask.model, parameters.method, why)
        task.method = graph.kind
        answer = await from_graph(
            graph,
            task.arrays,
            task.background,
            task.players,
            parameters,
            task.base,
            task.predictions,
            ask.model,
            task.call.deadline,
            threads,
        )
    except NotOfGraph:
        if not is_auto:
            raise
        return None
    except TimeoutError:
        if not timer.expired():
            raise
        return None
    columns = slice(None) if task.columns is None else task.columns
    told = {VALUE: value_of(graph), "infermesh_feature_perturbation": parameters.feature_perturbation}
    if answer.covers:
        told["infermesh_covers"] = answer.covers
    attributions = answer.attributions[:, :, columns]
    estimate = Estimate(attributions, np.zeros_like(attributions), 2, converged=True)
    return Found(estimate, answer.base[columns], answer.margin[:, columns], graph.link, told)
