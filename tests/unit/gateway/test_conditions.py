"""Tests of which calls a rule is about."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from infermesh.call import Call, Caller
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest
from services.gateway.conditions import Condition
from services.gateway.routes import RuleConfig, WhenConfig


def _holds(when: dict[str, Any], call: Call | None = None, **parameters: Any) -> bool:
    request = ModelInferRequest()
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}.get(type(value))
        request.parameters[name].CopyFrom(InferParameter(**{kind: value}) if kind else value)
    before = request.SerializeToString(deterministic=True)

    held = Condition(WhenConfig.model_validate(when)).holds(request, call or Call())

    assert request.SerializeToString(deterministic=True) == before
    return held


@pytest.mark.parametrize(
    ("test", "text", "holds"),
    [
        ("acme", "acme", True),
        ("acme", "acm", False),
        (["acme", "globex"], "globex", True),
        (["acme", "globex"], "", False),
        ({"prefix": "ac"}, "acme", True),
        ({"prefix": "ac"}, "bac", False),
        ({"present": True}, "x", True),
        ({"present": True}, "", False),
        ({"present": False}, "", True),
        ({"present": False}, "x", False),
    ],
)
def test_texts_are_compared_whole_by_prefix_or_with_several(test: Any, text: str, holds: bool) -> None:
    """The tenant and metadata go by the same tests; a text alone stands for itself, a list for one of it."""
    assert _holds({"tenant": test}, Call(caller=Caller(tenant=text))) is holds
    assert _holds({"metadata": {"x-region": test}}, Call(metadata={"x-region": text} if text else {})) is holds


@pytest.mark.parametrize(
    ("test", "value", "holds"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1, InferParameter(uint64_param=1), True),
        (1, True, False),
        (1, "1", False),
        (True, True, True),
        (True, 1, False),
        ("1", "1", True),
        ("1", 1, False),
        ([1, "web"], "web", True),
        ([1, "web"], True, False),
        ({"prefix": "we"}, "web", True),
        ({"prefix": "1"}, 1, False),
        ({"at_least": 1000, "less_than": 5000}, 1000, True),
        ({"at_least": 1000, "less_than": 5000}, 4999.9, True),
        ({"at_least": 1000, "less_than": 5000}, 5000, False),
        ({"more_than": 0}, "1", False),
        ({"more_than": 0}, True, False),
        ({"at_most": 2**63}, InferParameter(uint64_param=2**63 + 1), False),
        ({"at_most": 1}, math.nan, False),
        ({"present": True}, False, True),
        ({"present": False}, 1, False),
        (1, InferParameter(), False),
    ],
)
def test_parameters_are_compared_by_kind(test: Any, value: Any, holds: bool) -> None:
    """A number is no text and no truth value; whole numbers and others compare as numbers; a NaN is within no bounds."""
    assert _holds({"parameters": {"p": test}}, p=value) is holds


def test_every_test_has_to_hold() -> None:
    """Tenant, metadata and parameters together; what is not there holds for nothing but that it is not there."""
    when = {"tenant": "acme", "metadata": {"x-region": "eu"}, "parameters": {"n": {"at_least": 1}}}
    call = Call(caller=Caller(tenant="acme"), metadata={"x-region": "eu"})

    assert _holds(when, call, n=1)
    assert not _holds(when, call)
    assert not _holds(when, Call(caller=Caller(tenant="acme")), n=1)
    assert not _holds(when, Call(metadata=call.metadata), n=1)
    assert _holds({"parameters": {"n": {"present": False}}})


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({}, "at least one test"),
        ({"tenant": {}}, "exactly one of"),
        ({"tenant": {"exact": "a", "prefix": "b"}}, "exactly one of"),
        ({"tenant": {"exact": None}}, "exactly one of"),
        ({"tenant": []}, "at least 1 item"),
        ({"tenant": ""}, "at least 1 character"),
        ({"metadata": {"authorization": "x"}}, "credentials"),
        ({"metadata": {"x-api-key": {"present": True}}}, "credentials"),
        ({"metadata": {"cookie": "x"}}, "credentials"),
        ({"metadata": {"x-infermesh-tenant": "x"}}, "credentials"),
        ({"metadata": {"image-bin": "x"}}, "credentials"),
        ({"metadata": {"X-Region": "x"}}, "pattern"),
        ({"metadata": {"": "x"}}, "an empty one"),
        ({"parameters": {"": 1}}, "at least 1 character"),
        ({"parameters": {"n": {"at_least": "5"}}}, "at_least"),
        ({"parameters": {"n": {"at_least": math.nan}}}, "finite"),
        ({"parameters": {"n": {"at_least": 5, "at_most": 4}}}, "a number in between"),
        ({"parameters": {"n": {"at_least": 5, "less_than": 5}}}, "a number in between"),
        ({"parameters": {"n": {"at_least": 5, "more_than": 5}}}, "at most one bound below"),
        ({"parameters": {"n": {"at_least": 5, "exact": 5}}}, "or bounds"),
        ({"parameters": {f"p{n}": 1 for n in range(17)}}, "at most 16 tests"),
        ({"host": "x"}, "Extra inputs"),
    ],
)
def test_faults_of_a_condition_are_refused(when: dict[str, Any], words: str) -> None:
    """What could never hold, looks at credentials, or says two things at once is a fault of the file."""
    with pytest.raises(ValidationError, match=words):
        WhenConfig.model_validate(when)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "either variant or weights"),
        ({"variant": "a", "weights": {"a": 1}}, "either variant or weights"),
        ({"weights": {"a": 0}}, "one over 0"),
        ({"weights": {"a": 1e308, "b": 1e308}}, "a sum that is a number"),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"variant": "a", "name": "A B"}, "name"),
    ],
)
def test_faults_of_a_rule_are_refused(rule: dict[str, Any], words: str) -> None:
    """A rule gives a variant or weights, and somebody answers."""
    with pytest.raises(ValidationError, match=words):
        RuleConfig.model_validate({"when": {"tenant": "acme"}} | rule)


def test_a_number_between_equal_bounds_is_found() -> None:
    """Bounds that both include the same number hold for it."""
    assert _holds({"parameters": {"n": {"at_least": 5, "at_most": 5}}}, n=5)
