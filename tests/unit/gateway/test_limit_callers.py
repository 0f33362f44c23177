"""Which callers have a label of their own in what the limits count."""

from __future__ import annotations

from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import ResourceExhausted
from infermesh.service import Filter
from infermesh.telemetry import Metrics
from services.gateway.authenticate import Authenticate
from services.gateway.gcra import Gcra
from services.gateway.jwks import KeySet, read_jwks
from services.gateway.jwt_config import JwtConfig
from services.gateway.jwt_tokens import Tokens
from services.gateway.key_ring import KeyRing
from services.gateway.keys import KeysFile
from services.gateway.limit_metrics import LimitMetrics
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter
from services.gateway.limits_config import RateLimitConfig
from services.gateway.metrics import MAX_CALLERS, GatewayMetrics
from services.gateway.rate_limit import RateLimit
from tests.issuer import AUDIENCE, ISSUER, NOW, jwk, jwks, token

METRIC = "infermesh_gateway_rate_limited_total"


def _limit(metrics: Metrics, **config: Any) -> RateLimit:
    """As the gateway builds it, with a clock that stands still."""
    rules = rules_of(RateLimitConfig.model_validate({"rate": 0.5, "burst": 1, **config}))
    LimitMetrics(metrics, rules, shared=False)
    gateway = GatewayMetrics(metrics)
    past = {mode: gateway.rate_limited(mode) for mode in ("enforce", "observe")}
    limiter = Limiter(Gcra(clock=lambda: 1000.0))
    return RateLimit(plans=Plans(rules), limiter=limiter, observe=lambda caller, mode: past[mode](caller))


def _authenticate(mode: str = "enforce") -> Authenticate:
    config = JwtConfig.model_validate({"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "https://issuer.example/k"})
    keys = KeySet()
    keys.swap(read_jwks(jwks(jwk()), config.algorithms, "test"))
    return Authenticate(
        keys=KeyRing(KeysFile(keys=[])),
        tokens=Tokens(config, keys, clock=lambda: NOW),
        enforce=mode == "enforce",
        observe=lambda reason: None,
        observe_dropped=lambda: None,
    )


async def _call(*filters: Filter, call: Call) -> bool:
    """Whether the filters let the call in."""
    try:
        for each in filters:
            await each.admit("ModelInfer", "m", "", call)
    except ResourceExhausted:
        return False
    return True


def _series(metrics: Metrics) -> dict[str, float]:
    """The counter's values by their callers."""
    return {
        sample.labels["caller"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == METRIC
    }


async def test_a_caller_with_a_token_has_its_name_as_label() -> None:
    """The subject of a verified token names the caller, as the keys file does for others."""
    metrics = Metrics("gateway")
    filters = _authenticate(), _limit(metrics)

    for subject in ("alice", "bob", "alice", "alice"):
        metadata = {"authorization": f"Bearer {token(sub=subject)}"}
        await _call(*filters, call=Call(metadata=metadata, peer="ipv4:10.0.0.7:1"))

    assert _series(metrics) == {"jwt:alice": 2}


@pytest.mark.parametrize("metadata", [{}, {"x-api-key": "made up"}, {"authorization": "Bearer a.b.c"}])
async def test_who_is_not_known_has_no_label(metadata: dict[str, str]) -> None:
    """Where authentication only observes, callers without a name, and with one that nobody vouches for, share the empty label."""
    metrics = Metrics("gateway")
    filters = _authenticate("observe"), _limit(metrics)

    let_in = [await _call(*filters, call=Call(metadata=dict(metadata), peer="ipv4:10.0.0.7:1")) for _ in range(3)]

    assert let_in == [True, False, False]
    assert _series(metrics) == {"": 2}


@pytest.mark.long
async def test_a_hundred_thousand_callers_keep_the_label_sets_flat() -> None:
    """The first thousand who are past their limit have labels, and keep them; all others share the empty one, and are counted."""
    metrics = Metrics("gateway")
    limit = _limit(metrics, max_callers=10_000)
    refused = 0
    sizes = []
    for number in range(100_000):
        call = Call(caller=Caller(f"jwt:user{number}"))
        for _ in range(2):
            refused += not await _call(limit, call=call)
        if number in (MAX_CALLERS, 99_999):
            sizes.append(sum(len(family.samples) for family in metrics.registry.collect()))

    series = _series(metrics)
    assert len(series) == MAX_CALLERS + 1
    assert sizes[0] == sizes[1]
    assert sum(series.values()) == refused > 100_000
    assert series["jwt:user0"] == 1
    assert "jwt:user99999" not in series
