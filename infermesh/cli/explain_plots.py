"""The plots of an explanation, as data and layout for plotly.js: waterfalls, a beeswarm, and the global importance.

Orange moves a prediction up and blue down: two colours of Okabe and Ito (2008), which colour blind readers tell apart; a
feature's own value is coloured by cividis (Nuñez, Anderton, Renslow, 2018). Plotly reads markup in texts, so every text that
comes from outside is escaped here.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.cli.explanation import Explanation

__all__ = ["Figure", "beeswarm", "importance", "waterfall", "waterfalls"]

UP, DOWN, GREY = "#D55E00", "#0072B2", "#9a9a9a"
GRID = "#e4e4e4"
MOST_FEATURES = 14
MOST_POINTS = 500  # of a feature, drawn evenly from all rows
BINS = 60  # of an attribution, within which points stand beside each other
_NAME = 34  # characters beside an axis
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222"}
_TITLE = {"font": {"size": 13}, "standoff": 8}
_MENU = 44  # pixels above a plot
_OF_A_ROW = ("xaxis.range", "yaxis.ticktext", "shapes", "annotations")  # what differs between two waterfalls' layouts

Amounts = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One plot under a sentence that says what to look at."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int


def waterfall(explanation: Explanation, row: int, column: int, scale: str = "") -> Figure:
    """From the base value, at the bottom, to the prediction, a step for each feature, the largest at the top.

    `scale` says what the amounts are, if they are not what the model answers.
    """
    amounts = np.asarray(explanation.attributions, np.float64)[row, :, column]
    errors = None if explanation.std_error is None else np.asarray(explanation.std_error, np.float64)[row, :, column]
    order = np.argsort(-np.abs(amounts), kind="stable")
    shown, rest = _parted(order)
    steps = [(_label(explanation, row, i), amounts[i], errors[i] if errors is not None else 0.0) for i in shown]
    if len(rest):
        steps.append((f"{len(rest)} others", float(amounts[rest].sum()), 0.0))
    steps.reverse()  # the lowest is drawn first
    base = float(np.asarray(explanation.base_values, np.float64)[row, column])
    ends = base + np.cumsum([step for _, step, _ in steps])
    starts = np.concatenate([[base], ends[:-1]])
    bars: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(steps))),
        "x": [float(step) for _, step, _ in steps],
        "base": starts.tolist(),
        "marker": {"color": [UP if step >= 0 else DOWN for _, step, _ in steps]},
        "hovertemplate": "%{customdata}<extra></extra>",
        "customdata": [f"{name}: {step:+.6g}" for name, step, _ in steps],
    }
    figures = {
        "type": "scatter",
        "mode": "text",
        "y": bars["y"],
        "x": np.maximum(starts, ends).tolist(),
        "text": [f" {step:+.3g}" + (f" ± {error:.1g}" if 0 < error < np.inf else "") for _, step, error in steps],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    low, high = float(min(base, *ends)), float(max(base, *ends))
    span = high - low or abs(base) or 1.0
    prediction = float(np.asarray(explanation.predictions, np.float64)[row, column])
    axis = ", ".join(filter(None, (_short(explanation.outputs[column]), scale)))
    layout = _layout(axis, [name for name, _, _ in steps])
    room = 0.55 if any(0 < error < np.inf for *_, error in steps) else 0.3  # for the figures beside the bars
    layout["xaxis"]["range"] = [low - 0.05 * span, high + room * span]
    layout["shapes"] = [_line(base, "dot"), _line(prediction, "dash")]
    layout["annotations"] = [
        _mark(base, f"base value {base:.4g}", 32),
        _mark(prediction, f"prediction {prediction:.4g}", 14),
    ]
    layout["margin"] |= {"t": 62, "r": 72}  # figures may stand beyond the plot where the page is narrow
    title = f"row {row + 1}" if explanation.rows > 1 else "from the base value to the prediction"
    return Figure(title, [bars, figures], layout, 140 + 27 * len(steps))


def waterfalls(explanation: Explanation, rows: int, column: int, scale: str = "") -> Figure:
    """The waterfalls of the first rows, at least one, in one place: a menu chooses among them."""
    each = [waterfall(explanation, row, column, scale) for row in range(rows)]
    predictions = np.asarray(explanation.predictions, np.float64)[:rows, column].tolist()
    first = each[0]
    first.layout["margin"]["t"] += _MENU
    first.layout["updatemenus"] = [
        {
            "buttons": [
                {
                    "label": f"row {row + 1}: prediction {prediction:.4g}",
                    "method": "update",
                    "args": [_drawn_anew(figure), {key: _at(figure.layout, key) for key in _OF_A_ROW}],
                }
                for row, (figure, prediction) in enumerate(zip(each, predictions, strict=True))
            ],
            **{"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 46}, "bgcolor": "#fff"},
        }
    ]
    return Figure("from the base value to the prediction", first.data, first.layout, first.height + _MENU)


def beeswarm(explanation: Explanation, column: int) -> Figure:
    """A point for each row in each feature's line, at its attribution, coloured by the feature's own value."""
    amounts = np.asarray(explanation.attributions, np.float64)[:, :, column]
    picked = np.unique(np.linspace(0, len(amounts) - 1, min(len(amounts), MOST_POINTS)).astype(int))
    shown, _ = _parted(np.argsort(-np.abs(amounts).mean(axis=0), kind="stable"))
    data = []
    for line, feature in enumerate(reversed(shown)):
        at = amounts[picked, feature]
        texts = [explanation.values[i][feature] for i in picked] if explanation.values else [""] * len(picked)
        colour = _ranks(texts)
        marker: dict[str, Any] = {"size": 5, "opacity": 0.8, "color": GREY}
        if colour is not None:
            marker |= {"color": colour, "colorscale": "Cividis", "cmin": 0, "cmax": 1, "showscale": line == 0}
            marker["colorbar"] = {
                "title": {"text": "value", "side": "right"},
                "tickvals": [0, 1],
                "ticktext": ["low", "high"],
                "len": 0.8,
            }
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": at.tolist(),
                "y": (line + _spread(at)).tolist(),
                "marker": marker,
                "text": [_escaped(text) for text in texts],
                "customdata": (picked + 1).tolist(),
                "hovertemplate": "row %{customdata}, %{text}: %{x:+.4g}<extra></extra>",
                "showlegend": False,
            }
        )
    layout = _layout(
        f"attribution to {_short(explanation.outputs[column])}",
        [_short(explanation.features[i]) for i in reversed(shown)],
    )
    layout["shapes"] = [_line(0.0, "solid")]
    return Figure("each row, by feature: to the right it was moved up", data, layout, 110 + 30 * len(shown))


def importance(explanation: Explanation, column: int) -> Figure:
    """Mean |attribution| over the rows, with its standard error over them."""
    sizes = np.abs(np.asarray(explanation.attributions, np.float64)[:, :, column])
    means, rows = sizes.mean(axis=0), len(sizes)
    errors = sizes.std(axis=0, ddof=1) / np.sqrt(rows) if rows > 1 else np.zeros_like(means)
    shown, rest = _parted(np.argsort(-means, kind="stable"))
    lines = [(_short(explanation.features[i]), means[i], errors[i]) for i in shown]
    if len(rest):
        lines.append((f"{len(rest)} others", float(means[rest].sum()), 0.0))
    lines.reverse()
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(lines))),
        "x": [float(mean) for _, mean, _ in lines],
        "error_x": {
            "type": "data",
            "array": [float(error) for _, _, error in lines],
            "color": "#555",
            "thickness": 1.2,
        },
        "marker": {"color": "#56B4E9"},
        "hovertemplate": "%{x:.4g}<extra></extra>",
    }
    layout = _layout(f"mean |attribution| to {_short(explanation.outputs[column])}", [name for name, _, _ in lines])
    return Figure("which features matter, over all rows", [bars], layout, 110 + 27 * len(lines))


def _parted(order: NDArray[np.intp]) -> tuple[list[int], list[int]]:
    most = len(order) if len(order) <= MOST_FEATURES + 1 else MOST_FEATURES
    return order[:most].tolist(), order[most:].tolist()


def _layout(axis: str, lines: list[str]) -> dict[str, Any]:
    return {
        "font": _FONT,
        "margin": {"l": 16, "r": 24, "t": 34, "b": 54},
        "plot_bgcolor": "#fff",
        "paper_bgcolor": "#fff",
        "showlegend": False,
        "xaxis": {"title": {"text": axis, **_TITLE}, "gridcolor": GRID, "zeroline": False, "automargin": True},
        "yaxis": {
            "tickvals": list(range(len(lines))),
            "ticktext": lines,
            "range": [-0.6, len(lines) - 0.4],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
    }


def _drawn_anew(figure: Figure) -> dict[str, Any]:
    """What differs between two waterfalls' traces, bars and figures, as plotly's `restyle` takes it: a value for each trace."""
    bars, figures = figure.data
    return {
        "x": [bars["x"], figures["x"]],
        "base": [bars["base"], None],
        "marker.color": [bars["marker"]["color"], None],
        "customdata": [bars["customdata"], None],
        "text": [None, figures["text"]],
    }


def _at(layout: dict[str, Any], path: str) -> Any:
    value: Any = layout
    for name in path.split("."):
        value = value[name]
    return value


def _line(x: float, dash: str) -> dict[str, Any]:
    """A line across all features, under what is drawn: figures have to be read where it passes them."""
    return {
        "type": "line",
        "layer": "below",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "#999", "width": 1, "dash": dash},
    }


def _mark(x: float, text: str, shift: int) -> dict[str, Any]:
    """A word above the plot, so many pixels up."""
    at = {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": shift - 14}
    return {**at, "text": text, "showarrow": False, "font": {"size": 12, "color": "#444"}}


def _label(explanation: Explanation, row: int, feature: int) -> str:
    name = _short(explanation.features[feature])
    value = explanation.values[row][feature] if explanation.values else ""
    return f"{name} = {_short(value, 16)}" if value else name


def _short(text: str, most: int = _NAME) -> str:
    return _escaped(text if len(text) <= most else text[: most - 1] + "…")


def _escaped(text: str) -> str:
    """No markup to plotly, which knows no `&quot;`."""
    return escape(text, quote=False)


def _ranks(texts: list[str]) -> list[float] | None:
    """Places of numbers among each other, 0 to 1; None where they are none, or all alike."""
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return None
    values, places = np.unique(numbers, return_inverse=True)
    return None if len(values) < 2 or np.isnan(numbers).any() else (places / (len(values) - 1)).tolist()


def _spread(at: Amounts) -> Amounts:
    """How far each point stands from its line, so that points of about one amount stand beside each other; no chance is in it."""
    width = float(np.ptp(at)) if len(at) else 0.0
    bins = np.zeros(len(at), int) if width == 0 else np.minimum(((at - at.min()) / width * BINS).astype(int), BINS - 1)
    spread = np.zeros(len(at))
    most = np.bincount(bins, minlength=1).max(initial=1)
    for each in np.unique(bins):
        members = np.flatnonzero(bins == each)
        count = len(members)
        offsets = (np.arange(count) + 1) // 2 * np.where(np.arange(count) % 2, 1, -1)
        spread[members] = offsets * min(0.06, 0.8 / max(most, 2))
    return spread
