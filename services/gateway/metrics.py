"""What the gateway counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from infermesh.telemetry import Metrics
from services.gateway.series import Counts, Series
from services.gateway.standing import Standing, StandingCollector

__all__ = ["GatewayMetrics"]

MAX_CALLERS = 1000  # that have a label of their own; the others share the empty one

Count = Callable[[], None]


class GatewayMetrics:
    """Labels come from the configuration, the route table and the keys file, never from what a caller sent.

    Series of routes, variants and shadows go with them (`Series`); requests and latencies, which every service has, by `forget`.

    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_gateway_picks_total` | service, model, variant, by | calls by variant, and what chose it (below) |
    | `infermesh_gateway_variant_share` | service, model, variant, backend, version | part of the calls that it gets now, 0 to 1 |
    | `infermesh_gateway_variant_ready` | service, model, variant, backend, version | 0 while it is known not to be ready |
    | `infermesh_gateway_sticky_misses_total` | service, model | calls without a sticky key |
    | `infermesh_gateway_shadow_total` | service, model, shadow, outcome | copies of calls (below) |
    | `infermesh_gateway_auth_refusals_total` | service, reason, mode | refused (`enforce`), or would be (`observe`) |
    | `infermesh_gateway_variants_dropped_total` | service, mode | wishes for a variant without the scope, dropped or observed |
    | `infermesh_gateway_rate_limited_total` | service, caller, mode | calls past their caller's rate, refused or observed |
    | `infermesh_gateway_retries_total` | service, backend, outcome | `retried`, or why not (below) |
    | `infermesh_gateway_breaker_total` | service, model, variant, event | breakers of variants (below) |
    | `infermesh_gateway_no_time_total` | service, model, variant, mode | calls with less time than half of the recent ones took |
    | `infermesh_gateway_fallback_total` | service, model, step, outcome | steps of fallbacks (below) |
    | `infermesh_gateway_file_generation` | service, file | how many times `routes` or `keys` were taken over |
    | `infermesh_gateway_file_bad` | service, file | 1 while the file can't be used and the last good one counts |
    | `infermesh_gateway_reloads_total` | service, file, outcome | changed files, `good` or `bad` |

    A variant is chosen by `weight`, `sticky`, `rule`, `version` or `header`; by its `breaker` where the one that had the
    call's share is left alone by its breaker; `refused` calls fell on one that is not ready, of a
    route that lets them fail. A copy is `mirrored` when the candidate answered,
    `failed` when not, `shed` when too many were under way, `skipped` when its request is too large, `suppressed` when calls came
    first under overload. A retry is not made for
    `no_budget`, `no_time`, or when it was `pushed_back` for longer than it may wait. A breaker is `opened`, `half_opened` or
    `closed`, and while it is open calls are `refused`, or `observed`. A step of a fallback has `answered`, `failed` or `none` to
    give; in mode `observe` calls that need one are counted as `wanted`, under the step `any`.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._registry = metrics.registry
        self._metrics = metrics
        counter, gauge, series = metrics.counter, metrics.gauge, partial(Series, metrics.registry, metrics.service)
        # Of what the route table has: these go with it.
        variant = ("model", "variant")
        self._picks = series("infermesh_gateway_picks", "Calls by variant.", variant, ("by",))
        self._misses = series("infermesh_gateway_sticky_misses", "Calls without a sticky key.", ("model",))
        self._shadow = series("infermesh_gateway_shadow", "Shadow copies.", ("model", "shadow"), ("outcome",))
        self._breaker = series("infermesh_gateway_breaker", "Breakers of variants.", variant, ("event",))
        self._no_time = series("infermesh_gateway_no_time", "Calls that came too late.", (*variant, "mode"))
        self._fallback = series("infermesh_gateway_fallback", "Fallbacks.", ("model",), ("step", "outcome"))
        # Of what the configuration has: these stay.
        self._auth = counter("infermesh_gateway_auth_refusals_total", "Authentication refusals.", "reason", "mode")
        self._dropped = counter("infermesh_gateway_variants_dropped_total", "Wishes without the scope.", "mode")
        self._limited = counter("infermesh_gateway_rate_limited_total", "Calls past a rate.", "caller", "mode")
        self._retries = counter("infermesh_gateway_retries_total", "Retries.", "backend", "outcome")
        self._generation = gauge("infermesh_gateway_file_generation", "Times that the file was taken over.", "file")
        self._bad = gauge("infermesh_gateway_file_bad", "1 while the file can't be used.", "file")
        self._reloads = counter("infermesh_gateway_reloads_total", "Changed files.", "file", "outcome")
        self._callers: set[str] = set()
        # Held here: a new table asks for them with a variant's first call, when the old one is gone.
        self._picked: dict[tuple[str, str], Counts] = {}

    def pick(self, model: str, variant: str, by: str) -> Count:
        """What counts a call that goes to the variant; made when the first one does."""
        self._metrics.expect(model, variant)
        counts = self._picked.get((model, variant))
        if counts is None:
            counts = self._picked[model, variant] = self._picks.counts(model, variant)
        return partial(counts.add, by)

    def sticky_miss(self, model: str) -> Count:
        counts = self._misses.counts(model)
        counts.begin()
        return counts.add

    def standing(self, read: Callable[[], Iterable[Standing]]) -> None:
        """Tell from now on how the variants stand; `read` is called in another thread."""
        self._registry.register(StandingCollector(self._service, read))

    def forget(self, model: str, variant: str) -> None:
        """Drop the series of a variant that is in no route any more, and those of its model if that is in none."""
        if self._picked.pop((model, variant), None) is not None:
            self._picks.forget(model, variant)
        self._metrics.forget(model, variant)

    def shadow(self, model: str, shadow: str) -> Callable[[str], None]:
        """What counts a copy by its outcome."""
        counts = self._shadow.counts(model, shadow)
        for outcome in ("mirrored", "failed", "shed", "skipped", "suppressed"):
            counts.begin(outcome)
        return counts.add

    def refusal(self, mode: str) -> Callable[[str], None]:
        """What counts a refusal of authentication by its reason."""
        return lambda reason: self._auth.labels(self._service, reason, mode).inc()

    def variant_dropped(self, mode: str) -> Count:
        """What counts a wish for a variant from a caller without the scope."""
        return self._dropped.labels(self._service, mode).inc

    def rate_limited(self, mode: str) -> Callable[[str], None]:
        """What counts a call past its caller's rate."""

        def count(caller: str) -> None:
            if caller and caller not in self._callers:
                if len(self._callers) >= MAX_CALLERS:
                    caller = ""
                else:
                    self._callers.add(caller)
            self._limited.labels(self._service, caller, mode).inc()

        return count

    def retry(self, backend: str) -> Callable[[str], None]:
        """What counts a retry, made or not."""
        counts = {
            each: self._retries.labels(self._service, backend, each).inc
            for each in ("retried", "no_budget", "no_time", "pushed_back")
        }
        return lambda outcome: counts[outcome]()

    def breaker(self, model: str, variant: str) -> Callable[[str], None]:
        """What counts the changes of a variant's breaker, and the calls that meet it open."""
        self._metrics.expect(model, variant)
        return self._breaker.counts(model, variant).add

    def no_time(self, model: str, variant: str, mode: str) -> Count:
        """What counts a call with too little time for the variant."""
        counts = self._no_time.counts(model, variant, mode)
        counts.begin()
        return counts.add

    def fallback(self, model: str) -> Callable[[str, str], None]:
        """What counts a step of the model's fallback, by its outcome."""
        return self._fallback.counts(model).add

    def covered(self, model: str) -> Callable[[str, str, float], None]:
        """What counts a failure of a variant that a fallback covers among the requests, where its answer is `fallback`'s."""

        def count(variant: str, code: str, seconds: float) -> None:
            self._metrics.request(model, "", variant, code, seconds)

        return count

    def file(self, name: str) -> Callable[[bool], None]:
        """What counts a reading of a file that was taken over, or was bad."""
        generation, bad = self._generation.labels(self._service, name), self._bad.labels(self._service, name)
        outcomes = {
            each: self._reloads.labels(self._service, name, "good" if each else "bad").inc for each in (True, False)
        }
        generation.set(1)
        bad.set(0)

        def read(good: bool) -> None:
            outcomes[good]()
            bad.set(not good)
            if good:
                generation.inc()

        return read
