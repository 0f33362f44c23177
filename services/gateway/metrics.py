"""What the gateway counts."""

from __future__ import annotations

from collections.abc import Callable

from infermesh.telemetry import Metrics

__all__ = ["GatewayMetrics"]

MAX_CALLERS = 1000  # that have a label of their own; the others share the empty one

Count = Callable[[], None]


class GatewayMetrics:
    """Labels come from the configuration, the route table and the keys file, never from what a caller sent.

    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_gateway_picks_total` | service, model, variant, by | calls by variant, and what chose it (below) |
    | `infermesh_gateway_sticky_misses_total` | service, model | calls without a sticky key |
    | `infermesh_gateway_shadow_total` | service, model, shadow, outcome | copies of calls (below) |
    | `infermesh_gateway_auth_refusals_total` | service, reason, mode | refused (`enforce`), or would be (`observe`) |
    | `infermesh_gateway_variants_dropped_total` | service, mode | wishes for a variant without the scope, dropped or observed |
    | `infermesh_gateway_rate_limited_total` | service, caller, mode | calls past their caller's rate, refused or observed |
    | `infermesh_gateway_retries_total` | service, backend, outcome | `retried`, or why not: `no_budget`, `no_time` |
    | `infermesh_gateway_file_generation` | service, file | how many times `routes` or `keys` were taken over |
    | `infermesh_gateway_file_bad` | service, file | 1 while the file can't be used and the last good one counts |
    | `infermesh_gateway_reloads_total` | service, file, outcome | changed files, `good` or `bad` |

    A variant is chosen by `weight`, `sticky`, `version` or `header`. A copy is `mirrored` when the candidate answered,
    `failed` when not, `shed` when too many were under way, `skipped` when its request is too large.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        counter, gauge = metrics.counter, metrics.gauge
        self._picks = counter("infermesh_gateway_picks_total", "Calls by variant.", "model", "variant", "by")
        self._misses = counter("infermesh_gateway_sticky_misses_total", "Calls without a sticky key.", "model")
        self._shadow = counter("infermesh_gateway_shadow_total", "Shadow copies.", "model", "shadow", "outcome")
        self._auth = counter("infermesh_gateway_auth_refusals_total", "Authentication refusals.", "reason", "mode")
        self._dropped = counter("infermesh_gateway_variants_dropped_total", "Wishes without the scope.", "mode")
        self._limited = counter("infermesh_gateway_rate_limited_total", "Calls past a rate.", "caller", "mode")
        self._retries = counter("infermesh_gateway_retries_total", "Retries.", "backend", "outcome")
        self._generation = gauge("infermesh_gateway_file_generation", "Times that the file was taken over.", "file")
        self._bad = gauge("infermesh_gateway_file_bad", "1 while the file can't be used.", "file")
        self._reloads = counter("infermesh_gateway_reloads_total", "Changed files.", "file", "outcome")
        self._callers: set[str] = set()

    def pick(self, model: str, variant: str, by: str) -> Count:
        """What counts a call that goes to the variant; made once, when a route is compiled."""
        return self._picks.labels(self._service, model, variant, by).inc

    def sticky_miss(self, model: str) -> Count:
        return self._misses.labels(self._service, model).inc

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
            each: self._retries.labels(self._service, backend, each).inc for each in ("retried", "no_budget", "no_time")
        }
        return lambda outcome: counts[outcome]()

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
