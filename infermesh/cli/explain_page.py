"""An explanation as one HTML page that needs no network: waterfalls, of many rows a swarm and the importance, numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from infermesh.cli.explain_plots import Figure, beeswarm, importance, waterfall, waterfalls
from infermesh.cli.explain_words import background_of, counted, no_reasons, scale_of
from infermesh.cli.explanation import Explanation
from infermesh.cli.html_page import document
from infermesh.parameters import FEATURES, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

__all__ = ["page"]

WATERFALLS = 50  # that can be chosen from
MANY = 5  # rows from which a swarm says something
TABLE_ROWS = 100


def page(
    response: ModelInferResponse,
    explanation: Explanation,
    column: str,
    script: str,
    *,
    properties: Mapping[str, str] | None = None,
    adverse: str = "",
    background: str = "",
) -> str:
    """The page; `column` names the explained column, empty: the likeliest of the first row. `script` is plotly.js.

    `properties` are the explainer's metadata, which say what the background is; `adverse` and `background` were asked for.
    """
    at = explanation.output(column) if column or explanation.rows else 0
    drawn: list[Figure] = []
    facts = [*_facts(response, explanation, at), ("background", background_of(properties or {}, background))]
    body = "".join(_body(response, explanation, at, [each for each in facts if each[1]], counted(adverse), drawn))
    figures: list[dict[str, Any]] = [
        {"data": each.data, "layout": {**each.layout, "height": each.height}} for each in drawn
    ]
    return document(f"{response.model_name}: explanation", body, figures, script)


def _body(
    response: ModelInferResponse,
    explanation: Explanation,
    at: int,
    facts: list[tuple[str, str]],
    way: str,
    drawn: list[Figure],
) -> Iterator[str]:
    told = response.parameters
    rows, name, scale = explanation.rows, explanation.outputs[at], scale_of(response)
    yield f"<main>\n<h1>{escape(told['infermesh_model'].string_param or response.model_name)}, version "
    yield f"{escape(response.model_version)}: what moved {escape(name)}</h1>\n"
    yield "<section><table>\n"
    for word, value in facts:
        yield f"<tr><td><strong>{escape(word)}</strong></td><td>{escape(value)}</td></tr>\n"
    yield "</table></section>\n"
    if not rows:
        yield "<p>There are no rows.</p>\n</main>\n"
        return
    yield "<noscript><p>The plots need JavaScript; the tables below have their numbers.</p></noscript>\n"
    if rows >= MANY:
        yield f"<section><h2>All {rows:,} rows</h2></section>\n"
        yield from _plots([importance(explanation, at), beeswarm(explanation, at)], drawn)
    yield f"<section><h2>{'Row by row' if rows > 1 else 'Step by step'}</h2></section>\n"
    if rows > 1:
        yield from _plots([waterfalls(explanation, min(rows, WATERFALLS), at, scale)], drawn, wide=True)
    else:
        yield from _plots([waterfall(explanation, 0, at, scale)], drawn, wide=True)
    if rows > WATERFALLS:
        yield f"<p>The menu has the first {WATERFALLS} of {rows:,} rows.</p>\n"
    if explanation.reasons:
        yield from _reasons(explanation, at, f"{way} {name}")
    yield from _table(explanation, at)
    yield "</main>\n"


def _facts(response: ModelInferResponse, explanation: Explanation, at: int) -> Iterator[tuple[str, str]]:
    told = response.parameters
    yield "method", told["infermesh_method"].string_param
    yield "scale", scale_of(response) or "as the model answers"
    yield "evaluations a row", f"{told['infermesh_evaluations'].int64_param:,}"
    yield "rows asked about", f"{told['infermesh_rows_sent'].int64_param:,}"
    yield "converged", "yes" if told["infermesh_converged"].bool_param else "no: see the errors"
    if explanation.std_error is not None:
        errors = np.asarray(explanation.std_error, np.float64)[:, :, at]
        yield "largest standard error", f"{errors.max(initial=0.0):.2g}"
    if explanation.additivity_error is not None:
        error = np.asarray(explanation.additivity_error, np.float64)[:, at].max(initial=0.0)
        yield "base value + attributions − prediction", f"at most {error:.1g}"
    seed = told["infermesh_seed"]
    yield "seed", str(seed.uint64_param or seed.int64_param)
    yield "time", f"{told['infermesh_milliseconds'].double_param:,.0f} ms"
    for word, key in (("variant", VARIANT), ("features from the store", FEATURES)):
        if key in told:
            yield word, told[key].string_param


def _plots(figures: list[Figure], drawn: list[Figure], *, wide: bool = False) -> Iterator[str]:
    yield '<div class="plots">\n'
    begin = '<figure class="wide">' if wide else "<figure>"
    for figure in figures:
        yield f"{begin}<figcaption>{escape(figure.title)}</figcaption>"
        yield f'<div class="plot" data-figure="{len(drawn)}" style="min-height:{figure.height}px"></div></figure>\n'
        drawn.append(figure)
    yield "</div>\n"


def _reasons(explanation: Explanation, at: int, about: str) -> Iterator[str]:
    yield f"<section><h2>Reasons: what {escape(about)}</h2>\n"
    yield '<table>\n<tr><th class="number">row</th><th>reasons, the weightiest first</th></tr>\n'
    for row, texts in enumerate(explanation.reasons[:TABLE_ROWS]):
        said = texts or (no_reasons(explanation, row, at),)
        items = "".join(f"<li>{escape(text)}</li>" for text in said)
        yield f'<tr><td class="number">{row + 1}</td><td><ol>{items}</ol></td></tr>\n'
    yield "</table></section>\n"


def _table(explanation: Explanation, at: int) -> Iterator[str]:
    """Attributions of the rows, with the values where they are known."""
    amounts = np.asarray(explanation.attributions, np.float64)[:TABLE_ROWS, :, at]
    yield '<section><h2>Numbers</h2>\n<table>\n<tr><th class="number">row</th><th class="number">base value</th>'
    yield "".join(f'<th class="number">{escape(each)}</th>' for each in explanation.features)
    yield '<th class="number">prediction</th></tr>\n'
    for row, line in enumerate(amounts):
        base = float(np.asarray(explanation.base_values, np.float64)[row, at])
        prediction = float(np.asarray(explanation.predictions, np.float64)[row, at])
        values = explanation.values[row] if explanation.values else [""] * len(line)
        cells = "".join(
            f'<td class="number" title="{escape(value)}">{amount:+.4g}</td>'
            for value, amount in zip(values, line.tolist(), strict=True)
        )
        yield f'<tr><td class="number">{row + 1}</td><td class="number">{base:.4g}</td>{cells}'
        yield f'<td class="number">{prediction:.4g}</td></tr>\n'
    yield "</table>\n"
    if explanation.rows > TABLE_ROWS:
        yield f"<p>and {explanation.rows - TABLE_ROWS:,} others; `infermesh explain --raw-json` has all</p>\n"
    yield "</section>\n"
