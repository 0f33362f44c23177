"""What the gateway counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from infermesh.telemetry import Metrics
from services.gateway.standing import Standing, StandingCollector

__all__ = ["GatewayMetrics"]

MAX_CALLERS = 1000  # that have a label of their own; the others share the empty one

Count = Callable[[], None]


class GatewayMetrics:
    """Labels come from the configuration, the route table and the keys file, never from what a caller sent.

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

    A variant is chosen by `weight`, `sticky`, `rule`, `version` or `header`; `refused` calls fell on one that is not ready, of a
    route that lets them fail. A copy is `mirrored` when the candidate answered,
    `failed` when not, `shed` when too many were under way, `skipped` when its request is too large. A retry is not made for
    `no_budget`, `no_time`, or when it was `pushed_back` for longer than it may wait. A breaker is `opened`, `half_opened` or
    `closed`, and while it is open calls are `refused`, or `observed`. A step of a fallback has `answered`, `failed` or `none` to
    give; in mode `observe` calls that need one are counted as `wanted`, under the step `any`.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._registry = metrics.registry
        counter, gauge = metrics.counter, metrics.gauge
        self._picks = counter("infermesh_gateway_picks_total", "Calls by variant.", "model", "variant", "by")
        self._misses = counter("infermesh_gateway_sticky_misses_total", "Calls without a sticky key.", "model")
        self._shadow = counter("infermesh_gateway_shadow_total", "Shadow copies.", "model", "shadow", "outcome")
        self._auth = counter("infermesh_gateway_auth_refusals_total", "Authentication refusals.", "reason", "mode")
        self._dropped = counter("infermesh_gateway_variants_dropped_total", "Wishes without the scope.", "mode")
        self._limited = counter("infermesh_gateway_rate_limited_total", "Calls past a rate.", "caller", "mode")
        self._retries = counter("infermesh_gateway_retries_total", "Retries.", "backend", "outcome")
        self._breaker = counter("infermesh_gateway_breaker_total", "Breakers of variants.", "model", "variant", "event")
        self._no_time = counter(
            "infermesh_gateway_no_time_total", "Calls that came too late.", "model", "variant", "mode"
        )
        self._fallback = counter("infermesh_gateway_fallback_total", "Fallbacks.", "model", "step", "outcome")
        self._generation = gauge("infermesh_gateway_file_generation", "Times that the file was taken over.", "file")
        self._bad = gauge("infermesh_gateway_file_bad", "1 while the file can't be used.", "file")
        self._reloads = counter("infermesh_gateway_reloads_total", "Changed files.", "file", "outcome")
        self._callers: set[str] = set()

    def pick(self, model: str, variant: str, by: str) -> Count:
        """What counts a call that goes to the variant; made when the first one does."""
        return self._picks.labels(self._service, model, variant, by).inc

    def sticky_miss(self, model: str) -> Count:
        return self._misses.labels(self._service, model).inc

    def standing(self, read: Callable[[], Iterable[Standing]]) -> None:
        """Tell from now on how the variants stand; `read` is called in another thread."""
        self._registry.register(StandingCollector(self._service, read))

    def forget(self, model: str, variant: str) -> None:
        """Drop the series of a variant that is in no route any more."""
        gone = {"service": self._service, "model": model, "variant": variant}
        for counter in (self._picks, self._breaker, self._no_time):
            counter.remove_by_labels(gone)

    def shadow(self, model: str, shadow: str) -> Callable[[str], None]:
        """What counts a copy by its outcome."""
        outcomes = ("mirrored", "failed", "shed", "skipped")
        counts = {each: self._shadow.labels(self._service, model, shadow, each).inc for each in outcomes}
        return lambda outcome: counts[outcome]()

    def refusal(self, mode: str) -> Callable[[str], None]:
        """What counts a refusal of authentication by its reason."""
        return lambda reason: self._auth.labels(self._service, reason, mode).inc()

    def variant_dropped(self, mode: str) -> Count:
        """What counts a wish for a variant from a caller without the scope."""
        return self._dropped.labels(self._service, mode).inc

    def rate_limited(self, mode: str) -> Callable[[str], None]:
        """What counts a call past its caller's rate."""

        def count(caller: str) -> None:
            if caller not in self._callers:
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
        return lambda event: self._breaker.labels(self._service, model, variant, event).inc()

    def no_time(self, model: str, variant: str, mode: str) -> Count:
        """What counts a call with too little time for the variant."""
        return self._no_time.labels(self._service, model, variant, mode).inc

    def fallback(self, model: str) -> Callable[[str, str], None]:
        """What counts a step of the model's fallback, by its outcome."""
        return lambda step, outcome: self._fallback.labels(self._service, model, step, outcome).inc()

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
