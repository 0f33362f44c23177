"""Breast tumours of Wisconsin: a client names a patient, the thirty measurements come from the feature store."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from samples.make.artifacts import (
    Inputs,
    Model,
    columns_of,
    rows_of,
    write_features,
    write_json,
    write_tensors,
)
from samples.make.training import logistic_regression, score

__all__ = ["NAME", "make"]

NAME = "breast-cancer"
SEED = 1993  # of the data set
GOLDEN = [slice(0, 3), *(slice(row, row + 1) for row in range(3, 8))]  # of the held-out patients


def make(folder: Path) -> dict[str, Any]:
    """Writes the model, every patient's features and what belongs to them; returns the figures of the version."""
    data = load_breast_cancer()
    measurements, outcome = data.data.astype(np.float32), data.target.astype(np.int64)
    patients = np.array([f"p-{number:04}" for number in range(1, len(measurements) + 1)])
    columns = [name.replace(" ", "_") for name in data.feature_names]
    seen, unseen = train_test_split(np.arange(len(patients)), test_size=0.3, stratify=outcome, random_state=SEED)
    training: Inputs = {"measurements": measurements[seen]}
    held_out: Inputs = {"measurements": measurements[unseen]}
    by_id: Inputs = {"patient_id": patients[unseen, None]}

    kind = "logistic regression on scaled data"
    estimator = make_pipeline(StandardScaler(), logistic_regression())
    model = Model(NAME, "1", estimator.fit(columns_of(training), outcome[seen]))
    size_bytes = model.write(
        folder,
        held_out,
        description=f"Whether a breast tumour is malignant or benign, from thirty measurements of cells, by {kind}.",
        classes=data.target_names.tolist(),
        columns={"measurements": columns},
    )
    cases = [model.golden(rows_of(held_out, rows), request=rows_of(by_id, rows)) for rows in GOLDEN]

    background = np.random.default_rng(SEED).choice(len(seen), size=64, replace=False)
    write_features(folder / "features" / "patients.csv", "patient_id", patients.tolist(), columns, measurements)
    write_json(folder / "golden" / f"{NAME}.json", {"model": NAME, "cases": cases})
    write_tensors(folder / "backgrounds" / f"{NAME}.json", rows_of(training, background))
    write_tensors(folder / "requests" / f"{NAME}.json", rows_of(by_id, slice(0, 1)))
    return {"1": {"kind": kind, "bytes": size_bytes, "held_out": score(model, held_out, outcome[unseen])}}
