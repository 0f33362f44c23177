"""The scripts that made the samples write the same again, and refuse what the mesh would serve wrongly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from samples.make import breast_cancer, credit, fraud, iris
from samples.make.artifacts import Model, tensors
from samples.make.covers import write_covers
from samples.make.customers import CUSTOMER_FEATURES, DIRECTIONS, draw_applications, draw_customers, risk
from samples.make.transactions import FIRST, LATER, draw_cards, draw_transactions

SAMPLES = Path(iris.__file__).parents[1]


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [iris.make, breast_cancer.make], ids=["iris", "breast-cancer"])
def test_a_script_writes_the_same_bytes_again(make: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    """Two runs of a script write the same files with the same bytes, and measure the same."""
    first, second = make(tmp_path / "first"), make(tmp_path / "second")

    assert first == second
    assert len(bytes_below(tmp_path / "first")) >= 4
    assert bytes_below(tmp_path / "first") == bytes_below(tmp_path / "second")


@pytest.mark.parametrize("model", [iris, breast_cancer], ids=["iris", "breast-cancer"])
def test_what_is_checked_in_came_from_the_script(model: Any, tmp_path: Path) -> None:
    """A script remakes what is checked in: the same inputs, and golden answers within 1e-5."""
    model.make(tmp_path)

    remade, checked_in = (
        json.loads((folder / "golden" / f"{model.NAME}.json").read_text(encoding="utf-8"))["cases"]
        for folder in (tmp_path, SAMPLES)
    )
    assert len(remade) == len(checked_in)
    for ours, theirs in zip(remade, checked_in, strict=True):
        assert ours["inputs"] == theirs["inputs"] and ours.get("request") == theirs.get("request")
        for name, output in theirs["outputs"].items():
            assert ours["outputs"][name]["data"] == pytest.approx(output["data"], abs=1e-5)


def test_the_stored_cards_come_from_the_generator() -> None:
    """Drawing with the script's seed gives, after training and held-out rows, the cards that are checked in."""
    random = np.random.default_rng(fraud.SEED)
    for rows in (fraud.TRAINING_ROWS, fraud.HELD_OUT_ROWS):
        for season in (FIRST, LATER):
            draw_transactions(random, draw_cards(random, rows), season)

    cards = draw_cards(random, fraud.STORED_CARDS)

    stored = np.loadtxt(SAMPLES / "features" / "cards.csv", np.float32, delimiter=",", skiprows=1, usecols=range(1, 9))
    np.testing.assert_array_equal(cards.features, stored)


def test_transactions_are_plausible() -> None:
    """Amounts are positive whole cents, hours lie in [0, 24), shares and risks in [0, 1], and a few per cent are frauds."""
    random = np.random.default_rng(7)
    cards = draw_cards(random, 20_000)

    drawn = draw_transactions(random, cards, FIRST)

    amount, hour = drawn.inputs["amount"], drawn.inputs["hour"]
    assert amount.min() >= 0.5
    np.testing.assert_array_equal(amount, amount.astype(np.float64).round(2).astype(np.float32))
    assert hour.min() >= 0 and hour.max() < 24
    assert cards.features[:, 6:].min() >= 0 and cards.features[:, 6:].max() <= 1
    # The rate of this seed; at 20 000 rows a rate of 2 % has a standard error of 0.1 %.
    assert 0.015 < drawn.fraud.mean() < 0.026
    # Mobile holders are both far from home and often abroad: the features are tied together.
    assert np.corrcoef(np.log1p(cards.features[:, 5]), cards.features[:, 6])[0, 1] > 0.4


