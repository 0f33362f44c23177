"""What a request may say about how it is explained."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest, MeshError
from infermesh.protocol import open_inference_pb2 as pb
from services.explainer.classes import Classes
from services.explainer.parameters import Parameters

ROWS = {"x": np.ones((1, 3))}


def test_nothing_said_is_auto_with_seed_zero(lab: SimpleNamespace) -> None:
    """The defaults, with or without parameters of others."""
    assert Parameters.of(lab.request_of(ROWS)) == Parameters()
    assert Parameters.of(lab.request_of(ROWS, flavour="salt", priority=1)) == Parameters()
    assert Parameters().method == "auto"
    assert Parameters().seed == 0


def test_all_of_them_are_read(lab: SimpleNamespace) -> None:
    """Each from its type; integers may be unsigned, and a tolerance an integer."""
    request = lab.request_of(
        ROWS,
        method="tree",
        max_evals=50,
        tolerance=0.5,
        output="y",
        classes="top:2",
        link="logit",
        background="zeros",
        groups="inputs",
        feature_perturbation="tree_path_dependent",
    )
    request.parameters["seed"].uint64_param = 2**64 - 1

    read = Parameters.of(request)

    assert read == Parameters(
        "tree", 50, 0.5, 2**64 - 1, "y", Classes(top=2), "logit", "zeros", "inputs", "tree_path_dependent"
    )
    request.parameters["tolerance"].int64_param = 2
    assert Parameters.of(request).tolerance == 2.0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("method", "kernal", 'expected one of auto, exact, permutation, kernel, linear, tree, got "kernal"'),
        ("method", 3, "expected a text, got 3"),
        ("method", "", 'expected a text, got ""'),
        ("max_evals", 1, "expected an integer of 2 or more, got 1"),
        ("max_evals", 50.0, "expected an integer of 2 or more, got 50.0"),
        ("max_evals", True, "expected an integer of 2 or more, got True"),
        ("tolerance", 0.0, "expected a number above 0, got 0.0"),
        ("tolerance", float("nan"), "expected a number above 0, got nan"),
        ("tolerance", float("inf"), "expected a number above 0, got inf"),
        ("tolerance", "small", 'expected a number above 0, got "small"'),
        ("tolerance", True, "expected a number above 0, got True"),
        ("seed", -1, "expected an integer of 0 or more, got -1"),
        ("seed", "1", 'expected an integer of 0 or more, got "1"'),
        ("output", 0, "expected a text, got 0"),
        ("classes", "top:0", 'or "top:2", got "top:0"'),
        ("classes", "top:many", 'or "top:2", got "top:many"'),
        ("classes", "0,,1", 'or "top:2", got "0,,1"'),
        ("classes", -1, 'or "top:2", got -1'),
        ("classes", 1.0, 'or "top:2", got 1.0'),
        ("background", False, "expected a text, got False"),
        ("link", "probit", 'expected one of identity, logit, got "probit"'),
        ("link", "", 'expected a text, got ""'),
        ("groups", "cards", '{"card": ["card_age_days", "credit_limit"]} or [[0, 1], [4, 5]], got "cards"'),
        ("groups", "[" * 5000, "or [[0, 1], [4, 5]], got"),
        ("groups", '{"": [0]}', "or [[0, 1], [4, 5]], got"),
        ("groups", '{"a": "x"}', "or [[0, 1], [4, 5]], got"),
        ("groups", '[["x[9]"]]', "expected features out of x[0], x[1], x[2], got"),
        ("groups", "[[3]]", "expected features out of x[0], x[1], x[2], got"),
        ("groups", "[[true]]", "expected features out of"),
        ("groups", "[[]]", "expected groups of one feature or more"),
        ("groups", "[[0, 1], [1, 2]]", "expected every feature in at most one group, x[1] once"),
        ("groups", "[[0, 0]]", "expected every feature in at most one group, x[0] once"),
        ("groups", "[[0], [0]]", "expected every feature in at most one group"),
        ("groups", '{"x[2]": [0, 1]}', "expected names of groups that no feature outside of them has"),
        ("feature_perturbation", "correlated", "expected one of interventional, tree_path_dependent"),
        ("feature_perturbation", "tree_path_dependent", 'expected "interventional" for method "auto"'),
    ],
)
async def test_a_bad_value_is_refused_before_the_model_is_asked(
    lab: SimpleNamespace, name: str, value: object, said: str
) -> None:
    """INVALID_ARGUMENT with model, parameter, what was expected and what came."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})

    with pytest.raises(InvalidRequest) as refused:
        await lab.explain(model, {"x": np.zeros((1, 3))}, ROWS, **{name: value})

    assert f'model "model-explainer": parameter "{name}": ' in refused.value.message
    assert said in refused.value.message
    assert refused.value.reason == "PARAMETER_INVALID"
    assert not model.requests


