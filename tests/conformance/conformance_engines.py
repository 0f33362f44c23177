"""The two engines of a service, and what a case may be told otherwise on the one than on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["ENGINES", "LONG_CASES", "Compared"]

ENGINES = ("grpcio", "envoy")  # the one that others are compared with comes first

# What is left to `--long` on other engines than the first: these take seconds on each hop.
LONG_CASES = frozenset({"NET-large", "NET-calls", "NET-streams", "NET-drain", "HLT-under-load"})

Heard = Mapping[str, frozenset[str]]


class Compared:
    """What was heard in each case on the first engine, and whether the others say the same."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, ...], Heard] = {}

    def check(self, case: str, values: Sequence[str], engine: str, heard: Heard) -> None:
        key = (case, *values)
        if engine == ENGINES[0]:
            self._first[key] = heard
            return
        first = self._first.get(key)
        if first is None:
            print("NOREF", key)
            return
        import os

        if first != heard:
            with open(os.environ["DIFF_OUT"], "a") as out:
                print("#", *key, file=out)
                for what in sorted({*first, *heard}):
                    a, b = first.get(what, frozenset()), heard.get(what, frozenset())
                    if a != b:
                        print("  Q", what, file=out)
                        for x in a - b:
                            print("    -", x, file=out)
                        for x in b - a:
                            print("    +", x, file=out)
