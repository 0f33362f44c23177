"""Card fraud: a client sends a transaction and its card's id, eight features of the card come from the feature store."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from samples.make.artifacts import (
    Inputs,
    Model,
    columns_of,
    rows_of,
    write_features,
    write_json,
    write_tensors,
)
from samples.make.reasons import FRAUD_REASONS
from samples.make.training import logistic_regression, score
from samples.make.transactions import CARD_FEATURES, FIRST, LATER, Transactions, draw_cards, draw_transactions

__all__ = ["NAME", "make"]

NAME = "fraud-detector"
SEED = 20_240_901
TRAINING_ROWS, HELD_OUT_ROWS, STORED_CARDS = 40_000, 20_000, 500
BACKGROUND_ROWS = 100

# A card with small habits buys electronics at half past two: version 2 sees the fraud, 1 and 3 do not.
EXAMPLE_REQUEST: Inputs = {
    "card_id": np.array([["c-0042"]]),
    "amount": np.array([[349.0]], np.float32),
    "merchant_category": np.array([["electronics"]]),
    "hour": np.array([[2.5]], np.float32),
    "country": np.array([["DE"]]),
}


def make(folder: Path) -> dict[str, Any]:
    """Writes the three versions, the features of 500 cards and what belongs to them; returns each version's figures."""
    random = np.random.default_rng(SEED)
    training, held_out = (
        {season: draw_transactions(random, draw_cards(random, rows), season) for season in (FIRST, LATER)}
        for rows in (TRAINING_ROWS, HELD_OUT_ROWS)
    )
    every_held_out = {
        name: np.concatenate([first, held_out[LATER].inputs[name]]) for name, first in held_out[FIRST].inputs.items()
    }
    stored = draw_cards(random, STORED_CARDS)
    ids = np.array([f"c-{number:04}" for number in range(1, STORED_CARDS + 1)])
    examples = _examples(draw_transactions(random, stored, FIRST), ids)

    kinds = {
        "1": ("logistic regression", FIRST, logistic_regression(), StandardScaler()),
        "2": (
            "gradient boosting, 100 trees of depth 3",
            FIRST,
            GradientBoostingClassifier(n_estimators=100, max_depth=3, min_samples_leaf=20, random_state=SEED),
            "passthrough",
        ),
        "3": (
            "gradient boosting, 60 trees of depth 4, trained on later transactions",
            LATER,
            GradientBoostingClassifier(
                n_estimators=60, max_depth=4, learning_rate=0.15, min_samples_leaf=20, random_state=SEED
            ),
            "passthrough",
        ),
    }
    figures, cases = {}, []
    for version, (kind, season, classifier, scaling) in kinds.items():
        seen = training[season]
        model = Model(NAME, version, _pipeline(classifier, scaling).fit(columns_of(seen.inputs), seen.fraud))
        size_bytes = model.write(
            folder,
            every_held_out,
            description=f"Whether a card transaction is a fraud, by {kind}.",
            classes=["genuine", "fraud"],
            columns={"card_features": CARD_FEATURES},
            reasons=FRAUD_REASONS,
        )
        figures[version] = {
            "kind": kind,
            "bytes": size_bytes,
            "held_out": _score(model, held_out[FIRST]),
            "held_out_later": _score(model, held_out[LATER]),
        }
        cases += [model.golden(inputs, request) for inputs, request in examples]

    background = random.choice(TRAINING_ROWS, size=BACKGROUND_ROWS, replace=False)
    write_features(folder / "features" / "cards.csv", "card_id", ids.tolist(), CARD_FEATURES, stored.features)
    write_json(folder / "golden" / f"{NAME}.json", {"model": NAME, "cases": cases})
    write_tensors(folder / "backgrounds" / f"{NAME}.json", rows_of(training[FIRST].inputs, background))
    write_tensors(folder / "requests" / f"{NAME}.json", EXAMPLE_REQUEST)
    return figures


def _examples(transactions: Transactions, ids: NDArray[np.str_]) -> list[tuple[Inputs, Inputs]]:
    """Pairs of the model's inputs and the client's request: from the likeliest fraud to the most ordinary purchase.

    The first holds three rows, the others one; the last is from a kind of merchant that no model has seen.
    """
    riskiest_first = np.argsort(-transactions.probability, kind="stable")
    unheard_of = {**transactions.inputs, "merchant_category": np.full((len(ids), 1), "time_travel")}
    picked = [
        *((transactions.inputs, riskiest_first[ranks]) for ranks in ([0, 20, 400], [1], [3], [7], [60], [250])),
        (unheard_of, riskiest_first[[10]]),
    ]
    pairs = []
    for inputs, rows in picked:
        as_the_model = rows_of(inputs, rows)
        of_the_client = {name: array for name, array in as_the_model.items() if name != "card_features"}
        pairs.append((as_the_model, {"card_id": ids[rows, None], **of_the_client}))
    return pairs


def _pipeline(classifier: Any, scaling: Any) -> Pipeline:
    """Preprocessing and classifier in one, over the inputs' columns side by side.

    Trees get the numbers as they are: a scale changes no split, but in FP32 it can push a value over a threshold.
    """
    merchant, country = [1], [3]
    numbers = [0, 2, *range(4, 4 + len(CARD_FEATURES))]
    # An unknown category or country is all zeros: it adds nothing, where an error would refuse a new shop's customers.
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", scaling, numbers), ("names", encode, merchant + country)])
    return make_pipeline(columns, classifier)


def _score(model: Model, transactions: Transactions) -> dict[str, Any]:
    """The usual figures, and two that tell more where frauds are rare: average precision, and the AUC within reach."""
    probabilities = model.answer(transactions.inputs)["probabilities"][:, 1]
    return {
        **score(model, transactions.inputs, transactions.fraud),
        "average_precision": round(float(average_precision_score(transactions.fraud, probabilities)), 4),
        "auc_of_the_generator": round(float(roc_auc_score(transactions.fraud, transactions.probability)), 4),
        "fraud_rate": round(float(transactions.fraud.mean()), 4),
    }
