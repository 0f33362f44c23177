"""Credit applications: a client sends what is asked for and the customer's id, ten features come from the feature store."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from samples.make.artifacts import Inputs, Model, columns_of, rows_of, write_features, write_json, write_tensors
from samples.make.customers import CUSTOMER_FEATURES, Applications, draw_applications, draw_customers
from samples.make.reasons import CREDIT_REASONS
from samples.make.training import logistic_regression, score

__all__ = ["NAME", "make"]

NAME = "credit-score"
SEED = 20_250_118
TRAINING_ROWS, HELD_OUT_ROWS, STORED_CUSTOMERS = 30_000, 20_000, 500
BACKGROUND_ROWS = 100
LOOKED_UP = ("customer_features", "housing", "region")

# A customer whose cards are at their limit asks for four months' income: both versions expect a default, for several reasons.
EXAMPLE_REQUEST: Inputs = {
    "customer_id": np.array([["u-0398"]]),
    "amount": np.array([[12_000.0]], np.float32),
    "term_months": np.array([[36.0]], np.float32),
    "purpose": np.array([["debt_consolidation"]]),
}


def make(folder: Path) -> dict[str, Any]:
    """Writes both versions, the features of 500 customers and what belongs to them; returns each version's figures."""
    random = np.random.default_rng(SEED)
    training, held_out = (
        draw_applications(random, draw_customers(random, rows)) for rows in (TRAINING_ROWS, HELD_OUT_ROWS)
    )
    stored = draw_customers(random, STORED_CUSTOMERS)
    ids = np.array([f"u-{number:04}" for number in range(1, STORED_CUSTOMERS + 1)])
    examples = _examples(draw_applications(random, stored), ids)

    kinds = {
        "1": ("logistic regression", logistic_regression(), StandardScaler()),
        "2": (
            "gradient boosting, 80 trees of depth 3",
            GradientBoostingClassifier(n_estimators=80, max_depth=3, min_samples_leaf=20, random_state=SEED),
            "passthrough",
        ),
    }
    figures, cases = {}, []
    for version, (kind, classifier, scaling) in kinds.items():
        estimator = _pipeline(classifier, scaling).fit(columns_of(training.inputs), training.defaulted)
        model = Model(NAME, version, estimator)
        size_bytes = model.write(
            folder,
            held_out.inputs,
            description=f"Whether a credit will not be paid back as agreed, by {kind}.",
            classes=["repaid", "defaulted"],
            columns={"customer_features": CUSTOMER_FEATURES},
            reasons=CREDIT_REASONS,
        )
        figures[version] = {"kind": kind, "bytes": size_bytes, "held_out": _score(model, held_out)}
        cases += [model.golden(inputs, request) for inputs, request in examples]

    background = random.choice(TRAINING_ROWS, size=BACKGROUND_ROWS, replace=False)
    texts = {"housing": stored.housing, "region": stored.region}
    table = folder / "features" / "customers.csv"
    write_features(table, "customer_id", ids.tolist(), CUSTOMER_FEATURES, stored.features, texts)
    write_json(folder / "golden" / f"{NAME}.json", {"model": NAME, "cases": cases})
    write_tensors(folder / "backgrounds" / f"{NAME}.json", rows_of(training.inputs, background))
    write_tensors(folder / "requests" / f"{NAME}.json", EXAMPLE_REQUEST)
    return figures


def _examples(applications: Applications, ids: NDArray[np.str_]) -> list[tuple[Inputs, Inputs]]:
    """Pairs of the model's inputs and the client's request: from the likeliest default to an ordinary application.

    The first holds three rows, the others one; the last is for a purpose that no model has seen.
    """
    riskiest_first = np.argsort(-applications.probability, kind="stable")
    unheard_of = {**applications.inputs, "purpose": np.full((len(ids), 1), "perpetual_motion")}
    picked = [
        *((applications.inputs, riskiest_first[ranks]) for ranks in ([0, 40, 400], [2], [10], [25], [90], [300])),
        (unheard_of, riskiest_first[[60]]),
    ]
    pairs = []
    for inputs, rows in picked:
        as_the_model = rows_of(inputs, rows)
        of_the_client = {name: array for name, array in as_the_model.items() if name not in LOOKED_UP}
        pairs.append((as_the_model, {"customer_id": ids[rows, None], **of_the_client}))
    return pairs


def _pipeline(classifier: Any, scaling: Any) -> Pipeline:
    """Preprocessing and classifier in one, over the inputs' columns side by side. Trees get the numbers as they are."""
    after = 3 + len(CUSTOMER_FEATURES)
    numbers, names = [0, 1, *range(3, after)], [2, after, after + 1]
    # An unknown purpose, housing or region is all zeros: it adds nothing.
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", scaling, numbers), ("names", encode, names)])
    return make_pipeline(columns, classifier)


def _score(model: Model, applications: Applications) -> dict[str, Any]:
    probabilities = model.answer(applications.inputs)["probabilities"][:, 1]
    return {
        **score(model, applications.inputs, applications.defaulted),
        "average_precision": round(float(average_precision_score(applications.defaulted, probabilities)), 4),
        "auc_of_the_generator": round(float(roc_auc_score(applications.defaulted, applications.probability)), 4),
        "default_rate": round(float(applications.defaulted.mean()), 4),
    }
