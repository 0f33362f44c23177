"""Attributions by KernelSHAP: close to the exact ones, by as much as they say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, ResourceExhausted
from services.explainer.coalitions import all_subsets
from services.explainer.methods import kernel as module
from services.explainer.methods import kernel_apart
from services.explainer.methods.kernel import kernel, kernel_pairs_within
from services.explainer.methods.kernel_design import Design, all_pairs, fewest_pairs
from services.explainer.methods.pace import Plan
from services.explainer.methods.running import widened
from services.explainer.threads import Threads
from tests.unit.explainer.methods.games import Game, UnlikeGames, estimates_of, rough_game, smooth_game


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 8])
async def test_with_all_coalitions_it_is_exact_and_says_so(players: int) -> None:
    """The weighted regression over everything is the Shapley value (Lundberg and Lee 2017, theorem 2)."""
    game = rough_game(players, rows=2, players=players)

    last = (await estimates_of(game, "kernel", 2**players, seed=0))[-1]

    assert last.attributions == pytest.approx(game.exact, abs=1e-9)
    assert not last.std_error.any()
    assert last.converged
    assert last.evaluations == 2**players


async def test_no_rows_have_no_attributions_and_ask_nothing() -> None:
    """Tensors of zero rows."""
    game = Game(np.empty((0, 2**7, 3)))

    (only,) = await estimates_of(game, "kernel", 100, seed=0)

    assert only.attributions.shape == only.std_error.shape == (0, 7, 3)
    assert only.converged
    assert not game.rounds


async def test_every_estimate_adds_up_to_prediction_less_base_value() -> None:
    """Additivity holds from the first one on."""
    game = rough_game(1, rows=300)

    estimates = await estimates_of(game, "kernel", 100, seed=0)

    assert len(estimates) > 1
    for estimate in estimates:
        total = estimate.attributions.sum(axis=1)
        assert total == pytest.approx(game.table[:, -1] - game.table[:, 0], abs=1e-10)


async def test_interactions_of_two_are_exact_with_the_fewest_pairs() -> None:
    """A coalition and its complement together say of them what an additive model would; that no residual is left is no proof
    that none would be: the stated error is less and less with more draws, and never 0."""
    masks = all_subsets(7).astype(float)
    pairwise = np.random.default_rng(2).normal(size=(7, 7))
    game = Game(np.einsum("ci,ij,cj->c", masks, pairwise, masks)[None, :, None])

    last = (await estimates_of(game, "kernel", 2 + 2 * fewest_pairs(7), seed=9))[-1]

    assert last.attributions == pytest.approx(game.exact, abs=1e-9)
    errors = [(await estimates_of(game, "kernel", evaluations, 9))[-1].std_error for evaluations in (30, 60, 100)]
    assert (errors[0] > errors[1]).all()
    assert (errors[1] > errors[2]).all()
    assert (errors[2] > 0).all()


@pytest.mark.parametrize(("evaluations", "game"), [(60, rough_game(3)), (200, smooth_game(3, 10))])
async def test_standard_errors_cover_the_exact_values_at_their_rate(evaluations: int, game: Game) -> None:
    """Over 200 seeds the exact value is within 1 (2) standard errors as often as Student's t says with as many degrees of freedom
    as there are draws less one, which they are widened for, within 6 and 3 points; its short form, for two games."""
    within, rate = await coverage(game, evaluations, seeds=200)

    assert within[0] == pytest.approx(rate[0], abs=0.06)
    assert within[1] == pytest.approx(rate[1], abs=0.03)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("players", "evaluations"), [(7, 60), (9, 120), (10, 300), (12, 700)])
async def test_over_a_thousand_seeds_standard_errors_cover_at_their_rate(
    seed: int, players: int, evaluations: int
) -> None:
    """For rough and smooth games: within 4 and 2.5 points."""
    for game in (rough_game(seed, players=players), smooth_game(seed, players)):
        within, rate = await coverage(game, evaluations, seeds=1000)

        assert within[0] == pytest.approx(rate[0], abs=0.04)
        assert within[1] == pytest.approx(rate[1], abs=0.025)


async def coverage(game: Game, evaluations: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """How often the exact value was within 1 and 2 standard errors, and how often it should be."""
    ratios, draws = [], Design(game.players, kernel_pairs_within(evaluations, game.players), 0).draws
    for seed in range(seeds):
        last = (await estimates_of(game, "kernel", evaluations, seed))[-1]
        ratios.append(np.abs(last.attributions - game.exact) / last.std_error)
    ratio = np.array(ratios)
    return np.array([(ratio < 1).mean(), (ratio < 2).mean()]), 1 - 2 * student(draws - 1).sf(
        np.array([1.0, 2.0]) * widened(draws - 1)
    )


async def test_its_error_is_less_than_that_of_permutations_for_the_same_evaluations() -> None:
    """Why `auto` takes it: for rough and smooth games of ten players the mean squared error is under half, over 40 seeds."""
    for game in (rough_game(5, players=10), smooth_game(5, 10)):
        error = {}
        for method in ("permutation", "kernel"):
            found = [(await estimates_of(game, method, 290, seed))[-1].attributions for seed in range(40)]
            error[method] = ((np.array(found) - game.exact) ** 2).mean()

        assert error["kernel"] < 0.5 * error["permutation"]


async def test_the_same_seed_gives_the_same_bits_alone_and_in_any_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Determinism by seed, whatever is explained beside a row and however the work is cut."""
    game = rough_game(6, rows=400, players=9)
    alone = Game(game.table[:1])

    first, other = [(await estimates_of(game, "kernel", 200, seed))[-1] for seed in (1, 2)]
    one = (await estimates_of(alone, "kernel", 200, seed=1))[-1]
    monkeypatch.setattr(module, "ROUND_VALUES", 2 * 400 * 3)
    small = rough_game(6, rows=400, players=9)
    cut = (await estimates_of(small, "kernel", 200, seed=1))[-1]

    assert len(small.rounds) > len(game.rounds) / 2
    assert first.attributions.tobytes() == cut.attributions.tobytes()
    assert first.std_error.tobytes() == cut.std_error.tobytes()
    assert first.attributions[:1].tobytes() == one.attributions.tobytes()
    assert first.std_error[:1].tobytes() == one.std_error.tobytes()
    assert not np.array_equal(first.attributions, other.attributions)


