"""Reason codes: which features, in which order, and what is said of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.explainer.estimate import Estimate
from services.explainer.players import Players
from services.explainer.reasons import MAX_TEXT, REASONS, Reasons, templates_of
from services.explainer.signature import Signature

TEMPLATES = {
    "debt": {"up": "Debt is too high ({value})", "down": "Debt is low"},
    "purpose": {"up": "Purpose: {value}"},
}
PLAYERS = Players(
    ("debt", "purpose", "income", "place"),
    {"numbers": np.array([0, 2]), "purpose": np.array([1]), "place": np.array([3, 3])},
)
ARRAYS = {
    "numbers": np.array([[0.625, 1234567.0], [0.1, 10.0]], np.float32),
    "purpose": np.array([[b"car"], [b"\xff\x07\xc3\xa4" * 100]], np.object_),
    "place": np.array([[True, False], [False, True]]),
}


def estimate(attributions, std_error=0.0) -> Estimate:
    values = np.array(attributions, np.float64)[:, :, None]
    return Estimate(values, np.full(values.shape, std_error), 4, converged=True)


def reasons(count: int = 3, adverse: str = "up", templates=TEMPLATES) -> Reasons:
    return Reasons(ARRAYS, PLAYERS, templates, count, adverse)


def test_what_counted_against_somebody_the_weightiest_first():
    """And nothing else; the rest is empty."""
    texts, features = reasons().of(estimate([[0.2, 0.3, 0.1, -0.4], [-0.1, -0.2, -0.3, 0.05]]))

    assert texts.tolist() == [
        [b"Purpose: car", b"Debt is too high (0.625)", b"income raised the score (1.23457e+06)"],
        [b"place raised the score", b"", b""],
    ]
    assert features.tolist() == [[b"purpose", b"debt", b"income"], [b"place", b"", b""]]


def test_the_other_direction():
    texts, features = reasons(adverse="down").of(estimate([[-0.2, -0.3, 0.1, 0.4], [0, 0, 0, 0]]))

    assert texts.tolist() == [[b"purpose lowered the score (car)", b"Debt is low", b""], [b"", b"", b""]]
    assert features.tolist() == [[b"purpose", b"debt", b""], [b"", b"", b""]]


def test_what_may_be_noise_is_no_reason():
    """An attribution within its standard error, and one whose error nobody knows."""
    assert reasons().of(estimate([[0.2, 0.3, 0.1, 0.0]] * 2, 0.25))[1].tolist() == [[b"purpose", b"", b""]] * 2
    assert reasons().of(estimate([[0.2, 0.3, 0.1, 0.0]] * 2, np.inf))[1].tolist() == [[b"", b"", b""]] * 2


def test_equal_ones_keep_the_order_of_the_features():
    assert reasons().of(estimate([[0.1, 0.1, 0.1, 0.1]] * 2))[1].tolist() == [[b"debt", b"purpose", b"income"]] * 2


def test_more_reasons_than_features():
    texts, _ = reasons(count=10).of(estimate([[0.1, 0.2, 0.3, 0.4]] * 2))

    assert texts.shape == (2, 10)
    assert (texts[:, 4:] == b"").all()


def test_texts_hold_nothing_but_what_can_be_printed_and_have_a_bound():
    """Braces of a value are no template, and a template is no program."""
    arrays = {**ARRAYS, "purpose": np.array([[b"{value}{0.__class__}"], [b"\xff\x07" + b"x" * 500]], np.object_)}
    templates = {"purpose": {"up": "{value} {x!r} " + "y" * 1000}}

    texts, _ = Reasons(arrays, PLAYERS, templates, 1, "up").of(estimate([[0, 1, 0, 0]] * 2))

    assert texts[0, 0].startswith(b"{value}{0.__class__} {x!r} yyy")
    assert texts[1, 0].startswith(b"\\xff?xxx")
    assert all(len(each.decode()) == MAX_TEXT for each in texts.ravel().tolist())


def test_no_rows():
    """A request of none is answered with none, whatever the shapes of its inputs are."""
    none = {name: array[:0] for name, array in ARRAYS.items()}
    found = Reasons(none, PLAYERS, TEMPLATES, 3, "up")

    assert found.values.shape == (0, 4)
    assert [array.shape for array in found.of(estimate(np.zeros((0, 4))))] == [(0, 3), (0, 3)]


def test_no_text_can_write_to_a_terminal():
    """Neither a template nor a feature's name, which come from whoever made the model."""
    players = Players(("\x1b[2Jdebt", *PLAYERS.names[1:]), PLAYERS.of_column)
    templates = {"purpose": {"up": "Purpose:\x1b]0;x\x07\n{value}"}}

    texts, _ = Reasons(ARRAYS, players, templates, 2, "up").of(estimate([[0.1, 0.2, 0, 0]] * 2))

    assert texts[0].tolist() == [b"Purpose:?]0;x??car", b"?[2Jdebt raised the score (0.625)"]


def test_values_as_texts():
    """Those of a group of several columns have no text."""
    values = reasons().values

    assert values[0].tolist() == [b"0.625", b"car", b"1.23457e+06", b""]
    assert values[1, 1].startswith("\\xff?ä".encode())


@pytest.mark.parametrize(
    ("declared", "read"),
    [
        (json.dumps(TEMPLATES), TEMPLATES),
        ("", {}),
        ("no JSON", {}),
        ("[1]", {}),
        ("[" * 100_000, {}),
        ('{"debt": 7, "income": {"up": 7, "down": "low", "more": "x"}}', {"income": {"down": "low"}}),
    ],
)
def test_what_a_model_declares(declared, read):
    """What is no text is left out."""
    assert templates_of(Signature("m", (), (), (), {REASONS: declared})) == read
