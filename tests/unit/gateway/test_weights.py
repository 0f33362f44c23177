"""Weights without those variants whose breakers are open."""

from __future__ import annotations

import itertools

from services.gateway.weights import MAX_KEPT, Weights

NAMES = ["a", "b", "c"]


def test_the_share_of_who_is_left_out_goes_to_the_others_in_proportion() -> None:
    """And is not changed for the calls that are picked next."""
    weights = Weights(NAMES, [50.0, 30.0, 20.0])

    left = weights.without(frozenset({0}))

    assert left is not None
    assert left.shares() == [0.0, 0.6, 0.4]
    assert weights.shares() == [0.5, 0.3, 0.2]


def test_of_the_sticky_keys_only_its_own_move() -> None:
    """Each of the others stays where it was."""
    weights = Weights(NAMES, [50.0, 30.0, 20.0], salt="m", sticky=True)
    left = weights.without(frozenset({0}))
    assert left is not None

    keys = [str(at).encode() for at in range(2000)]
    moved = [(weights.of_key(key), left.of_key(key)) for key in keys if weights.of_key(key) != left.of_key(key)]

    assert {before for before, _ in moved} == {0}
    assert {after for _, after in moved} == {1, 2}


def test_nobody_is_left_when_shares_stay_or_no_other_has_weight() -> None:
    """With `fail`, for the last one, and where the others have weight 0."""
    assert Weights(NAMES, [50.0, 30.0, 20.0], when_dead="fail").without(frozenset({0})) is None
    assert Weights(NAMES, [50.0, 30.0, 20.0]).without(frozenset({0, 1, 2})) is None
    assert Weights(NAMES, [50.0, 0.0, 0.0]).without(frozenset({0})) is None


def test_what_is_kept_of_them_is_bounded() -> None:
    """A set of variants each; there are 2ⁿ."""
    names = [str(at) for at in range(10)]
    weights = Weights(names, [1.0] * 10)

    for left_out in itertools.combinations(range(10), 3):
        assert weights.without(frozenset(left_out)) is not None

    assert len(weights._without) <= MAX_KEPT
