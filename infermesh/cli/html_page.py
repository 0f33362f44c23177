"""A page of HTML that needs no network: its text, its figures and the library that draws them, in one file.

What stands in it may come from anybody who sent a call or made a model. Whoever makes a body escapes it, and the page's own
policy lets no script run but those whose digests it names, and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from infermesh.cli.failure import Failure
from infermesh.cli.html_style import DRAW, STYLE

__all__ = ["document", "plotly_js"]


def plotly_js() -> str:
    """The library that draws, whole. Raises Failure where the extra is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise Failure("--html: plotly is not installed", hint="pip install 'infermesh[report]'") from None
    return str(get_plotlyjs())


def document(title: str, body: str, figures: Sequence[dict[str, Any]], script: str) -> str:
    """The page. `figures` have `data` and `layout` for plotly.js, which `script` is; an element with `data-figure="2"` gets the
    third of them."""
    scripts = [script, DRAW]
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {_digests(scripts)}"
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            body,
            f'<script type="application/json" id="figures">{_inside_script(figures)}</script>\n',
            *(f"<script>{each}</script>\n" for each in scripts),
            "</body>\n</html>\n",
        ]
    )


def _inside_script(value: object) -> str:
    """JSON that can't end the element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digests(scripts: list[str]) -> str:
    digests = (hashlib.sha256(each.encode()).digest() for each in scripts)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
