"""How many training rows came through each node of a tree: what path-dependent Shapley values of trees need to know."""

from typing import Any

import numpy as np
import onnx
from sklearn.pipeline import Pipeline

__all__ = ["write_covers"]


def write_covers(graph: onnx.GraphProto, estimator: Any) -> None:
    """Writes the weights of the training rows at each node into `nodes_hitrates`, where the graph has trees.

    The attribute is there for it, converters write ones, and no runtime computes with it. Raises ValueError where the nodes of
    the graph are not those of the estimator.
    """
    trained = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    for node in graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        attributes = {each.name: each for each in node.attribute}
        trees = [each.tree_ for each in np.ravel(trained.estimators_)]
        covers = np.concatenate([tree.weighted_n_node_samples for tree in trees])
        thresholds = np.concatenate([np.where(tree.children_left < 0, 0, tree.threshold) for tree in trees])
        ids = np.concatenate([np.arange(tree.node_count) for tree in trees])
        values = np.array(attributes["nodes_values"].floats, np.float64)
        if attributes["nodes_nodeids"].ints != ids.tolist() or not np.allclose(
            values, thresholds, rtol=1e-6, atol=1e-9
        ):
            raise ValueError(f"{graph.name}: the nodes of the graph are not those of the estimator, in its order")
        attributes["nodes_hitrates"].floats[:] = covers.astype(np.float32).tolist()
