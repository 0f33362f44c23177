"""The page of a shadow's report: what it says, what it draws, and that nothing in it runs but its own."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.html_page import plotly_js
from infermesh.cli.shadow_bins import bin_names, log_bins
from infermesh.cli.shadow_page import page
from infermesh.cli.shadow_plots import MAX_EVENTS, MAX_LABELS, MAX_SHIFTS, plots
from infermesh.protocol import shadow_reports_pb2 as pb
from tests.unit.cli.shadow_parts import ESCAPES, EVIL, generated, hostile, serving

SCRIPT = "/* draws */"


class Read(HTMLParser):
    """A page's elements with their attributes, its text without scripts, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.said.append(data)


def read(*reports: pb.Report, **not_compared: int) -> Read:
    return Read(page(pb.ReportResponse(reports=reports, not_compared=not_compared), SCRIPT))


@pytest.fixture(scope="module")
def differs() -> pb.Report:
    return generated(1000, 200, bias=0.6)


def test_the_page_says_what_the_report_says(differs: pb.Report) -> None:
    """Verdict, findings, notes, worst disagreements, and the pairs that nothing is known of."""
    shown = read(differs, dropped=12)

    assert ("section", {"class": "verdict differs"}) in shown.tags
    verdict = shown.text.index(f"DIFFERS {differs.verdict.text}")
    assert verdict < shown.text.index(differs.verdict.findings[0].text) < shown.text.index("How often")
    for each in (*(f.text for f in differs.verdict.findings), *differs.verdict.notes, differs.worst[-1].request_id):
        assert each in shown.text
    assert "12 dropped" in shown.text


@pytest.mark.parametrize(
    ("made", "kind", "word"),
    [
        (generated(1000, 200), "same", "WITHIN NOISE"),
        (generated(40, 4), "waiting", "NOT ENOUGH"),
        (generated(0, 0), "waiting", "NOT ENOUGH"),
        (generated(300, 0, noise=0.0, repeat=0), "unheld", "NOTHING SEEN"),
        (pb.Report(model="m"), "waiting", "NO VERDICT"),
    ],
    ids=["within noise", "not enough", "empty", "nothing seen", "newer gateway"],
)
def test_every_state_has_its_colour_and_words(made: pb.Report, kind: str, word: str) -> None:
    """A report without a single pair has a page too."""
    shown = read(made)

    assert ("section", {"class": f"verdict {kind}"}) in shown.tags
    assert f"{word} {made.verdict.text}".strip() in shown.text


def test_every_plot_is_one_that_plotly_knows(differs: pb.Report) -> None:
    """Names and values of all properties are plotly's: a misspelt one would be ignored in silence."""
    figures = pytest.importorskip("plotly.graph_objects")

    for report in (differs, generated(40, 4), hostile("x"), _labels(32)):
        for plot in plots(report):
            figures.Figure(data=plot.data, layout={**plot.layout, "height": plot.height})


def test_axes_have_units_and_titles_say_what_to_look_at(differs: pb.Report) -> None:
    """In the order of reading: how often, how far, how long, and how distributed."""
    made = plots(differs)

    units = [(p.layout["xaxis"]["title"]["text"], p.layout["yaxis"]["title"]["text"]) for p in made]
    assert units[0][0] == "share of the calls in %, with its 95 % interval (square-root scale)"
    assert units[1] == ("largest difference of a call, in units of the output", "share of the calls in %")
    assert units[2] == ("latency in ms, seen from the gateway", "share of the pairs in %")
    assert {unit for pair in units[3:] for unit in pair if unit.startswith("share")} == {"share of the pairs in %"}
    assert all(plot.title.endswith(".") for plot in made)


def test_shares_are_drawn_with_their_intervals(differs: pb.Report) -> None:
    """Positions are square roots of shares; the shadow and the primary itself are two series."""
    shadow, itself = plots(differs)[0].data
    event = next(each for each in differs.events if each.what == "label")

    at = next(at for at, text in enumerate(shadow["text"]) if "label differs" in text)
    assert shadow["x"][at] ** 2 == pytest.approx(event.shadow.hits / event.shadow.of)
    assert (shadow["x"][at] + shadow["error_x"]["array"][at]) ** 2 == pytest.approx(event.shadow.high)
    assert (shadow["x"][at] - shadow["error_x"]["arrayminus"][at]) ** 2 == pytest.approx(event.shadow.low)
    assert (itself["x"][at] + itself["error_x"]["array"][at]) ** 2 == pytest.approx(event.repeat.high)


def test_without_repeats_nothing_is_drawn_for_them() -> None:
    """No interval from 0 to 100 % that would look like knowledge."""
    (series,) = plots(generated(300, 0, noise=0.0, repeat=0))[0].data

    assert series["name"] == "shadow"


def test_much_is_cut_and_it_is_said() -> None:
    """Sixty columns and labels by the hundred: the first plots are drawn, and a page has at most so many."""
    proportion = pb.Proportion(hits=1, of=10, low=0.01, high=0.4)
    events = [pb.Event(what="label", output=f"o{at}", shadow=proportion, repeat=proportion) for at in range(60)]
    shifts = [pb.Shift(output="o", column=str(at), psi=at, mean=0.0, bins=["< 1", "above"], primary=[1, 1], shadow=[2, 0])
              for at in range(60)]  # fmt: skip
    made = plots(pb.Report(events=events, shifts=shifts))

    assert len(made) == 1 + MAX_SHIFTS
    assert f"The first {MAX_EVENTS} of 60 are drawn." in made[0].title
    assert made[1].title.startswith("o 59: PSI 59")  # the largest first
    (labels,) = plots(_labels(32))
    assert len(labels.data[0]["y"]) == MAX_LABELS
    assert labels.title.endswith("The 12 labels furthest apart are drawn, of 32.")


