"""The two engines of a service: what a case may be told on the one and not on the other, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["ENGINES", "LONG_CASES", "SHORT_HOPS", "Compared"]

ENGINES = ("grpcio", "envoy")  # the one that others are compared with comes first

# What is left to `--long` on other engines than the first, and on other hops than the outermost and the innermost: these take
# seconds on each.
LONG_CASES = frozenset({"NET-large", "NET-calls", "NET-streams", "NET-drain", "HLT-under-load"})
SHORT_HOPS = frozenset({"gateway", "predictor"})

# Which calls are cut and which are answered is a matter of time in these, from one run to the next on one engine too; what ends
# there may be is what the case itself asserts.
MATTERS_OF_TIME = frozenset(
    {
        "BAT-batched",
        "BAT-cancelled-member",
        "BAT-expired-member",
        "ERR-deadline",
        "HLT-under-load",
        "NET-cancel",
        "NET-cancel-stream",
        "NET-deadline",
        "NET-disconnect",
        "NET-drain",
        "REPO-reload-under-load",
    }
)

# Here the text is the engine's and not ours, so that the status code alone is compared: case → why.
WORDS_OF_THE_ENGINE = {
    "NET-compressed-limit": "gRPC's core stops unpacking at the limit and says so; envoy's side says how much it had by then",
}

SHOWN = 5  # differences in the message of a failure
STATUS = re.compile(r"StatusCode\.[A-Z_]+")

Heard = Mapping[str, frozenset[str]]


class Compared:
    """What was heard in each case on the first engine, and whether the others say the same."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, ...], Heard] = {}

    def check(self, case: str, values: Sequence[str], engine: str, heard: Heard) -> None:
        """Keep what was heard on the first engine; raise AssertionError where another one differs from it."""
        key = (case, *values)
        if case in MATTERS_OF_TIME:
            return
        if case in WORDS_OF_THE_ENGINE:
            heard = {what: frozenset(STATUS.findall(" ".join(ends))) for what, ends in heard.items()}
        if engine == ENGINES[0]:
            self._first[key] = heard
            return
        assert key in self._first, (
            f"nothing to compare with: run the case on engine {ENGINES[0]} too, where it has to pass"
        )
        first = self._first[key]
        differences = [
            f"{what}\n  {ENGINES[0]}: {sorted(first.get(what, ()))}\n  {engine}: {sorted(heard.get(what, ()))}"
            for what in sorted({*first, *heard})
            if first.get(what) != heard.get(what)
        ]
        assert not differences, "told otherwise:\n" + "\n".join(differences[:SHOWN])
