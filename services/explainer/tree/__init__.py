"""Exact attributions that are read from the graph of a model instead of from its answers.

`players[input][c]` is the player of column `c` of that input (as in `Players.of_column`); several columns may be one player.
Inputs and background map the names of the model's inputs to arrays whose first dimension is the rows; texts are `bytes` in
arrays of objects, as `infermesh.tensors` reads them. Everything here is arithmetic of some milliseconds to seconds: it belongs
in a thread. `between` is called there between two pieces of work, of some milliseconds each; what it raises ends the work.
"""

from services.explainer.tree.answer import Algorithm, TreeAnswer
from services.explainer.tree.linear import linear_values
from services.explainer.tree.values import TreeValues, tree_values

__all__ = ["Algorithm", "TreeAnswer", "TreeValues", "linear_values", "tree_values"]
