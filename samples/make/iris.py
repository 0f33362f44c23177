"""Fisher's irises: the smallest model that is still a real one. No features to look up."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from samples.make.artifacts import Inputs, Model, columns_of, rows_of, write_json, write_tensors
from samples.make.training import logistic_regression, score

__all__ = ["NAME", "make"]

NAME = "iris"
COLUMNS = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
SEED = 1936  # of Fisher's paper
GOLDEN = [slice(0, 3), *(slice(row, row + 1) for row in range(3, 8))]  # of the held-out rows


def make(folder: Path) -> dict[str, Any]:
    """Writes both versions and what belongs to them; returns the figures of each version."""
    data = load_iris()
    rows, species = data.data.astype(np.float32), data.target.astype(np.int64)
    seen, unseen = train_test_split(np.arange(len(rows)), test_size=0.3, stratify=species, random_state=SEED)
    training: Inputs = {"features": rows[seen]}
    held_out: Inputs = {"features": rows[unseen]}

    kinds = {
        "1": ("logistic regression", logistic_regression()),
        "2": ("random forest, 100 trees", RandomForestClassifier(n_estimators=100, random_state=SEED)),
    }
    figures, cases = {}, []
    for version, (kind, estimator) in kinds.items():
        model = Model(NAME, version, estimator.fit(columns_of(training), species[seen]))
        size_bytes = model.write(
            folder,
            held_out,
            description=f"The species of an iris from four lengths of its flower, by {kind}.",
            classes=data.target_names.tolist(),
            columns={"features": COLUMNS},
        )
        figures[version] = {"kind": kind, "bytes": size_bytes, "held_out": score(model, held_out, species[unseen])}
        cases += [model.golden(rows_of(held_out, rows)) for rows in GOLDEN]

    background = np.random.default_rng(SEED).choice(len(seen), size=64, replace=False)
    write_json(folder / "golden" / f"{NAME}.json", {"model": NAME, "cases": cases})
    write_tensors(folder / "backgrounds" / f"{NAME}.json", rows_of(training, background))
    write_tensors(folder / "requests" / f"{NAME}.json", {"features": np.array([[5.9, 3.0, 5.1, 1.8]], np.float32)})
    return figures
