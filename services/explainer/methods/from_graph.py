"""Attributions that are read from the model's own graph: `tree` and `linear`."""

from __future__ import annotations

from collections.abc import Mapping

from infermesh.deadline import Deadline
from infermesh.errors import FailedPrecondition, quoted
from infermesh.tensors import Array
from services.explainer.background import Background
from services.explainer.estimate import Floats
from services.explainer.graph import ModelGraph, NotReadable
from services.explainer.methods.stands_for import background_outputs, how_apart, tells_of_margin
from services.explainer.parameters import Parameters
from services.explainer.players import Players
from services.explainer.threads import Between, Threads
from services.explainer.tree import Algorithm, TreeAnswer, linear_values, tree_values

__all__ = ["NotOfGraph", "from_graph", "value_of", "why_not"]

ALGORITHMS: Mapping[str, Algorithm] = {
    "interventional": "interventional",
    "tree_path_dependent": "path_dependent",
}


class NotOfGraph(FailedPrecondition):
    """The graph does not tell the attributions; the message says why."""

    default_reason = "GRAPH_NOT_USABLE"

    @classmethod
    def of(cls, model: str, method: str, why: str) -> NotOfGraph:
        return cls(f'model {quoted(model)}: method "{method}" can\'t be used: {why}')


def why_not(graph: ModelGraph | str, parameters: Parameters, output: str) -> str:
    """Why a graph can't tell the attributions that are asked for; empty: it can. A text stands for a graph that there is not.

    `auto` takes it only for what it would explain otherwise, too: the output itself, or with link `logit` its log-odds.
    """
    if isinstance(graph, str):
        return graph
    if parameters.method != "auto" and graph.kind != parameters.method:
        return f"the graph is {'an ensemble of trees' if graph.kind == 'tree' else 'a linear model'}"
    if graph.output != output:
        return f"the graph stands for output {quoted(graph.output)}, not for {quoted(output)}"
    asked = parameters.link or ("identity" if parameters.method == "auto" else graph.link)
    if graph.link != asked:
        return f'the graph tells attributions on the scale of link "{graph.link}", not of "{asked}"'
    return ""


def value_of(graph: ModelGraph) -> str:
    """What the value of a coalition is: the mean margin, which is the mean output where no link is between the two."""
    return "mean_output" if graph.link == "identity" else "mean_margin"


async def from_graph(
    graph: ModelGraph,
    arrays: Mapping[str, Array],
    background: Background,
    players: Players,
    parameters: Parameters,
    base: Floats,
    predictions: Floats,
    model: str,
    deadline: Deadline,
    threads: Threads,
) -> TreeAnswer:
    """The attributions of the margin for all columns of the output; `base` is the mean of the model's answers to the background,
    `predictions` are those to the rows.

    Raises NotOfGraph when the graph can't tell, or answers something else than the model (the file is not what is served), and
    DeadlineExceeded. Cancelling ends the work after its next piece.
    """

    def work(between: Between) -> TreeAnswer:
        of_column, weights = players.of_column, background.weights
        if graph.kind == "linear":
            answer = linear_values(graph, arrays, background.arrays, weights, of_column)
        else:
            algorithm = ALGORITHMS[parameters.feature_perturbation]
            answer = tree_values(
                graph, arrays, background.arrays, weights, of_column, algorithm=algorithm, between=between
            )
        if answer.probability.shape != predictions.shape:
            has, is_ = answer.probability.shape[-1], predictions.shape[-1]
            raise _another(model, f"it has {has} columns of output {quoted(graph.output)} and not {is_}")
        outputs = background_outputs(graph, background, between)
        apart = how_apart(graph, answer, outputs, weights, base, predictions)
        if apart:
            raise _another(model, apart)
        if not tells_of_margin(graph, base, predictions):
            why = "the model's answers to the rows and the background are too near to 0 or 1 to tell that the file is its own"
            raise NotOfGraph.of(model, graph.kind, why)
        return answer

    try:
        late = f"model {quoted(model)}: the deadline passed while its graph was explained"
        return await threads.run_long(work, deadline, late)
    except NotReadable as error:
        raise NotOfGraph.of(model, graph.kind, error.reason) from None


def _another(model: str, how: str) -> NotOfGraph:
    return NotOfGraph(
        f"model {quoted(model)}: the file that the explainer reads is not the model that is served: {how}; let models.root "
        "name the repository of the predictor",
        reason="GRAPH_IS_ANOTHER_MODEL",
    )