async def test_no_coalition_is_asked_about_twice_and_no_more_than_allowed() -> None:
    """Pairs that are drawn again count again and cost nothing; with each coalition its complement is asked about."""
    game = rough_game(7, players=8)

    last = (await estimates_of(game, "kernel", 150, seed=0))[-1]

    asked = np.concatenate(game.asked)
    assert len(np.unique(asked, axis=0)) == len(asked) == last.evaluations - 2 <= 148
    assert {tuple(row) for row in asked} == {tuple(~row) for row in asked}


async def test_sampling_ends_when_the_tolerance_is_reached_and_says_so() -> None:
    """No standard error is above the tolerance, with fewer evaluations than allowed; one out of reach is not converged."""
    game = rough_game(8, rows=200, players=12)
    reference = (await estimates_of(game, "kernel", 3000, seed=0))[-1].std_error.max()

    last = (await estimates_of(game, "kernel", 3000, seed=0, tolerance=2.5 * reference))[-1]
    never = (await estimates_of(game, "kernel", 500, seed=0, tolerance=1e-9))[-1]

    assert last.converged
    assert last.std_error.max() <= 2.5 * reference
    assert last.evaluations < 2500
    assert not never.converged


@pytest.mark.parametrize("backgrounds", [2, 32])
async def test_rows_that_can_not_be_held_together_are_answered_as_each_alone(
    backgrounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of two rows, with pairs that are shared and with pairs of their own: the same bits as in one group, and for a row
    alone."""
    game = UnlikeGames.drawn(3, rows=5, players=8, backgrounds=backgrounds)
    alone = UnlikeGames(game.tables[3:4])

    whole = (await estimates_of(game, "kernel", 60, seed=1))[-1]
    one = (await estimates_of(alone, "kernel", 60, seed=1))[-1]
    monkeypatch.setattr(module, "HELD_VALUES", 2 * 29)
    monkeypatch.setattr(kernel_apart, "HELD_VALUES", 2 * backgrounds * 8)
    parts = UnlikeGames(game.tables)
    found = await estimates_of(parts, "kernel", 60, seed=1)

    assert len(parts.rounds) > 2 * len(game.rounds)
    assert found[-1].attributions.tobytes() == whole.attributions.tobytes()
    assert found[-1].std_error.tobytes() == whole.std_error.tobytes()
    assert found[-1].attributions[3:4].tobytes() == one.attributions.tobytes()
    assert found[-1].std_error[3:4].tobytes() == one.std_error.tobytes()
    assert found[-1].converged
    assert all(len(estimate.attributions) == 5 for estimate in found)


async def test_no_time_for_all_groups_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows would be explained and half not."""
    monkeypatch.setattr(module, "HELD_VALUES", 2 * 29)
    game = Slow(rough_game(3, rows=4, players=8).table)
    game.gives_up_after = 1

    with pytest.raises(DeadlineExceeded, match="too long"):
        await estimates_of(game, "kernel", 60, seed=1)


class Slow(Game):
    """Each round takes a second of a clock of its own."""

    now = 0.0
    gives_up_after = math.inf

    async def of(self, masks: np.ndarray, rows: range) -> np.ndarray:
        if self.now >= self.gives_up_after:
            raise DeadlineExceeded("predictor: too long")
        self.now += 1.0
        return await super().of(masks, rows)


async def test_when_the_deadline_nears_the_answer_is_what_there_is() -> None:
    """An early one before the second size is complete, honest about its error and not converged; none when there was no time."""
    game = Slow(rough_game(10, rows=500, players=11).table)
    found = await estimates_of(
        game, "kernel", 2**11, seed=0, stop=Deadline(4.5, clock=lambda: game.now), clock=lambda: game.now
    )
    late = Slow(game.table)
    nothing = await estimates_of(late, "kernel", 500, seed=0, stop=Deadline(0.0, clock=lambda: 1.0))

    assert found
    assert not found[-1].converged
    assert found[-1].evaluations <= 2 + sum(game.rounds)
    assert np.isfinite(found[-1].std_error).all()
    assert found[-1].std_error.max() > 0
    assert nothing == []


async def test_a_model_that_gives_up_earlier_than_we_do_leaves_what_was_done() -> None:
    """DEADLINE_EXCEEDED of the backend is an end like our own when there is an answer, and else the caller's."""
    table = rough_game(11, rows=2000, players=10).table
    patient, early = Slow(table), Slow(table)
    patient.gives_up_after, early.gives_up_after = 10, 0

    assert (await estimates_of(patient, "kernel", 2**10, seed=0))[-1].evaluations > 2
    with pytest.raises(DeadlineExceeded, match="too long"):
        await estimates_of(early, "kernel", 2**10, seed=0)


async def test_more_values_than_can_be_held_are_refused() -> None:
    """With what would help; a little more than fits is cut, and not converged."""
    threads = Threads(1)
    wide = np.zeros((1, 2**20))
    plan = Plan(100, 0, Deadline(math.inf))
    with pytest.raises(ResourceExhausted, match='fewer classes, or for method "permutation"'):
        async for _ in kernel(rough_game(0), wide[0], wide, 7, plan, threads):  # type: ignore[arg-type]
            pass
    threads.close()


async def test_what_does_not_fit_is_left_out_and_not_called_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pairs than asked for."""
    monkeypatch.setattr(module, "HELD_VALUES", 100)

    last = (await estimates_of(rough_game(12, players=9), "kernel", 400, seed=0))[-1]

    assert 0.8 * 200 < last.evaluations <= 202
    assert not last.converged


def test_the_design_enumerates_small_sizes_first_and_draws_the_rest_by_the_kernel() -> None:
    """Twelve players, 352 pairs: sizes 1 and 2 completely, and the others by the kernel's weights, within 4 standard errors."""
    design = Design(12, 352, seed=3)
    steps = list(design.steps())

    assert design.complete == 2
    assert design.draws == 352 - 12 - 66
    enumerated = {size: sum(len(step.masks) for step in steps if step.size == size) for size in (1, 2)}
    assert enumerated == {1: 12, 2: 66}
    many = np.concatenate([s.masks for s in Design(12, 2000, seed=0)._drawn(20_000, 3)]).sum(axis=1)
    for size, share in zip((3, 4, 5, 6), design.shares[2:] / design.shares[2:].sum(), strict=True):
        assert (many == size).mean() == pytest.approx(share, abs=4 * math.sqrt(share / 20_000))


def test_the_fewest_pairs_tell_every_player_apart() -> None:
    """Those of one player, and as many draws; never more than there are."""
    for players in (2, 3, 4, 5, 30):
        assert fewest_pairs(players) == min(all_pairs(players), 2 * players)
        assert kernel_pairs_within(2 + 2 * fewest_pairs(players), players) == fewest_pairs(players)
        assert kernel_pairs_within(1 + 2 * fewest_pairs(players), players) == 0


async def test_the_service_explains_by_it(lab: SimpleNamespace) -> None:
    """Over the whole service: close to the closed form of a linear model, additive, deterministic in messages of any size."""
    draw = np.random.default_rng(1)
    weights, background, rows = draw.normal(size=30), draw.normal(size=(12, 30)), draw.normal(size=(4, 30))
    model = lab.FunctionModel(
        lambda given: {"y": np.tanh((given["x"] * weights).sum(axis=1, keepdims=True))}, [("x", "FP64", (-1, 30))]
    )
    asked: dict[str, Any] = {"method": "kernel", "max_evals": 400, "seed": 7}

    answer = await lab.explain(model, {"x": background}, {"x": rows}, **asked)
    small = await lab.explain(
        model, {"x": background}, {"x": rows}, {"asking": {"max_rows": 701, "in_flight": 1}}, **asked
    )

    assert answer.parameters["infermesh_method"] == "kernel"
    assert 300 < answer.parameters["infermesh_evaluations"] <= 400
    assert answer.parameters["infermesh_converged"] is True
    assert answer.additivity_error.max() < 1e-9
    assert answer.attributions.tobytes() == small.attributions.tobytes()
