"""How pages look, and the few lines that draw their plots."""

from __future__ import annotations

__all__ = ["DRAW", "STYLE"]

STYLE = """\
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 0 auto; padding: 20px; }
h1 { font-size: 22px; margin: 16px 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 26px 0 6px; }
main + main { border-top: 3px solid #ccc; margin-top: 40px; padding-top: 10px; }
.verdict { border-left: 10px solid; border-radius: 4px; padding: 10px 18px; font-size: 17px; overflow-wrap: anywhere; }
.verdict p { margin: 4px 0; }
.verdict ul { margin: 8px 0 4px; padding-left: 22px; font-size: 15px; }
.verdict strong { font-size: 21px; margin-right: 8px; white-space: nowrap; }
.differs { background: #fbe6dc; border-color: #b03a00; }
.differs strong { color: #8f2f00; }
.same { background: #dff2ea; border-color: #00795a; }
.same strong { color: #005c44; }
.waiting { background: #fbf3cf; border-color: #8a7000; }
.waiting strong { color: #665300; }
.unheld { background: #e1effa; border-color: #0072b2; }
.unheld strong { color: #00517f; }
nav ul { list-style: none; padding: 0; }
nav li { border-left: 8px solid; padding: 4px 10px; margin: 4px 0; }
.notes h2 { font-size: 15px; margin: 14px 0 2px; }
.notes ul { margin: 0; padding-left: 22px; }
.period, section > p, .key { color: #555; }
.key b { display: inline-block; width: 12px; height: 12px; margin: 0 3px 0 14px; }
.key b:first-child { margin-left: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(520px, 100%), 1fr)); gap: 22px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure.wide { grid-column: 1 / -1; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-bottom: 1px solid #e2e2e2; }
th { border-bottom: 2px solid #999; }
td { overflow-wrap: anywhere; min-width: 60px; }
.number { text-align: right; white-space: nowrap; min-width: 0; font-variant-numeric: tabular-nums; }
th.number { white-space: normal; }
td ol { margin: 0; padding-left: 22px; }
.whole { white-space: nowrap; }
section { overflow-x: auto; }
tr.found td { background: #fdf1ea; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #17191d; }
  .differs, .same, .waiting, .unheld, tr.found td { color: #222; }
  .period, section > p, .key { color: #aaa; }
  th, td { border-color: #3a3d42; }
  .plot { background: #fff; border-radius: 6px; overflow: hidden; }
}
@media print {
  body { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  tr, li { break-inside: avoid; }
}
"""

DRAW = """\
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const place of document.querySelectorAll("[data-figure]")) {
  const figure = figures[Number(place.dataset.figure)];
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false});
}
"""
