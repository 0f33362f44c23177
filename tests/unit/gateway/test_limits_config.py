"""Tests of the limits' settings: what is wrong is told with what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from infermesh.call import Call, Caller
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limits_config import RateLimitConfig

RULE = {"name": "a", "rate": 1, "burst": 1, "store": "local"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rules": [RULE, RULE]}, "the name a stands 2 times"),
        ({"rules": [{**RULE, "name": "default"}]}, "is that of `rate` and `burst`"),
        ({"rules": [{**RULE, "store": "redis"}]}, r"redis\.url: expected an address.*rules a"),
        ({"rules": [{**RULE, "rate": 1e-9}]}, "takes 11574 days to refill"),
        ({"rate": 1e-4, "burst": 10**6}, "more than 31 days"),
        ({"rules": [{**RULE, "per": ["tenant", "tenant"]}]}, "once at most"),
        ({"rules": [{**RULE, "per": ["color"]}]}, "'tenant', 'model', 'caller' or 'host'"),
        ({"rules": [{**RULE, "cost": "tokens"}]}, "'request', 'rows' or 'bytes'"),
        ({"rules": [{**RULE, "burst": 0}]}, "greater than or equal to 1"),
        ({"rules": [{**RULE, "match": {"modle": "x"}}]}, "modle"),
        ({"redis": {"url": "http://x"}}, "redis://, rediss://, unix://"),
        ({"redis": {"url": "redis+sentinel://x"}}, "the primary's name"),
        ({"redis": {"url": "redis://x", "ca": "roots.pem"}}, "ca: expected a url with TLS"),
        ({"redis": {"url": "redis://x", "sentinel_password": "p"}}, "sentinel_password: expected a url of Sentinels"),
        ({"redis": {"key_prefix": "a}b"}}, "pattern"),
        ({"redis": {"timeout": 3}}, "a duration with its unit"),
    ],
)
def test_what_can_not_be_meant_is_refused(config: dict[str, Any], words: str) -> None:
    """Each fault is told where it is, with what would be right."""
    with pytest.raises(ValidationError, match=words):
        RateLimitConfig.model_validate(config)


def test_a_rule_that_is_off_needs_no_store() -> None:
    """What is off is not there, and neither is what it would need."""
    off = RateLimitConfig.model_validate({"rules": [{**RULE, "store": "redis", "mode": "off"}]})

    assert [rule.name for rule in rules_of(off)] == ["default"]


@pytest.mark.parametrize(
    ("match", "model", "tenant", "fits"),
    [
        ({}, "fraud", "acme", True),
        ({"model": "fraud"}, "fraud", "acme", True),
        ({"model": "fraud"}, "fraud-explainer", "acme", False),
        ({"model": "fraud*"}, "fraud-explainer", "acme", True),
        ({"model": "fr*"}, "fraud", "acme", True),
        ({"model": "*"}, "card", "acme", True),
        ({"model": "fraud"}, "", "acme", False),
        ({"tenant": "acme"}, "card", "acme", True),
        ({"tenant": "acme"}, "card", "other", False),
        ({"tenant": "acme", "model": "card"}, "fraud", "acme", False),
        ({"caller": "demo"}, "card", "acme", True),
        ({"caller": "someone"}, "card", "acme", False),
    ],
)
def test_a_rule_counts_the_calls_that_it_matches(match: dict[str, str], model: str, tenant: str, fits: bool) -> None:
    """Everything that is named has to fit; other rules' patterns beside it change nothing."""
    others = [{**RULE, "name": f"o{at}", "match": {"model": each}} for at, each in enumerate(["fraud*", "c*", "card"])]
    config = RateLimitConfig.model_validate({"rate": None, "rules": [{**RULE, "match": match}, *others]})

    plan = Plans(rules_of(config)).of(model, Call(caller=Caller("demo", tenant=tenant)))

    assert ("a" in [level.rule.name for level in plan.local]) is fits


def test_each_that_a_rule_is_per_has_a_key_of_its_own() -> None:
    """No name, whatever is in it, gives the key of another; and a name without end is a digest."""
    config = RateLimitConfig.model_validate({"rate": None, "rules": [{**RULE, "per": ["tenant", "caller"]}]})
    plans = Plans(rules_of(config))
    names = [
        ("a", "b:c"),
        ("a:b", "c"),
        ("a%3Ab", "c"),
        ("a", "x" * 5000),
        ("a", "x" * 5001),
        ("", "a"),
        ("ü\ud800", "a"),
    ]

    keys = [plans.of("m", Call(caller=Caller(name, tenant=tenant))).local[0].key for tenant, name in names]

    assert len(set(keys)) == len(names)
    assert max(map(len, keys)) < 200
