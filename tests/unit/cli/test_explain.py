"""An explanation as a page, and as lines: what stands in it, and what never can."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console, RenderableType

from infermesh.cli.explain import ranking, reason_lines
from infermesh.cli.explain_page import TABLE_ROWS, WATERFALLS, page
from infermesh.cli.explain_plots import MOST_POINTS, beeswarm, importance, waterfall, waterfalls
from infermesh.cli.explain_words import about, background_of, scale_of, shown_column
from infermesh.cli.explanation import Explanation, chart
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs

HOSTILE = '</script><img src=x onerror="alert(1)">'


def response(
    rows: int = 1,
    features: int = 4,
    *,
    names: list[str] | None = None,
    values: list[str] | None = None,
    outputs: tuple[str, str] = ("repaid", "defaulted"),
    reason: str = "Debt is too high",
    error=0.0,
):
    """An answer of an explainer, whose attributions add up."""
    draw = np.random.default_rng(rows * 100 + features)
    attributions = draw.normal(size=(rows, features, 2))
    base = np.tile([0.25, 0.75], (rows, 1))
    made = ModelInferResponse(model_name="credit-explainer", model_version="2")
    made.parameters["infermesh_model"].string_param = "credit"
    made.parameters["infermesh_method"].string_param = "kernel"
    made.parameters["infermesh_link"].string_param = "logit"
    made.parameters["infermesh_evaluations"].int64_param = 1234
    made.parameters["infermesh_converged"].bool_param = False
    texts = values or [f"{number}" for number in range(features)]
    add_outputs(
        made,
        [
            ("attributions", "FP64", attributions),
            ("base_values", "FP64", base),
            ("predictions", "FP64", base + attributions.sum(axis=1)),
            ("std_error", "FP64", np.full(attributions.shape, error)),
            ("additivity_error", "FP64", np.zeros((rows, 2))),
            ("feature_names", "BYTES", _bytes(names or [f"f{number}" for number in range(features)])),
            ("output_names", "BYTES", _bytes(list(outputs))),
            ("feature_values", "BYTES", np.array([_bytes(texts)] * rows, np.object_).reshape(rows, features)),
            ("reasons", "BYTES", np.array([[reason.encode(), b""]] * rows, np.object_).reshape(rows, 2)),
        ],
        raw=True,
    )
    return made


def _bytes(texts: list[str]) -> np.ndarray:
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode() for text in texts]
    return array


def rendered(what: RenderableType, width: int = 100) -> str:
    """As a terminal of so many columns shows it."""
    console = Console(width=width, file=StringIO())
    console.print(what)
    return console.file.getvalue()


class Page(HTMLParser):
    """The elements of a page, its scripts and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        else:
            self.words += data

    @property
    def figures(self):
        return json.loads(self.scripts[0])


def made(answer, column="defaulted", **more) -> Page:
    return Page(page(answer, Explanation.read(answer), column, "/* plotly */", **more))


def test_one_row_is_a_waterfall():
    """With a step for each feature, from the base value to the prediction, the reasons, and how it came about."""
    answer = response(error=0.01)
    shown = made(answer)
    explanation = Explanation.read(answer)

    (figure,) = shown.figures
    bars = figure["data"][0]
    ends = np.array(bars["base"]) + np.array(bars["x"])
    assert bars["base"][0] == 0.75
    assert ends[-1] == pytest.approx(explanation.predictions[0, 1])
    assert ends[:-1] == pytest.approx(bars["base"][1:])
    assert sorted(np.abs(bars["x"])) == pytest.approx(
        np.abs(bars["x"]).tolist()
    )  # the largest is drawn last, at the top
    assert "± 0.01" in figure["data"][1]["text"][0]
    for word in (
        "credit, version 2: what moved defaulted",
        "kernel",
        "log-odds",
        "1,234",
        "no: see the errors",
        "Reasons: what raised defaulted",
        "Debt is too high",
    ):
        assert word in shown.words


def test_many_rows_have_a_swarm_and_the_importance():
    """And waterfalls of the first of them to choose from; the table has a hundred."""
    shown = made(response(150))

    assert [attributes["data-figure"] for _, attributes in shown.tags if "data-figure" in attributes] == ["0", "1", "2"]
    assert f"The menu has the first {WATERFALLS} of 150 rows" in shown.words
    assert f"and {150 - TABLE_ROWS} others" in shown.words


