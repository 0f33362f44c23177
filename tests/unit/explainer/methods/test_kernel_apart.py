"""KernelSHAP with pairs of its own for each background row: as true as with shared ones, and closer for the same rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded
from services.explainer.coalitions import all_subsets
from services.explainer.methods import kernel as shared_module
from services.explainer.methods import kernel_apart as module
from services.explainer.methods.kernel_design import all_pairs, fewest_pairs
from tests.unit.explainer.methods.games import UnlikeGames, estimates_of

PLAYERS = 8
BACKGROUNDS = 32
EVALUATIONS = 2 + 2 * (PLAYERS + 20)


async def last_of(game: UnlikeGames, evaluations: int = EVALUATIONS, seed: int = 0, **more: Any):
    return (await estimates_of(game, "kernel", evaluations, seed, **more))[-1]


def games(seed: int, rows: int = 1) -> UnlikeGames:
    return UnlikeGames.drawn(seed, rows, PLAYERS, BACKGROUNDS)


async def test_the_mean_of_many_seeds_is_the_exact_value_and_errors_cover_it() -> None:
    """No bias: 200 seeds, within 4 standard errors of their mean; and the stated error, of 20 samples, holds at its rate
    (Student's t of 19: 67 % within one, 94 % within two; bounds 61 to 73 %, above 91 %), with weights that are not equal."""
    game = UnlikeGames(games(2).tables, np.random.default_rng(1).dirichlet(np.ones(BACKGROUNDS)))

    found = [await last_of(game, seed=seed) for seed in range(200)]

    each = np.array([estimate.attributions for estimate in found])
    assert (np.abs(each.mean(axis=0) - game.exact) < 4 * each.std(axis=0) / np.sqrt(len(each))).all()
    ratio = np.abs(each - game.exact) / np.array([estimate.std_error for estimate in found])
    assert 0.61 < (ratio < 1).mean() < 0.73
    assert (ratio < 2).mean() > 0.91


async def test_games_that_are_alike_have_a_fraction_of_the_error_of_shared_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why it is done: 32 background rows that are alike tell with 20 pairs each what 640 shared pairs would. Over 40 seeds the
    mean squared error is under a fifth of that of 28 shared pairs, which are as many rows to ask about."""
    table = np.random.default_rng(4).normal(size=(1, 2**PLAYERS, 1, 1)).cumsum(axis=1)
    game = UnlikeGames(table.repeat(BACKGROUNDS, axis=2))

    apart = np.array([(await last_of(game, seed=seed)).attributions for seed in range(40)])
    monkeypatch.setattr(shared_module, "fits", lambda *_: False)
    shared = np.array([(await last_of(game, seed=seed)).attributions for seed in range(40)])

    assert ((apart - game.exact) ** 2).mean() < ((shared - game.exact) ** 2).mean() / 5


async def test_interactions_of_two_are_exact_and_everything_adds_up() -> None:
    """A pair of complements says of them what an additive model would, so the first fit is exact and no sample moves it."""
    masks = all_subsets(PLAYERS).astype(float)
    pairwise = np.random.default_rng(2).normal(size=(BACKGROUNDS, PLAYERS, PLAYERS))
    tables = np.einsum("ci,bij,cj->cb", masks, pairwise, masks)[None, :, :, None]
    game = UnlikeGames(tables - tables[:, -1:] + 3.0)

    even = await last_of(game, 2 + 2 * fewest_pairs(PLAYERS), seed=9)
    rough = games(5, rows=3)
    estimates = await estimates_of(rough, "kernel", EVALUATIONS, seed=1)

    assert even.attributions == pytest.approx(game.exact, abs=1e-9)
    assert (even.std_error > 0).all()  # that no sample moved it is no proof that none would
    for estimate in estimates:
        total = estimate.attributions.sum(axis=1)
        assert total == pytest.approx(rough.table[:, -1] - rough.table[:, 0], abs=1e-9)


async def test_a_row_gets_the_same_bits_alone_and_however_rows_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    game = games(6, rows=9)
    alone = UnlikeGames(game.tables[4:5])

    all_of_them, other = await last_of(game, seed=1), await last_of(game, seed=2)
    one = await last_of(alone, seed=1)
    monkeypatch.setattr(module, "GROUP_VALUES", 2 * 2 * BACKGROUNDS * PLAYERS)
    grouped = UnlikeGames(game.tables)
    cut = await last_of(grouped, seed=1)

    assert len(grouped.rounds) > len(game.rounds)
    assert all_of_them.attributions[4:5].tobytes() == one.attributions.tobytes()
    assert all_of_them.std_error[4:5].tobytes() == one.std_error.tobytes()
    assert all_of_them.attributions.tobytes() == cut.attributions.tobytes()
    assert not np.array_equal(all_of_them.attributions, other.attributions)


async def test_as_many_evaluations_as_allowed_in_pairs_of_complements() -> None:
    """As many rows as shared coalitions would make: each mask goes with one background row."""
    game = games(7)

    last = await last_of(game, EVALUATIONS + 1)

    asked = np.concatenate(game.asked)
    assert last.converged
    assert last.evaluations == EVALUATIONS == 2 + len(asked) / BACKGROUNDS
    half = [(part[: len(part) // 2], part[len(part) // 2 :]) for part in game.asked]
    assert all((masks == ~rest).all() for masks, rest in half)


async def test_sampling_ends_when_the_tolerance_is_reached_and_says_so() -> None:
    """Fewer evaluations than allowed; one out of reach is not converged."""
    game = games(8, rows=100)
    reference = (await last_of(game, 120)).std_error.max()

    last = await last_of(game, 120, tolerance=1.7 * reference)
    never = await last_of(game, 120, tolerance=1e-9)

    assert last.converged
    assert last.std_error.max() <= 1.7 * reference
    assert last.evaluations < 120
    assert not never.converged


class Late(UnlikeGames):
    """Its model gives up after some questions."""

    gives_up_after = 0

    async def apart(self, masks: np.ndarray, backgrounds: np.ndarray, rows: range) -> np.ndarray:
        if len(self.rounds) >= self.gives_up_after:
            raise DeadlineExceeded("predictor: too long")
        return await super().apart(masks, backgrounds, rows)


async def test_an_end_of_time_leaves_what_was_done() -> None:
    """The backend's DEADLINE_EXCEEDED is the caller's at first and later an end; of a deadline of ours nothing is made up."""
    patient, early = Late(games(9, rows=200).tables), Late(games(9).tables)
    patient.gives_up_after = 4

    done = await last_of(patient, 120)
    with pytest.raises(DeadlineExceeded, match="too long"):
        await last_of(early, 120)
    passed = await estimates_of(early, "kernel", 120, 0, stop=Deadline(0.0, clock=lambda: 1.0))

    assert not done.converged
    assert np.isfinite(done.attributions).all()
    assert np.isfinite(done.std_error).all()
    assert passed == []


async def test_no_time_for_a_second_draw_is_no_answer() -> None:
    """The first fit alone, whose error nobody knows, is not told."""

    class Slow(UnlikeGames):
        now = 0.0

        async def apart(self, masks: np.ndarray, backgrounds: np.ndarray, rows: range) -> np.ndarray:
            self.now += 1.0
            return await super().apart(masks, backgrounds, rows)

    game = Slow(games(10).tables)
    stop = Deadline(1.05, clock=lambda: game.now)

    assert await estimates_of(game, "kernel", 120, 0, stop=stop, clock=lambda: game.now) == []


def test_few_background_rows_most_pairs_and_linked_means_share_their_pairs() -> None:
    game: Any = games(11)
    pairs = fewest_pairs(PLAYERS)
    assert module.fits(game, PLAYERS, 1, pairs)
    assert not module.fits(game, PLAYERS, 1, all_pairs(PLAYERS) // 2 + 1)
    assert module.fits(game, PLAYERS, 1000, pairs)
    assert not module.fits(game, PLAYERS, 100_000, pairs)
    assert not module.fits(UnlikeGames.drawn(1, 1, PLAYERS, BACKGROUNDS - 1), PLAYERS, 1, pairs)  # type: ignore[arg-type]
    game.link = "logit"
    assert not module.fits(game, PLAYERS, 1, pairs)


async def test_the_service_is_closer_by_it_for_the_same_rows(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of eight numbers against 100 background rows, ten seeds: under half the error of shared pairs, and about the one
    that is stated; everything adds up, and the messages' size changes no bit."""
    draw = np.random.default_rng(5)
    background, rows, weights = draw.normal(size=(100, 8)), draw.normal(size=(3, 8)), draw.normal(size=(8, 6))
    model = lab.FunctionModel(
        lambda given: {"y": np.tanh(given["x"] @ weights).sum(axis=1, keepdims=True)}, [("x", "FP64", (-1, 8))]
    )
    given: Any = (model, {"x": background}, {"x": rows})
    asked: Any = {"method": "kernel", "max_evals": 2 + 2 * 24}

    exact = await lab.explain(*given, method="exact")
    found = [await lab.explain(*given, **asked, seed=seed) for seed in range(10)]
    small = await lab.explain(*given, {"asking": {"max_rows": 70, "in_flight": 1}}, **asked, seed=0)
    monkeypatch.setattr(shared_module, "fits", lambda *_: False)
    shared = [await lab.explain(*given, **asked, seed=seed) for seed in range(10)]

    error, error_shared = (
        math.sqrt(np.mean([(one.attributions - exact.attributions) ** 2 for one in each])) for each in (found, shared)
    )
    assert error < error_shared / 2
    assert error == pytest.approx(math.sqrt(np.mean([one.std_error**2 for one in found])), rel=0.3)
    assert found[0].additivity_error.max() < 1e-9
    assert found[0].attributions.tobytes() == small.attributions.tobytes()
    assert found[0].parameters["infermesh_evaluations"] == 50
