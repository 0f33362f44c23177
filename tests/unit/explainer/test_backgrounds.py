"""Background rows: from files, thinned, weighted, checked against the model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, InvalidRequest
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError, read_background
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import BackgroundsConfig

SAMPLES = Path(__file__).parents[3] / "samples" / "backgrounds"
ROWS = {"iris": 64, "breast-cancer": 64, "fraud-detector": 100, "credit-score": 100}


def written(folder: Path, content: object, name: str = "m.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def tensor(name: str = "x", datatype: str = "FP32", shape: object = (2, 2), data: object = (1, 2, 3, 4)) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


@pytest.mark.parametrize("model", ROWS)
def test_the_samples_are_read(model: str) -> None:
    """Rows of equal weight, texts as bytes."""
    background = read_background(SAMPLES / f"{model}.json", "default")

    rows = ROWS[model]
    assert len(background) == rows
    assert background.weights == pytest.approx(np.full(rows, 1 / rows))
    assert all(len(array) == rows for array in background.arrays.values())
    if model == "fraud-detector":
        assert isinstance(background.arrays["merchant_category"][0, 0], bytes)


def test_data_may_be_nested_or_flat_and_weights_may_be_given(tmp_path: Path) -> None:
    """Row-major either way; weights are brought to a sum of 1."""
    content = {
        "inputs": [tensor(), tensor("y", "BYTES", [2], ["ä", ""]), tensor("z", "BOOL", [2, 1], [[True], [False]])]
    }
    nested = {"inputs": [tensor(data=[[1, 2], [3, 4]])], "weights": [1, 3]}

    flat = read_background(written(tmp_path, content), "m")
    weighted = read_background(written(tmp_path, nested), "m")

    assert flat.arrays["x"].tolist() == weighted.arrays["x"].tolist() == [[1, 2], [3, 4]]
    assert flat.arrays["x"].dtype == np.float32
    assert flat.arrays["y"].tolist() == ["ä".encode(), b""]
    assert flat.arrays["z"].tolist() == [[True], [False]]
    assert weighted.weights.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "m.json: "),
        ([], 'expected an object with a list "inputs"'),
        ({"inputs": []}, 'expected an object with a list "inputs"'),
        ({"inputs": [{"name": "x"}]}, "inputs[0]: expected an object with name, datatype, shape and data"),
        ({"inputs": [tensor(), tensor()]}, "inputs[1]: expected a name of its own, got 'x'"),
        ({"inputs": [tensor(datatype="float")]}, "inputs[0]: datatype: expected one of BOOL, "),
        ({"inputs": [tensor(datatype="BF16")]}, "got 'BF16'"),
        ({"inputs": [tensor(shape=[-1, 2])]}, "shape: expected a list of dimensions, the rows first, got [-1, 2]"),
        ({"inputs": [tensor(shape=[])]}, "shape: expected a list of dimensions, the rows first, got []"),
        ({"inputs": [tensor(data=[1, 2, 3])]}, "data: expected 4 elements for shape [2, 2], got 3"),
        ({"inputs": [tensor(data=[1, 2, 3, "4"])]}, "data: expected FP32 elements"),
        ({"inputs": [tensor(data=[1, 2, 3, None])]}, "data: expected FP32 elements"),
        ({"inputs": [tensor(datatype="UINT8", data=[1, 2, 3, 256])]}, "data: expected UINT8 elements"),
        ({"inputs": [tensor(datatype="BYTES", data=["a", "b", "c", 4])]}, "data: expected BYTES elements"),
        ({"inputs": [tensor(shape=[0, 2], data=[])]}, "one and the same number of rows, 1 or more, got {'x': 0}"),
        ({"inputs": [tensor(), tensor("y", shape=[4])]}, "got {'x': 2, 'y': 4}"),
        ({"inputs": [tensor()], "weights": [1]}, "weights: expected 2 numbers of 0 or more that are not all 0"),
        ({"inputs": [tensor()], "weights": [1, -1]}, "weights: expected 2 numbers"),
        ({"inputs": [tensor()], "weights": [0, 0]}, "weights: expected 2 numbers"),
        ({"inputs": [tensor()], "weights": "even"}, "weights: expected 2 numbers"),
    ],
)
def test_a_file_that_holds_no_background_says_why(tmp_path: Path, content: object, said: str) -> None:
    """Which file, which tensor, what was expected and what is there."""
    with pytest.raises(BackgroundError) as refused:
        read_background(written(tmp_path, content), "m")

    assert said in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_large_set_is_thinned_evenly() -> None:
    """Every tenth row, give or take one, from the middle of the first ten on, each of the same weight."""
    rows = np.arange(1000.0)
    background = Background("b", {"x": rows}, {"x": "FP64"}, np.full(1000, 1 / 1000))

    thin = background.thinned(100)

    assert np.abs(thin.arrays["x"] - np.arange(4.5, 1000, 10)).max() <= 0.5
    assert thin.weights == pytest.approx(np.full(100, 0.01))
    assert background.thinned(1000) is background


def test_thinning_goes_by_weight() -> None:
    """A row that weighs half of all stands for half of what is kept, and one of no weight for nothing."""
    background = Background("b", {"x": np.arange(5.0)}, {"x": "FP64"}, np.array([0.5, 0.0, 0.2, 0.2, 0.1]))

    thin = background.thinned(4)

    assert thin.arrays["x"].tolist() == [0.0, 2.0, 3.0]
    assert thin.weights.tolist() == [0.5, 0.25, 0.25]


async def test_weights_count_in_every_mean(lab: SimpleNamespace) -> None:
    """The base value and the attributions are those of the weighted mean."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    rows = lab.oip_json({"x": np.array([[0.0, 0, 0], [4.0, 4, 8]])}, weights=[3, 1])
    written(lab.folder, rows, "model.json")

    response = await lab.explainer(model).infer(lab.request_of({"x": np.array([[5.0, 5, 5]])}), Call())

    answer = lab.Explained(response)
    assert answer.base_values.tolist() == [[4.0]]
    assert answer.attributions[0, :, 0] == pytest.approx([4.0, 4.0, 3.0])