def test_the_stored_customers_come_from_the_generator() -> None:
    """Drawing with the script's seed gives, after training and held-out rows, the customers that are checked in."""
    random = np.random.default_rng(credit.SEED)
    for rows in (credit.TRAINING_ROWS, credit.HELD_OUT_ROWS):
        draw_applications(random, draw_customers(random, rows))

    customers = draw_customers(random, credit.STORED_CUSTOMERS)

    stored = np.loadtxt(SAMPLES / "features" / "customers.csv", str, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(customers.features, stored[:, 1:9].astype(np.float32))
    assert [customers.housing.tolist(), customers.region.tolist()] == stored[:, 9:].T.tolist()


def test_applications_are_plausible() -> None:
    """Shares lie in [0, 1], ages and counts are no less than 0, terms are whole years, and about a tenth defaults."""
    random = np.random.default_rng(7)
    customers = draw_customers(random, 20_000)

    drawn = draw_applications(random, customers)

    known = dict(zip(CUSTOMER_FEATURES, customers.features.T, strict=True))
    assert all(column.min() >= 0 for column in known.values())
    assert max(known["debt_to_income"].max(), known["credit_utilisation"].max()) <= 1
    assert known["income_monthly"].min() >= 900
    assert set(np.unique(drawn.inputs["term_months"])) == {12, 24, 36, 48, 60, 72}
    assert drawn.inputs["amount"].min() >= 500
    # The rate of this seed; at 20 000 rows a rate of 10 % has a standard error of 0.2 %.
    assert 0.09 < drawn.defaulted.mean() < 0.12
    # Thrift ties the features together.
    assert np.corrcoef(known["credit_utilisation"], known["debt_to_income"])[0, 1] > 0.2


@pytest.mark.parametrize("feature", DIRECTIONS)
def test_each_number_moves_the_risk_in_one_direction(feature: str) -> None:
    """More of it, and all else the same, never moves the probability of a default against its direction."""
    random = np.random.default_rng(3)
    inputs = draw_applications(random, draw_customers(random, 2000)).inputs
    name = "customer_features" if feature in CUSTOMER_FEATURES else feature
    at = CUSTOMER_FEATURES.index(feature) if feature in CUSTOMER_FEATURES else 0
    risks = []
    for value in np.quantile(inputs[name][:, at], (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)):
        moved = inputs[name].copy()
        moved[:, at] = value
        risks.append(risk({**inputs, name: moved}))

    steps = np.diff(risks, axis=0) * DIRECTIONS[feature]

    assert steps.min() >= 0
    assert steps.max() > 0


def test_covers_are_written_for_the_trees_that_were_trained_alone(tmp_path: Path) -> None:
    """Trees of another estimator are refused: their covers would be numbers of other nodes."""
    rows, labels = np.random.default_rng(1).standard_normal((200, 3)).astype(np.float32), np.arange(200) % 3 == 0
    ours, theirs = (
        GradientBoostingClassifier(n_estimators=3, max_depth=2, random_state=seed).fit(rows + seed, labels)
        for seed in (0, 1)
    )
    Model("trees", "1", ours).write(tmp_path, {"x": rows}, description="Trees.", classes=["no", "yes"], columns={})
    graph = onnx.load(tmp_path / "models" / "trees" / "1" / "model.onnx").graph

    with pytest.raises(ValueError, match="the nodes of the graph are not those of the estimator"):
        write_covers(graph, theirs)


def test_a_model_that_fp32_cannot_follow_is_not_written(tmp_path: Path) -> None:
    """A model whose sum cancels in FP32 is refused with the difference, and no file is left."""
    rows = np.linspace(1e6, 1e6 + 10, 50).astype(np.float32)[:, None]
    estimator = LogisticRegression().fit(rows - 1e6, rows[:, 0] > 1e6 + 5)
    estimator.coef_, estimator.intercept_ = np.array([[1.0003]]), np.array([-1.0003 * (1e6 + 5)])
    estimator.classes_ = np.array([0, 1])
    model = Model("cancels", "1", estimator)

    with pytest.raises(ValueError, match=r"cancels 1: ONNX Runtime differs from scikit-learn: largest difference"):
        model.write(tmp_path, {"x": rows}, description="Cancels.", classes=["no", "yes"], columns={})

    assert not bytes_below(tmp_path)


def test_floats_are_written_as_the_shortest_decimals_of_their_fp32() -> None:
    """A float of a tensor reads back as the same FP32, and is written without digits that FP32 does not hold."""
    values = np.array([[0.1, 1 / 3, 1e-7, 5.0]], np.float32)

    (tensor,) = tensors({"x": values})

    assert tensor == {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.1, 0.33333334, 1e-07, 5.0]}
    np.testing.assert_array_equal(np.array(tensor["data"], np.float32), values[0])
