"""Permutations of their own for each background row: as true as shared ones, and closer for the same rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded
from services.explainer.coalitions import all_subsets
from services.explainer.methods import apart as module
from services.explainer.methods.permutation import evaluations_of
from services.explainer.methods.running import widened
from tests.unit.explainer.methods.games import Game, UnlikeGames, estimates_of

PLAYERS = 7
EVALUATIONS = evaluations_of(4, PLAYERS)


async def last_of(game: Game, evaluations: int = EVALUATIONS, seed: int = 0, **more: Any):
    return (await estimates_of(game, "permutation", evaluations, seed, **more))[-1]


async def test_the_mean_of_many_seeds_is_the_exact_value_and_errors_cover_it() -> None:
    """No bias: 300 seeds of 20 pairs, within 4 standard errors of their mean; and the stated error holds at its rate (Student's t
    of 19: 67 % within one, 94 % within two; bounds 62 to 72 %, above 91 %), with weights that are not equal."""
    weights = np.random.default_rng(1).dirichlet(np.ones(6))
    game = UnlikeGames(UnlikeGames.drawn(2, backgrounds=6).tables, weights)

    found = [await last_of(game, evaluations_of(20, PLAYERS), seed) for seed in range(300)]

    each = np.array([estimate.attributions for estimate in found])
    assert (np.abs(each.mean(axis=0) - game.exact) < 4 * each.std(axis=0) / np.sqrt(len(each))).all()
    ratio = np.abs(each - game.exact) / np.array([estimate.std_error for estimate in found])
    assert 0.62 < (ratio < 1).mean() < 0.72
    assert (ratio < 2).mean() > 0.91


async def test_games_that_are_the_same_are_worth_as_many_times_more_as_there_are() -> None:
    """Sixteen background rows that are alike: one pair for each tells what sixteen pairs tell, so the mean squared error is a
    sixteenth of that of as many rows asked with shared permutations; under a tenth over 60 seeds."""
    table = np.random.default_rng(4).normal(size=(1, 2**PLAYERS, 1, 1)).cumsum(axis=1)
    apart, shared = UnlikeGames(table.repeat(16, axis=2)), Game(table[:, :, 0])

    errors = []
    for game in (apart, shared):
        found = np.array([(await last_of(game, seed=seed)).attributions for seed in range(60)])
        errors.append(((found - shared.exact) ** 2).mean())

    assert errors[0] < errors[1] / 10


async def test_interactions_of_two_are_exact_and_everything_adds_up() -> None:
    """What holds of each game's pair holds of their mean; one pair alone can't tell its error."""
    masks = all_subsets(PLAYERS).astype(float)
    pairwise = np.random.default_rng(2).normal(size=(5, PLAYERS, PLAYERS))
    tables = np.einsum("ci,bij,cj->cb", masks, pairwise, masks)[None, :, :, None]
    game = UnlikeGames(tables - tables[:, -1:] + 3.0)

    one = await last_of(game, evaluations_of(1, PLAYERS), seed=9)
    rough = UnlikeGames.drawn(5, rows=3)
    estimates = await estimates_of(rough, "permutation", EVALUATIONS, seed=1)

    assert one.attributions == pytest.approx(game.exact, abs=1e-12)
    assert np.isinf(one.std_error).all()
    for estimate in estimates:
        total = estimate.attributions.sum(axis=1)
        assert total == pytest.approx(rough.table[:, -1] - rough.table[:, 0], abs=1e-9)


async def test_a_row_gets_the_same_bits_alone_and_however_rows_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    game = UnlikeGames.drawn(6, rows=9)
    alone = UnlikeGames(game.tables[4:5])

    all_of_them, other = await last_of(game, seed=1), await last_of(game, seed=2)
    one = await last_of(alone, seed=1)
    monkeypatch.setattr(module, "GROUP_VALUES", 2 * 6 * 10 * 2)
    grouped = UnlikeGames(game.tables)
    cut = await last_of(grouped, seed=1)

    assert len(grouped.rounds) > len(game.rounds)
    assert all_of_them.attributions[4:5].tobytes() == one.attributions.tobytes()
    assert all_of_them.std_error[4:5].tobytes() == one.std_error.tobytes()
    assert all_of_them.attributions.tobytes() == cut.attributions.tobytes()
    assert not np.array_equal(all_of_them.attributions, other.attributions)


async def test_the_same_orders_again_tell_nothing_of_the_error() -> None:
    """Two background rows with three players: where two rounds drew the same orders for both, the error is not known, never 0."""
    game = UnlikeGames.drawn(1, players=3, backgrounds=2)

    errors = [(await last_of(game, evaluations_of(2, 3), seed)).std_error for seed in range(60)]

    unknown = sum(bool(np.isinf(error).all()) for error in errors)
    assert 1 <= unknown <= 15  # of 60; a ninth, four standard errors
    assert all(error.max() > 0 for error in errors)


class Late(UnlikeGames):
    """Its model gives up after some questions."""

    gives_up_after = 0

    async def apart(self, masks: np.ndarray, backgrounds: np.ndarray, rows: range) -> np.ndarray:
        if len(self.rounds) >= self.gives_up_after:
            raise DeadlineExceeded("predictor: too long")
        return await super().apart(masks, backgrounds, rows)


async def test_an_end_of_time_leaves_what_was_done() -> None:
    """The backend's DEADLINE_EXCEEDED is the caller's at first and later an end; of a deadline of ours nothing is made up."""
    patient, early = Late(UnlikeGames.drawn(7, rows=300).tables), Late(UnlikeGames.drawn(7).tables)
    patient.gives_up_after = 2

    done = await last_of(patient, 2000)
    with pytest.raises(DeadlineExceeded, match="too long"):
        await last_of(early, 2000)
    passed = await estimates_of(early, "permutation", 2000, 0, stop=Deadline(0.0, clock=lambda: 1.0))

    assert not done.converged
    assert np.isfinite(done.attributions).all()
    assert passed == []


def test_too_much_to_hold_and_means_that_are_linked_share_their_permutations() -> None:
    game = UnlikeGames.drawn(8)
    assert module.Apart.fits(game, PLAYERS, 1)  # type: ignore[arg-type]
    assert not module.Apart.fits(game, PLAYERS, 2**20)  # type: ignore[arg-type]
    assert not module.Apart.fits(game, 10_000, 1)  # type: ignore[arg-type]
    game.link = "logit"
    assert not module.Apart.fits(game, PLAYERS, 1)  # type: ignore[arg-type]


async def test_the_service_is_closer_by_it_for_the_same_rows(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product of six numbers against 40 background rows, ten seeds: two pairs each have under half the error of two shared
    ones, and about the one they state; everything adds up, and the messages' size changes no bit."""
    draw = np.random.default_rng(5)
    background, rows = draw.uniform(0.4, 1, size=(40, 6)), draw.uniform(0.4, 1, size=(3, 6))
    model = lab.FunctionModel(lambda given: {"y": np.prod(given["x"], axis=1, keepdims=True)}, [("x", "FP64", (-1, 6))])
    given: Any = (model, {"x": background}, {"x": rows})
    asked: Any = {"method": "permutation", "max_evals": evaluations_of(6, 6)}

    exact = await lab.explain(*given, method="exact")
    found = [await lab.explain(*given, **asked, seed=seed) for seed in range(10)]
    small = await lab.explain(*given, {"asking": {"max_rows": 7, "in_flight": 1}}, **asked, seed=0)
    monkeypatch.setattr(module.Apart, "fits", lambda *_: False)
    shared = [await lab.explain(*given, **asked, seed=seed) for seed in range(10)]

    error, error_shared = (
        np.sqrt(np.mean([(one.attributions - exact.attributions) ** 2 for one in each])) for each in (found, shared)
    )
    assert error < error_shared / 2
    stated = np.sqrt(np.mean([one.std_error**2 for one in found])) / widened(5)
    assert error == pytest.approx(stated, rel=0.35)
    assert found[0].additivity_error.max() < 1e-9
    assert found[0].attributions.tobytes() == small.attributions.tobytes()
    assert found[0].parameters["infermesh_evaluations"] == evaluations_of(6, 6)
