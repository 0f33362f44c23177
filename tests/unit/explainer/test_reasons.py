"""Reason codes: which features, in which order, and what is said of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.explainer.estimate import Estimate
from services.explainer.players import Players
from services.explainer.reasons import MAX_TEXT, REASONS, REASONS_CLASS, Reasons, Subject, subject_of, templates_of
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


TWO, THREE = ["repaid", "defaulted"], ["low", "middle", "high"]


@pytest.mark.parametrize(
    ("names", "picked", "declared", "subject"),
    [
        (TWO, None, None, Subject(1, "defaulted", "own")),
        (TWO, [1], None, Subject(0, "defaulted", "own")),
        (TWO, [1, 0], None, Subject(0, "defaulted", "own")),  # as the order of predictions has it
        (TWO, [0], None, Subject(0, "repaid", "other")),
        (TWO, None, "repaid", Subject(0, "repaid", "own")),
        (TWO, [1], "repaid", Subject(0, "defaulted", "other")),
        (TWO, None, "0", Subject(0, "repaid", "own")),
        (TWO, None, "nobody", Subject(1, "defaulted", "none")),  # whose texts they are, nobody knows
        (THREE, None, None, Subject(2, "high", "own")),
        (THREE, [2, 0], None, Subject(0, "high", "own")),
        (THREE, [0, 1], None, Subject(1, "middle", "none")),
        (["y"], None, None, Subject(0, "", "own")),
        ([], None, None, Subject(-1, "", "own")),
    ],
)
def test_which_class_reasons_are_about_and_whose_the_texts_are(names, picked, declared, subject):
    """The class that the templates are written for, wherever it stands among those that are explained: the last one of the model,
    or the one that it names. Without it, the last one that is explained."""
    properties = {"infermesh.classes": json.dumps(names)} | ({} if declared is None else {REASONS_CLASS: declared})
    columns = None if picked is None else np.array(picked)
    explained = names if picked is None else [names[at] for at in picked]

    assert subject_of(Signature("m", (), (), (), properties), explained, columns, len(names)) == subject


def test_an_output_without_declared_names_has_its_last_column():
    """Named as the answer names it."""
    assert subject_of(Signature("m", (), (), (), {}), ["p[0]", "p[1]"], None, 2) == Subject(1, "p[1]", "own")


def test_what_speaks_for_the_other_of_two_classes_is_said_in_the_other_direction():
    """That debt is too high is no reason for being repaid: what raised that lowered the risk."""
    subject = Subject(0, "repaid", "other")
    found = Reasons(ARRAYS, PLAYERS, TEMPLATES, 3, "up", subject).of(estimate([[0.3, 0.2, 0.1, 0]] * 2))[0]
    against = Reasons(ARRAYS, PLAYERS, TEMPLATES, 3, "down", subject).of(estimate([[-0.3, -0.2, 0.1, 0]] * 2))[0]

    assert found[0].tolist() == [
        b"Debt is low",
        b"purpose raised the score of repaid (car)",
        b"income raised the score of repaid (1.23457e+06)",
    ]
    assert against[0].tolist() == [b"Debt is too high (0.625)", b"Purpose: car", b""]


def test_texts_of_one_of_many_classes_are_not_said_of_another():
    """What raises the middle one may lower the highest, and may not."""
    subject = Subject(0, "middle", "none")

    texts, _ = Reasons(ARRAYS, PLAYERS, TEMPLATES, 1, "up", subject).of(estimate([[0.3, 0.2, 0, 0]] * 2))

    assert texts[0].tolist() == [b"debt raised the score of middle (0.625)"]


def test_reasons_are_of_the_column_of_their_class():
    """And of no other one."""
    attributions = np.array([[[0.3, -0.3], [-0.2, 0.2], [0.0, 0.0], [0.0, 0.0]]] * 2)
    both = Estimate(attributions, np.zeros_like(attributions), 4, converged=True)

    first, second = (Reasons(ARRAYS, PLAYERS, TEMPLATES, 1, "up", Subject(at, "", "own")).of(both)[1] for at in (0, 1))

    assert first[0].tolist() == [b"debt"]
    assert second[0].tolist() == [b"purpose"]


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