def test_a_thousand_disagreements_are_cut_with_a_count() -> None:
    """A hundred rows, and how many more there are."""
    worst = [pb.Disagreement(request_id=f"id-{at:04}", what=["label output"]) for at in range(1000)]

    shown = read(pb.Report(model="m", worst=worst))

    assert shown.text.count("id-0") == 100
    assert "and 900 others" in shown.text


def test_nothing_from_outside_becomes_markup() -> None:
    """Scripts in names, ids, labels and texts are text: in the page, inside its data, and in plotly's own markup."""
    text = page(pb.ReportResponse(reports=[hostile(EVIL), hostile(EVIL)]), SCRIPT)
    shown = Read(text)

    assert "<script>alert" not in text and "<img" not in text
    assert [attributes for tag, attributes in shown.tags if tag == "script"] == [
        {"type": "application/json", "id": "figures"}, {}, {},
    ]  # fmt: skip
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    assert EVIL in shown.text
    for figure in json.loads(shown.scripts[0]):
        assert not [each for each in _texts(figure) if re.search(r"<(script|img)", each)]


def test_no_control_character_is_left() -> None:
    """Nothing turns the direction of what is read."""
    text = page(pb.ReportResponse(reports=[hostile(ESCAPES)]), SCRIPT)

    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "\\u202e" in text


def test_the_page_fetches_nothing_and_runs_its_own_scripts_alone(differs: pb.Report) -> None:
    """A policy with the digests of both scripts; no address in any attribute."""
    shown = read(differs)

    policy = next(a["content"] for tag, a in shown.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    scripts = policy.partition("script-src ")[2].split()
    assert len(scripts) == 2 and all(each.startswith("'sha256-") for each in scripts)
    assert not [a for tag, a in shown.tags if {"src", "srcset"} & set(a) or tag == "link"]


def test_several_reports_are_listed_on_top(differs: pb.Report) -> None:
    """Each with its verdict and a way to it; every drawing has its place."""
    shown = read(differs, generated(40, 4, variant="canary"))

    links = [attributes["href"] for tag, attributes in shown.tags if tag == "a"]
    places = [attributes["data-figure"] for _, attributes in shown.tags if "data-figure" in attributes]
    assert links == ["#r0", "#r1"]
    assert {"r0", "r1"} <= {attributes.get("id") for tag, attributes in shown.tags if tag == "main"}
    assert places == [str(at) for at in range(len(json.loads(shown.scripts[0])))]


def test_a_file_is_written(infermesh: Any, differs: pb.Report, tmp_path: Path) -> None:
    """One file with the library in it; standard output has the verdict in one line."""
    pytest.importorskip("plotly")
    with serving(differs) as address:
        done = infermesh("shadow", "report", "fraud-detector", "--html", tmp_path / "r.html", "--target", address)
        nowhere = infermesh("shadow", "report", "fraud-detector", "--html", tmp_path / "no/r.html", "--target", address)

    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert done.status == 0 and "DIFFERS" in done.out and "r.html" in done.err
    assert plotly_js() in text
    assert nowhere.status == 2 and "No such file or directory" in nowhere.err


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said with what would install it."""
    monkeypatch.setitem(sys.modules, "plotly.offline", None)

    with pytest.raises(Failure, match="plotly is not installed") as missing:
        plotly_js()

    assert missing.value.hint == "pip install 'infermesh[report]'"


def test_equal_answers_have_a_place_on_a_logarithmic_axis() -> None:
    """Zero is a bin of its own, apart from the others; shares are of each histogram's own count."""
    binned = log_bins(
        [pb.Histogram(values=[0.0, 0.01, 0.1], counts=[2, 1, 1]), pb.Histogram(values=[0.01], counts=[5])]
    )

    assert binned is not None
    assert binned.places[0] == binned.zero < binned.places[1] - 1
    assert binned.shares[0][0] == 50.0 and sum(binned.shares[0]) == pytest.approx(100)
    assert sum(binned.shares[1]) == pytest.approx(100)
    assert binned.name(binned.zero) == "0 (equal)"


def test_many_decades_have_few_bins() -> None:
    """From 1e-18 to 1e18 the bins still can be told apart."""
    binned = log_bins([pb.Histogram(values=[1e-18, 1e18], counts=[1, 1])])

    assert binned is not None and len(binned.places) <= 61
    assert log_bins([pb.Histogram(), pb.Histogram()]) is None


def test_bins_of_a_column_are_ranges_and_labels_are_names() -> None:
    """A label that looks like the end of a bin stays what it is."""
    column = pb.Shift(mean=0.0, bins=["< 0.1", "< 0.25", "above", "NaN"])

    assert bin_names(column) == ["< 0.1", "0.1 – 0.25", "≥ 0.25", "NaN"]
    assert bin_names(pb.Shift(bins=["< 0.1", "above"])) == ["< 0.1", "above"]


def _labels(count: int) -> pb.Report:
    shift = pb.Shift(output="label", psi=0.1, bins=[f"label-{at}" for at in range(count)])
    shift.primary.extend(range(1, count + 1))
    shift.shadow.extend([1] * count)
    return pb.Report(shifts=[shift])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in parts for text in _texts(each)]
