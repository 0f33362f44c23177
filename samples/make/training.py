"""What the models' training has in common: a logistic regression with one answer, and the figures on held-out rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from samples.make.artifacts import Inputs, Model

__all__ = ["logistic_regression", "score"]


def logistic_regression() -> LogisticRegression:
    """An untrained logistic regression whose coefficients, once rounded to FP32, don't depend on the processor.

    scikit-learn's default solver stops as soon as it is near: where exactly depends on how the processor's BLAS kernels
    round. Newton's method converges so fast that going on to the end costs nothing.
    """
    return LogisticRegression(solver="newton-cholesky", tol=1e-10)


def score(model: Model, inputs: Inputs, expected: NDArray[np.int64]) -> dict[str, Any]:
    """What the model reaches on these rows. AUC of more than two classes is the mean over one against the rest."""
    answer = model.answer(inputs)
    probabilities = answer["probabilities"]
    ranking = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return {
        "rows": len(expected),
        "accuracy": round(float(accuracy_score(expected, answer["label"])), 4),
        "auc": round(float(roc_auc_score(expected, ranking, multi_class="ovr")), 4),
        "log_loss": round(float(log_loss(expected, probabilities)), 4),
    }
