"""Whether a comparison of a model with itself finds nothing more often than it says, and whether its p-values are uniform.

python -m benchmarks.shadow_calibration [--runs 1000] [--pairs 300] [--seed 1] [--picture FILE.svg]

Each run: a model is asked twice (with noise that flips some labels), `pairs` times; the PSI's p-value of its score goes into a
histogram of 20 bins. If the test is exact, each bin gets a twentieth, and Kolmogorov and Smirnov's distance from uniform is under
its 99.9 % bound, 1.95/√runs. Beside it what the χ² of independent samples would say. Ties among redraws are broken by chance. The
status is 1 when the bound does not hold. The picture needs no library: it is written as SVG.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.processes import machine
from services.gateway.compare.psi import psi_test
from services.gateway.compare.shift import ColumnShift

BINS = 20
BOUND = 1.95  # Kolmogorov's distribution: sup|F−G|·√n is over it once in 1,000 times
NOISE = 0.3  # of the logit, against a spread of 2.3 between requests
DRAWS = 999


def run(seed: int, pairs: int) -> tuple[float, float]:
    """The p-values of one run: by redrawing pairs, and by χ² (Wilson and Hilferty's approximation)."""
    numbers = np.random.default_rng(seed)
    logits = numbers.normal(0, 2.3, (pairs, 1)) + numbers.normal(0, NOISE, (pairs, 2))
    shift = ColumnShift(10, pairs)
    for first, second in (1 / (1 + np.exp(-logits))).tolist():
        shift.add(first, second)
    table = shift.table()
    assert table is not None
    test = psi_test(table, numbers, DRAWS)
    by_pairs = (test.above + numbers.random() * (1 + test.equal)) / (1 + DRAWS)
    degrees = 9
    z = ((test.psi * pairs / 2 / degrees) ** (1 / 3) - 1 + 2 / (9 * degrees)) / math.sqrt(2 / (9 * degrees))
    return by_pairs, math.erfc(z / math.sqrt(2)) / 2


def distance(values: Sequence[float]) -> float:
    """Kolmogorov and Smirnov's distance from uniform."""
    rising = np.sort(values)
    steps = np.arange(len(rising) + 1) / len(rising)
    return float(max((steps[1:] - rising).max(), (rising - steps[:-1]).max()))


def drawn(title: str, counts: Sequence[int]) -> str:
    """A histogram in text."""
    longest = max(counts)
    lines = [f"{at / BINS:5.2f} {count:5} {'█' * round(50 * count / longest)}" for at, count in enumerate(counts)]
    return "\n".join([title, *lines])


def picture(counts: Sequence[int], runs: int) -> str:
    """The histogram as SVG, with the line where every bar would end in the mean."""
    width, height, left, top = 640, 300, 60, 30
    most = 1.15 * max(*counts, runs / BINS)
    bar = width / BINS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 80} {height + 80}" '
        'font-family="sans-serif" font-size="13">',
        f'<text x="{left}" y="18">p-values of the PSI in {runs:,} comparisons of a model with itself</text>',
    ]
    for at, count in enumerate(counts):
        tall = height * count / most
        parts.append(
            f'<rect x="{left + at * bar + 1:.1f}" y="{top + height - tall:.1f}" width="{bar - 2:.1f}" height="{tall:.1f}" '
            'fill="#4477aa"/>'
        )
    line = top + height * (1 - runs / BINS / most)
    parts.append(f'<path d="M{left} {line:.1f}h{width}" stroke="#cc3311" stroke-dasharray="6 4" fill="none"/>')
    parts.append(
        f'<text x="{left + width}" y="{line - 5:.1f}" text-anchor="end" fill="#cc3311">uniform: {runs / BINS:g}</text>'
    )
    parts += [
        f'<text x="{left + share * width:.0f}" y="{top + height + 18}" text-anchor="middle">{share:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">p-value</text>')
    parts.append(
        f'<text x="18" y="{top + height / 2}" transform="rotate(-90 18 {top + height / 2})" text-anchor="middle">runs</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def main(options: argparse.Namespace) -> bool:
    began = time.perf_counter()
    print(
        f"{machine()}\n{options.runs} runs of {options.pairs} pairs, {DRAWS} redraws each, seeds from {options.seed}\n"
    )
    both = [run(options.seed + at, options.pairs) for at in range(options.runs)]
    for title, values in zip(
        ("by redrawing pairs", "by χ² of independent samples"), zip(*both, strict=True), strict=True
    ):
        counts = np.histogram(values, BINS, (0, 1))[0].tolist()
        print(drawn(title, counts))
        small = sum(value <= 0.05 for value in values) / len(values)
        print(
            f"at or under 0.05: {100 * small:.1f} %; distance {distance(values):.4f}, "
            f"bound {BOUND / math.sqrt(len(values)):.4f}\n"
        )
    exact = [each[0] for each in both]
    if options.picture:
        counts = np.histogram(exact, BINS, (0, 1))[0].tolist()
        options.picture.write_text(picture(counts, options.runs), encoding="utf-8")
    good = distance(exact) <= BOUND / math.sqrt(len(exact))
    print(f"{'uniform' if good else 'NOT uniform'}; {time.perf_counter() - began:.0f} s")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    sys.exit(not main(parser.parse_args()))
