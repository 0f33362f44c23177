"""Few rows for many: even samples, k-means, strata."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from services.explainer.background import Background
from services.explainer.background_file import BackgroundError
from services.explainer.background_kmeans import kmeans, places
from services.explainer.background_material import Material
from services.explainer.background_sample import Sample
from services.explainer.background_summary import summarised


def background_of(arrays: dict[str, np.ndarray], weights: object = None) -> Background:
    rows = len(next(iter(arrays.values())))
    shares = np.full(rows, 1.0) if weights is None else np.array(weights, float)
    datatypes = {name: "BYTES" if array.dtype == object else "FP64" for name, array in arrays.items()}
    return Background("b", arrays, datatypes, shares / shares.sum())


def texts(*values: str) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


def rows_of(background: Background) -> list[tuple[object, ...]]:
    flat = [array.reshape(len(background), -1) for array in background.arrays.values()]
    return [tuple(value for part in flat for value in part[row].tolist()) for row in range(len(background))]


# ---- samples


@pytest.mark.parametrize("cuts", [[1000], [1] * 1000, [3, 500, 0, 497]])
def test_a_sample_does_not_depend_on_how_the_rows_came(cuts: list[int]) -> None:
    """The same rows in other pieces give the same sample, in the order of the rows, and never more than the limit."""
    at, sample = 0, Sample(30, seed=7)
    for rows in cuts:
        piece = np.arange(at, at + rows)
        sample.keep({"x": piece[sample.choose(rows)]})
        at += rows

    whole = Sample(30, seed=7)
    whole.keep({"x": np.arange(1000)[whole.choose(1000)]})

    assert sample.rows()["x"].tolist() == whole.rows()["x"].tolist() == sorted(whole.rows()["x"].tolist())
    assert len(set(sample.rows()["x"].tolist())) == 30
    assert sample.offered == 1000


def test_every_row_has_the_same_chance_to_be_in_a_sample() -> None:
    """Over 2,000 seeds, each of 20 rows is among the 5 chosen a quarter of the time, within 4 standard errors."""
    counts = np.zeros(20)
    for seed in range(2000):
        sample = Sample(5, seed)
        for row in range(20):
            sample.keep({"x": np.array([row])[sample.choose(1)]})
        counts[sample.rows()["x"]] += 1

    assert np.abs(counts / 2000 - 0.25).max() < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_fewer_rows_than_the_limit_are_all_kept() -> None:
    """And of none there is nothing."""
    sample = Sample(30, seed=0)
    assert sample.rows() == {}

    sample.keep({"x": np.arange(12)[sample.choose(12)]})

    assert sample.rows()["x"].tolist() == list(range(12))


# ---- k-means


def test_clusters_are_found_and_weighed() -> None:
    """Three heaps of 50, 30 and 20 rows become one row each, of half, three tenths and a fifth of the weight."""
    draw = np.random.default_rng(3)
    heaps = [draw.normal(centre, 0.1, (rows, 2)) for centre, rows in (((0, 0), 50), ((5, 5), 30), ((0, 9), 20))]
    material = Material(background_of({"x": np.concatenate(heaps)}), {})

    few = summarised(material, "kmeans", 3)

    assert sorted(few.weights.tolist()) == pytest.approx([0.2, 0.3, 0.5])
    for row, weight in zip(few.arrays["x"], few.weights, strict=True):
        centre = {0.5: (0, 0), 0.3: (5, 5), 0.2: (0, 9)}[round(float(weight), 3)]
        assert np.abs(row - centre).max() < 0.2
    assert few.summary == "kmeans"


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_about_as_good_as_scikit_learns(seed: int) -> None:
    """The rows' mean squared distance to their centre is at most a tenth larger than scikit-learn's from ten starts."""
    points = np.random.default_rng(seed).standard_normal((600, 3)) * [1, 2, 3]
    weights = np.full(600, 1 / 600)
    places_of = places({"x": points}, weights)

    index, shares = kmeans(places_of, weights, 12, seed)

    theirs = KMeans(12, n_init=10, random_state=seed).fit(places_of)
    ours = np.square(places_of[:, None] - places_of[index][None]).sum(axis=2).min(axis=1).sum()
    to_medoids = np.square(places_of[:, None] - theirs.cluster_centers_[None]).sum(axis=2)
    medoids = places_of[to_medoids.argmin(axis=0)]
    best = np.square(places_of[:, None] - medoids[None]).sum(axis=2).min(axis=1).sum()
    assert ours <= 1.1 * best
    assert shares.sum() == pytest.approx(1)


def test_a_summary_keeps_means_better_than_as_many_rows_at_random() -> None:
    """The mean of a smooth function over 20 clusters of 2,000 rows is nearer to that over all than 20 rows at random are."""
    draw = np.random.default_rng(11)
    points = draw.standard_normal((2000, 3))

    def mean(rows: np.ndarray, weights: np.ndarray) -> float:
        return float(np.tanh(rows.sum(axis=1)) @ weights)

    exact = mean(points, np.full(2000, 1 / 2000))
    few = summarised(Material(background_of({"x": points}), {}), "kmeans", 20)
    at_random = [mean(points[draw.choice(2000, 20, replace=False)], np.full(20, 0.05)) for _ in range(200)]

    assert abs(mean(few.arrays["x"], few.weights) - exact) < np.std(at_random)


def test_texts_and_missing_numbers_count_too() -> None:
    """Rows that differ in a text, or in whether a number is there, are clusters of their own; infinities are far away."""
    arrays = {
        "x": np.array([1.0, 1.0, np.nan, np.nan, np.inf, np.inf, 1.0, 1.0]),
        "t": texts("a", "a", "a", "a", "a", "a", "b", "b"),
    }

    few = summarised(Material(background_of(arrays), {}), "kmeans", 4)

    assert len(few) == 4
    assert few.weights.tolist() == [0.25] * 4
    assert [str(row) for row in rows_of(few)] == ["(1.0, b'a')", "(nan, b'a')", "(inf, b'a')", "(1.0, b'b')"]


def test_a_column_of_nothing_but_missing_numbers_does_no_harm() -> None:
    """Neither does one that is the same everywhere, nor a table of such columns alone."""
    arrays = {"x": np.full(6, np.nan), "y": np.ones(6)}

    few = summarised(Material(background_of(arrays), {}), "kmeans", 3)

    assert len(few) == 1
    assert few.weights.tolist() == [1.0]


def test_rows_of_no_weight_stand_for_nothing() -> None:
    """They neither become a centre nor move one."""
    background = background_of({"x": np.array([0.0, 0.2, 5.0, 100.0])}, weights=[2, 1, 3, 0])

    few = summarised(Material(background, {}), "kmeans", 2)

    assert sorted(zip(few.arrays["x"].tolist(), few.weights.tolist(), strict=True)) == [(0.0, 0.5), (5.0, 0.5)]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 7.5, float("nan"), -3e300]), st.sampled_from(["", "a", "ä"])),
        min_size=1,
        max_size=40,
    ),
    count=st.integers(1, 12),
    summary=st.sampled_from(["none", "kmeans", "stratified"]),
    seed=st.integers(0, 2**40),
)
def test_a_summary_is_made_of_rows_that_there_are(
    rows: list[tuple[float, str]], count: int, summary: str, seed: int
) -> None:
    """At most as many as asked for, all of them rows of the source, weights that add up to 1; the same again by the same seed."""
    arrays = {"x": np.array([x for x, _ in rows]), "t": texts(*(t for _, t in rows))}
    material = Material(background_of(arrays), {})
    by = "t" if summary == "stratified" else ""

    few, again = (summarised(material, summary, count, by=by, seed=seed) for _ in range(2))  # type: ignore[arg-type]

    assert 1 <= len(few) <= count
    assert few.weights.sum() == pytest.approx(1)
    assert (few.weights > 0).all()
    assert {str(row) for row in rows_of(few)} <= {str(row) for row in rows_of(material.background)}
    assert str(rows_of(few)) == str(rows_of(again))
    assert few.weights.tolist() == again.weights.tolist()


# ---- strata


def test_strata_are_quantiles_of_a_column() -> None:
    """Ten rows of 1,000: one of each tenth of the values, whatever their order in the file."""
    values = np.random.default_rng(2).permutation(np.arange(1000.0))
    material = Material(background_of({"x": values}), {})

    few = summarised(material, "stratified", 10, by="x", seed=5)
    other = summarised(material, "stratified", 10, by="x", seed=6)

    assert sorted((few.arrays["x"] // 100).astype(int).tolist()) == list(range(10))
    assert few.weights.tolist() == [0.1] * 10
    assert few.arrays["x"].tolist() != other.arrays["x"].tolist()
    assert few.summary == "stratified by x"


def test_strata_of_a_text_are_its_shares() -> None:
    """Nine tenths of the rows say `a`: so do nine of ten."""
    material = Material(background_of({"t": texts(*["a"] * 90, *["b"] * 10)}), {})

    few = summarised(material, "stratified", 10, by="t")

    assert [few.arrays["t"].tolist().count(text) for text in (b"a", b"b")] == [9, 1]


@pytest.mark.parametrize(
    ("by", "chosen"),
    [
        ("x[1]", "second"),
        ("output.score", "score"),
        ("prediction", "score"),
        ("output.score[0]", "score"),
        ("age", "age"),
    ],
)
def test_rows_are_told_apart_by_what_the_source_has(by: str, chosen: str) -> None:
    """A column of an input, an output, the prediction, or another column."""
    columns = {"second": np.arange(4.0), "score": np.array([[3.0], [1], [2], [0]]), "age": np.array([2, 0, 3, 1])}
    inputs = np.column_stack([np.zeros(4), columns["second"]])
    material = Material(background_of({"x": inputs}), {"output.score": columns["score"], "age": columns["age"]})

    assert material.column(by).tolist() == columns[chosen].ravel().tolist()


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("y", 'by: "y": no such column; there are x, age'),
        ("x", 'by: "x": it has 2 columns; name one, such as x[0]'),
        ("x[2]", 'by: "x[2]": it has 2 columns'),
        ("prediction", 'by: "prediction": the source has no outputs'),
    ],
)
def test_a_column_that_is_not_there_is_told(by: str, said: str) -> None:
    """With those that there are."""
    material = Material(background_of({"x": np.zeros((4, 2))}), {"age": np.zeros(4)})

    with pytest.raises(BackgroundError) as refused:
        summarised(material, "stratified", 2, by=by)

    assert said in str(refused.value)