async def test_a_parameter_without_a_value_is_refused(lab: SimpleNamespace) -> None:
    """Like every server of the protocol does."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    request = lab.request_of(ROWS)
    request.parameters["method"].SetInParent()

    with pytest.raises(InvalidRequest, match='parameter "method": expected a value, got none'):
        await lab.explainer(model, {"x": np.zeros((1, 3))}).infer(request, Call())


# ---- the method --------------------------------------------------------------------------------------------------------


def wide(lab: SimpleNamespace, columns: int):
    return lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)}, [("x", "FP64", (-1, columns))])


@pytest.mark.parametrize(
    ("columns", "rows", "asked", "method", "evaluations"),
    [
        (4, 1, {}, "exact", 16),
        (12, 1, {}, "exact", 4096),
        (13, 1, {}, "kernel", None),
        (13, 1, {"max_evals": 53}, "permutation", 50),
        (300, 1, {"max_evals": 2000}, "permutation", 2 + 3 * 598),
        (4, 1, {"method": "permutation"}, "permutation", 2 + 32 * 6),
        (4, 1, {"max_evals": 16}, "exact", 16),
        (4, 1, {"max_evals": 15}, "permutation", 14),
        (5, 1, {"max_evals": 22}, "kernel", 20),
        (4, 1, {"method": "kernel"}, "kernel", 16),
        (13, 1, {"method": "kernel", "max_evals": 54}, "kernel", 54),
        (1, 1, {"method": "kernel"}, "kernel", 2),
        (2, 1, {"method": "kernel"}, "kernel", 4),
        (3, 1, {"method": "kernel", "max_evals": 8}, "kernel", 8),
        (4, 1, {"method": "permutation", "max_evals": 8}, "permutation", 8),
        (10, 40, {"method": "exact"}, "exact", 1024),
        (10, 40, {}, "kernel", None),
        (1, 1, {"method": "permutation"}, "permutation", 2),
    ],
)
async def test_auto_is_exact_while_that_is_affordable(
    lab: SimpleNamespace, columns: int, rows: int, asked: dict, method: str, evaluations: int | None
) -> None:
    """By the number of features, by `max_evals`, and by the rows that would have to be asked about."""
    answer = await lab.explain(
        wide(lab, columns),
        {"x": np.zeros((2, columns))},
        {"x": np.ones((rows, columns))},
        {"methods": {"exact_rows": 50_000}},
        **asked,
    )

    assert answer.parameters["infermesh_method"] == method
    if evaluations is None:  # as many as of permutations, less those that were drawn again
        assert (2 + 64 * (columns - 1)) * 0.7 < answer.parameters["infermesh_evaluations"] <= 2 + 64 * (columns - 1)
    else:
        assert answer.parameters["infermesh_evaluations"] == evaluations
    assert answer.parameters["infermesh_converged"] is True
    assert answer.attributions == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("columns", "asked", "said"),
    [
        (
            13,
            {"method": "exact"},
            '"method": expected "kernel" or "permutation" for 13 features, "exact" being for at most 12, got "exact"',
        ),
        (
            4,
            {"method": "exact", "max_evals": 15},
            '"max_evals": expected all 16 coalitions of 4 features for method "exact"',
        ),
        (
            30,
            {"max_evals": 59},
            '"max_evals": expected at least 60, for one pair of permutations of 30 features, got 59',
        ),
        (30, {"method": "kernel", "max_evals": 121}, 'at least 122, for method "kernel" and 30 features, got 121'),
        (4, {"max_evals": 100_001}, '"max_evals": expected at most 100000, got 100001'),
    ],
)
async def test_more_or_less_work_than_can_be_done_is_refused(
    lab: SimpleNamespace, columns: int, asked: dict, said: str
) -> None:
    """Too many features for exact, too few evaluations for one pair: told with the numbers that would do."""
    model = wide(lab, columns)

    with pytest.raises(InvalidRequest) as refused:
        await lab.explain(model, {"x": np.zeros((1, columns))}, {"x": np.ones((1, columns))}, **asked)

    assert said in refused.value.message
    assert not model.requests


# ---- output and classes ---------------------------------------------------------------------------------------------


def classifier(lab: SimpleNamespace, **properties):
    """Label, then three probabilities-like scores, then another floating output."""
    return lab.FunctionModel(
        lambda given: {
            "label": given["x"].argmax(axis=1),
            "scores": given["x"] * [1.0, 2.0, 3.0],
            "margin": given["x"].sum(axis=1).astype(np.float32),
            "word": np.full(len(given["x"]), b"w", object),
        },
        outputs=[
            ("label", "INT64", (-1,)),
            ("scores", "FP64", (-1, 3)),
            ("margin", "FP32", (-1,)),
            ("word", "BYTES", (-1,)),
        ],
        properties=properties,
    )


async def explain(lab: SimpleNamespace, model, x=((1.0, 1.0, 1.0),), **asked):
    return await lab.explain(model, {"x": np.zeros((1, 3))}, {"x": np.array(x)}, **asked)


async def test_the_first_floating_output_is_explained_unless_another_one_is_named(lab: SimpleNamespace) -> None:
    """Labels are passed over; only the output that is explained is asked for."""
    model = classifier(lab)

    scores = await explain(lab, model)
    margin = await explain(lab, model, output="margin")

    assert scores.output_names.tolist() == [b"scores[0]", b"scores[1]", b"scores[2]"]
    assert scores.attributions[0] == pytest.approx(np.diag([1.0, 2.0, 3.0]))
    assert margin.output_names.tolist() == [b"margin"]
    assert [[one.name for one in asked.outputs] for asked in model.requests] == [["scores"]] * 2 + [["margin"]] * 2


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "label",
            'output "label" is INT64 [-1]: a label has no amount that features could add up to; explain one of scores, margin',
        ),
        ("word", 'output "word" is BYTES [-1]: a label'),
        ("odds", 'parameter "output": expected one of scores, margin, got "odds"'),
    ],
)
async def test_labels_and_unknown_outputs_are_refused(lab: SimpleNamespace, output: str, said: str) -> None:
    """INVALID_ARGUMENT with what could be explained."""
    with pytest.raises(InvalidRequest) as refused:
        await explain(lab, classifier(lab), output=output)

    assert said in refused.value.message


async def test_columns_are_named_by_the_models_classes_where_the_numbers_match(lab: SimpleNamespace) -> None:
    """Three names for three columns; names of another number, or that are no list, are not used."""
    named = classifier(lab, **{"infermesh.classes": ["red", "green", "blue"]})

    assert (await explain(lab, named)).output_names.tolist() == [b"red", b"green", b"blue"]
    assert (await explain(lab, named, output="margin")).output_names.tolist() == [b"margin"]
    for unusable in (["red"], "[1, 2, 3]", "not JSON", '{"a": 1}'):
        model = classifier(lab, **{"infermesh.classes": unusable})
        assert (await explain(lab, model)).output_names.tolist()[0] == b"scores[0]"


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (1, [b"green"]),
        ("2,0", [b"blue", b"red"]),
        ("green, red,green", [b"green", b"red"]),
        ("1,green", [b"green"]),
        ("top:2", [b"blue", b"green"]),
        ("top:9", [b"blue", b"green", b"red"]),
    ],
)
async def test_classes_pick_columns_in_the_order_named(lab: SimpleNamespace, classes: object, names: list) -> None:
    """By index, by name, or the highest by mean prediction; every output of the answer follows."""
    model = classifier(lab, **{"infermesh.classes": ["red", "green", "blue"]})
    everything = await explain(lab, model)

    for method in ("exact", "permutation"):
        answer = await explain(lab, model, classes=classes, method=method)

        picked = [everything.output_names.tolist().index(name) for name in names]
        assert answer.output_names.tolist() == names
        assert answer.attributions == pytest.approx(everything.attributions[:, :, picked])
        assert answer.predictions == pytest.approx(everything.predictions[:, picked])
        assert answer.base_values.shape == answer.additivity_error.shape == (1, len(names))


async def test_the_top_classes_of_no_rows_are_the_first_ones(lab: SimpleNamespace) -> None:
    """There is no mean prediction to go by, and no reason to fail."""
    answer = await explain(lab, classifier(lab), np.empty((0, 3)), classes="top:1")

    assert answer.output_names.tolist() == [b"scores[0]"]


@pytest.mark.parametrize("classes", [3, "purple", "0,3"])
async def test_classes_that_there_are_not_are_refused(lab: SimpleNamespace, classes: object) -> None:
    """With the indices and names that there are."""
    model = classifier(lab, **{"infermesh.classes": ["red", "green", "blue"]})

    with pytest.raises(
        InvalidRequest, match='"classes": expected indices from 0 to 2, or names out of red, green, blue'
    ):
        await explain(lab, model, classes=classes)


async def test_a_model_without_a_floating_output_can_not_be_explained(lab: SimpleNamespace) -> None:
    """FAILED_PRECONDITION: no parameter would help."""
    model = lab.FunctionModel(lambda given: {"label": given["x"].argmax(axis=1)}, outputs=[("label", "INT64", (-1,))])

    with pytest.raises(
        MeshError, match=r"none of its outputs is a floating one with rows, it has label INT64 \[-1\]"
    ) as refused:
        await explain(lab, model)
    assert refused.value.code == "FAILED_PRECONDITION"


def test_the_parameters_of_a_request_are_not_added_to_by_reading_them() -> None:
    """Looking up a key of a protobuf map adds it, unset, and the next hop would refuse it."""
    request = pb.ModelInferRequest(model_name="model-explainer")
    request.parameters["flavour"].string_param = "salt"

    Parameters.of(request)

    assert list(request.parameters) == ["flavour"]