def backgrounds_of(folder: Path, **config: object) -> Backgrounds:
    return Backgrounds(BackgroundsConfig(root=folder, **config))


def test_files_of_a_folder_are_named_by_model_and_set(tmp_path: Path) -> None:
    """`m.json` is the default, `m/<name>.json` are others; zeros can always be asked for."""
    for name in ("m.json", "m/night.json", "n/day.json"):
        written(tmp_path, {"inputs": [tensor()]}, name)
    written(tmp_path, "not a background", "README.md")

    backgrounds = backgrounds_of(tmp_path)

    assert backgrounds.names("m") == ["default", "night", "zeros"]
    assert backgrounds.names("n") == ["day", "zeros"]
    assert backgrounds.default("m") == "default"
    assert backgrounds.default("n") == ""
    assert len(backgrounds) == 3


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """With the setting's name."""
    with pytest.raises(FileNotFoundError, match=r"backgrounds\.root: .*nowhere is no folder"):
        backgrounds_of(tmp_path / "nowhere")


async def test_a_model_without_a_background_is_refused_with_what_would_help(lab: SimpleNamespace) -> None:
    """FAILED_PRECONDITION that names file, setting and parameter."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    service = lab.explainer(model)

    with pytest.raises(FailedPrecondition) as refused:
        await service.infer(lab.request_of({"x": np.ones((1, 3))}), Call())

    assert refused.value.reason == "BACKGROUND_MISSING"
    for word in ('model "model"', "model.json", "backgrounds.root", "backgrounds.missing", 'background="zeros"'):
        assert word in refused.value.message


async def test_zeros_are_a_background_where_they_are_configured_or_asked_for(lab: SimpleNamespace) -> None:
    """One row of zeros and empty strings, for every datatype of the model."""

    def function(given):
        texts = np.array([len(text) for text in given["text"].ravel()], float)
        return {"y": (texts + given["x"].sum(axis=1) + given["flag"].ravel() * 10)[:, None]}

    inputs = [("x", "FP32", (-1, 2)), ("text", "BYTES", (-1, 1)), ("flag", "BOOL", (-1,))]
    text = np.empty((1, 1), object)
    text[:] = b"word"
    rows = {"x": np.array([[1, 2]], np.float32), "text": text, "flag": np.array([True])}
    asked = lab.explainer(lab.FunctionModel(function, inputs))
    configured = lab.explainer(lab.FunctionModel(function, inputs), backgrounds={"missing": "zeros"})

    for service, parameters in ((asked, {"background": "zeros"}), (configured, {})):
        response = await service.infer(lab.request_of(rows, **parameters), Call())
        answer = lab.Explained(response)
        assert answer.base_values.tolist() == [[0.0]]
        assert answer.attributions[0, :, 0] == pytest.approx([1.0, 2.0, 4.0, 10.0])
        assert answer.feature_names.tolist() == [b"x[0]", b"x[1]", b"text", b"flag"]


async def test_a_set_is_picked_by_name(lab: SimpleNamespace) -> None:
    """And a name that there is not is refused with those that there are."""
    written(lab.folder, lab.oip_json({"x": np.full((1, 3), 2.0)}), "model/twos.json")
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    ones, rows = {"x": np.ones((1, 3))}, {"x": np.full((1, 3), 5.0)}

    default = await lab.explain(model, ones, rows)
    twos = await lab.explain(model, ones, rows, background="twos")

    assert (default.base_values.item(), twos.base_values.item()) == (3.0, 6.0)
    for unknown in ("threes", "../twos", "default.json"):
        with pytest.raises(InvalidRequest, match='"background": expected one of default, twos, zeros, got'):
            await lab.explain(model, ones, rows, background=unknown)


@pytest.mark.parametrize(
    ("background", "said"),
    [
        ({"x": np.ones((2, 4))}, r'background "default": expected "x" as FP64 \[-1, 3\], it has FP64 \[-1, 4\]'),
        ({"x": np.ones((2, 3), np.float32)}, r'expected "x" as FP64 \[-1, 3\], it has FP32 \[-1, 3\]'),
        ({"y": np.ones((2, 3))}, r'expected "x" as FP64 \[-1, 3\], it has nothing'),
        ({"x": np.ones((2, 3)), "z": np.ones((2, 1))}, 'it has "z", the model has not'),
    ],
)
async def test_a_background_of_another_model_is_refused(lab: SimpleNamespace, background: dict, said: str) -> None:
    """FAILED_PRECONDITION: the caller's request is good, the deployment is not."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})

    with pytest.raises(FailedPrecondition, match=said):
        await lab.explain(model, background, {"x": np.ones((1, 3))})


async def test_a_broken_file_costs_its_own_model_alone(lab: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    """The others are explained; who asks for it is told why, and the log has it at start."""
    written(lab.folder, "{", "other.json")
    good = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    broken = lab.FunctionModel(good.function, name="other")
    rows = {"x": np.ones((1, 3))}

    assert (await lab.explain(good, {"x": np.zeros((1, 3))}, rows)).attributions.shape == (1, 3, 1)
    service = lab.explainer(broken, backgrounds={"missing": "zeros"})
    with pytest.raises(FailedPrecondition, match=r'background "default" can\'t be used: other\.json: '):
        await service.infer(lab.request_of(rows, model="other"), Call())
    assert [record.model for record in caplog.records if record.message == "background not usable"][-1] == "other"


async def test_no_more_background_rows_are_used_than_configured(lab: SimpleNamespace) -> None:
    """The bound is what every evaluation costs."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})

    await lab.explain(
        model,
        {"x": np.random.default_rng(0).normal(size=(50, 3))},
        {"x": np.ones((1, 3))},
        {"backgrounds": {"max_rows": 7}},
    )

    assert model.rows_seen == [7 + 1, 6 * 7]