def test_the_menu_draws_what_the_row_alone_would_be():
    """Each of its entries replaces all that differs between two rows: traces, ends, words."""
    explanation = Explanation.read(response(3, error=0.01))

    figure = waterfalls(explanation, 3, 1, "log-odds")

    (menu,) = figure.layout["updatemenus"]
    assert [each["label"].partition(":")[0] for each in menu["buttons"]] == ["row 1", "row 2", "row 3"]
    for row, button in enumerate(menu["buttons"]):
        alone = waterfall(explanation, row, 1, "log-odds")
        traces, layout = button["args"]
        drawn = json.loads(json.dumps(figure.data))
        for at, trace in enumerate(drawn):
            for path, values in traces.items():
                if values[at] is not None:
                    place = trace["marker"] if path.startswith("marker.") else trace
                    place[path.removeprefix("marker.")] = values[at]
        assert drawn == alone.data
        assert layout["yaxis.ticktext"] == alone.layout["yaxis"]["ticktext"]
        assert layout["xaxis.range"] == alone.layout["xaxis"]["range"]
        assert (layout["shapes"], layout["annotations"]) == (alone.layout["shapes"], alone.layout["annotations"])
    assert figure.layout["xaxis"]["title"]["text"] == "defaulted, log-odds"


@pytest.mark.parametrize("column", ["repaid", ""])
def test_no_rows(column):
    assert "There are no rows." in made(response(0), column).words


def test_errors_that_nobody_knows_are_no_numbers():
    """JSON has no infinity; a figure without an error has none beside it."""
    shown = made(response(6, error=np.inf))

    assert "largest standard errorinf" in shown.words.replace("\n", "")
    assert "±" not in json.dumps(shown.figures, ensure_ascii=False)


def test_the_facts_of_a_page():
    """Where the mean answer is from, and that nobody is told of another background than was asked for."""
    described = {
        "infermesh.background": "default",
        "infermesh.backgrounds.sets": json.dumps(
            [{"name": "default", "rows": 1000, "source": "credit.json", "summary": "kmeans"}]
        ),
    }
    answer = response()
    answer.parameters["infermesh_link"].string_param = "softmax"
    answer.parameters["infermesh_seed"].uint64_param = 2**63

    words = made(answer, properties=described, adverse="down").words

    assert "default: 1,000 rows of credit.json, kmeans" in words
    assert "scores before the softmax" in words
    assert str(2**63) in words
    assert "Reasons: what lowered defaulted" in words
    assert background_of(described, "zeros") == "zeros"
    assert background_of({"infermesh.background": "default", "infermesh.backgrounds.sets": "[7]"}) == "default"


def test_reasons_and_bars_are_of_one_column():
    """Reasons are about the last column; the likeliest, which is another, would contradict them."""
    explanation = Explanation.read(response())

    assert shown_column(explanation, "", reasons=True) == "defaulted"
    assert shown_column(explanation, "0,1", reasons=True) == "defaulted"
    assert shown_column(explanation, "", reasons=False) == ""
    assert shown_column(explanation, "repaid", reasons=False) == "repaid"


@pytest.mark.parametrize(
    ("link", "scale"), [("identity", ""), ("logit", "log-odds"), ("softmax", "scores before the softmax"), ("x", "x")]
)
def test_the_scale_is_told(link, scale):
    """Of trees with several classes it is neither probabilities nor log-odds."""
    answer = response()
    answer.parameters["infermesh_link"].string_param = link

    assert scale_of(answer) == scale


def test_names_and_values_are_no_markup():
    """Neither in the page nor in a plot, where plotly reads markup."""
    answer = response(
        6,
        names=[HOSTILE, "b", "c", "d"],
        values=[HOSTILE, "1", "2", "3"],
        outputs=(HOSTILE, "b"),
        reason=HOSTILE,
    )
    shown = made(answer, HOSTILE, background=HOSTILE)

    assert [tag for tag, _ in shown.tags if tag == "img"] == []
    assert len(shown.scripts) == 3
    assert "<img" not in json.dumps(shown.figures)
    assert "&quot;" not in json.dumps(shown.figures)  # which plotly would show as it is
    (policy,) = [a["content"] for _, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_many_features_are_summed_up():
    """Past fourteen; what is left out adds up with the rest."""
    explanation = Explanation.read(response(3, 40))

    bars = waterfall(explanation, 0, 1).data[0]
    assert len(bars["x"]) == 15
    assert bars["base"][0] + sum(bars["x"]) == pytest.approx(explanation.predictions[0, 1])
    means = importance(explanation, 1).data[0]["x"]
    assert sum(means) == pytest.approx(np.abs(explanation.attributions[:, :, 1]).mean(axis=0).sum())


def test_a_swarm_is_coloured_by_numbers_and_bounded():
    """Texts are grey; points of one amount stand beside each other."""
    explanation = Explanation.read(response(2000, 2))
    texts = tuple((str(row), "car" if row % 2 else "home") for row in range(2000))
    explanation = Explanation(**{**vars(explanation), "values": texts})

    lines = beeswarm(explanation, 0).data

    assert all(len(line["x"]) <= MOST_POINTS for line in lines)
    kinds = {type(line["marker"]["color"]) for line in lines}
    assert kinds == {list, str}
    assert all(max(line["y"]) - min(line["y"]) <= 0.9 for line in lines)


def test_lines_for_a_terminal():
    """How it came about, the importance of all rows, and reasons, or that there are none."""
    answer = response(3, 5)
    explanation = Explanation.read(answer)

    assert about(answer) == "kernel, 1,234 evaluations a row, log-odds, not converged: see the errors"
    ranked = rendered(ranking(explanation, 1, 3)).splitlines()
    assert len(ranked) == 4
    assert "2 others" in ranked[-1]
    assert rendered(reason_lines(explanation, 0)).strip() == "1. Debt is too high"
    assert "no feature counted against it" in rendered(reason_lines(explanation, 9))
    assert "3 others together" in rendered(chart(explanation, 1, most=2))


@pytest.mark.parametrize(
    ("width", "has_values", "has_errors"),
    [(120, True, True), (80, True, True), (60, True, False), (40, False, False), (24, False, False)],
)
def test_bars_have_the_room_that_there_is(width, has_values, has_errors):
    """No line is longer than the terminal, and each has its amount; what has no room is left out whole."""
    explanation = Explanation.read(response(1, 5, names=["a_rather_long_name", "b", "c", "d", "e"], error=0.01))
    values = {"a_rather_long_name": "12345678", "c": "value of c"}

    lines = rendered(chart(explanation, 1, values=values, most=3), width).splitlines()

    bars = [line for line in lines if "│" in line]
    assert len(bars) == 4
    assert all(len(line.rstrip()) <= width for line in bars)
    amounts = np.sort(np.abs(explanation.attributions[0, :, 1]))[::-1]
    for line, amount in zip(bars, amounts[:3], strict=False):
        assert f"{amount:.4f}" in line
    assert "…" not in "".join(line.partition("│")[2] for line in bars)
    assert ("value of c" in "".join(bars)) == has_values
    assert ("± 0.01" in "".join(bars)) == has_errors


def test_a_sum_of_many_is_drawn_on_the_scale_of_the_rest():
    """Its bar is the longest when it is the largest."""
    answer = response(1, 8)
    attributions = np.zeros((1, 8, 2))
    attributions[0, :, 1] = [0.5, *[0.2] * 7]
    explanation = Explanation(**{**vars(Explanation.read(answer)), "attributions": attributions})

    first, together = (line for line in rendered(chart(explanation, 1, most=1)).splitlines() if "│" in line)

    assert "7 others together" in together
    assert first.count("█") / together.count("█") == pytest.approx(0.5 / 1.4, abs=0.06)


def test_names_and_reasons_give_a_terminal_no_orders():
    """They come from whoever made the model."""
    answer = response(1, names=["\x1b[2Ja", "b", "c", "d"], reason="\x1b]0;title\x07")
    explanation = Explanation.read(answer)

    assert explanation.features[0] == "?[2Ja"
    assert "\x1b" not in rendered(reason_lines(explanation, 0))
