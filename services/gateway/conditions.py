"""Whether a call is one that a rule is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from services.gateway.rules import ParameterTest, TextTest, WhenConfig

__all__ = ["Condition"]

Value = bool | int | float | str
Holds = Callable[[ModelInferRequest, Call], bool]


class Condition:
    """A `when`, compiled: every test of it has to hold. What a call does not say holds for nothing but `present: false`."""

    def __init__(self, when: WhenConfig) -> None:
        self._tests = tuple(_tests(when))

    def holds(self, request: ModelInferRequest, call: Call) -> bool:
        for test in self._tests:  # noqa: SIM110  # `all` over a generator costs twice as much
            if not test(request, call):
                return False
        return True


def _tests(when: WhenConfig) -> Iterator[Holds]:
    if when.tenant is not None:
        yield _of_tenant(_of_text(when.tenant))
    for key, text in when.metadata.items():
        yield _of_metadata(key, _of_text(text))
    for name, parameter in when.parameters.items():
        yield _of_parameter(name, parameter.present, _of_value(parameter))


def _of_tenant(holds: Callable[[str], bool]) -> Holds:
    return lambda request, call: holds(call.caller.tenant)


def _of_metadata(key: str, holds: Callable[[str], bool]) -> Holds:
    return lambda request, call: holds(call.metadata.get(key, ""))


def _of_parameter(name: str, present: bool | None, holds: Callable[[Value], bool]) -> Holds:
    def test(request: ModelInferRequest, call: Call) -> bool:
        parameters = request.parameters
        if name not in parameters:  # a look-up by index would add it to the caller's message
            return present is False
        parameter = parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        return kind is not None and holds(getattr(parameter, kind))

    return test


def _of_text(test: TextTest) -> Callable[[str], bool]:
    if test.exact is not None:
        exact = test.exact
        return lambda text: text == exact
    if test.prefix is not None:
        prefix = test.prefix
        return lambda text: text.startswith(prefix)
    if test.one_of is not None:
        texts = frozenset(test.one_of)
        return lambda text: text in texts
    present = test.present
    return lambda text: bool(text) is present


def _of_value(test: ParameterTest) -> Callable[[Value], bool]:
    if test.exact is not None:
        exact = _typed(test.exact)
        return lambda value: _typed(value) == exact
    if test.one_of is not None:
        values = frozenset(map(_typed, test.one_of))
        return lambda value: _typed(value) in values
    if test.prefix is not None:
        prefix = test.prefix
        return lambda value: isinstance(value, str) and value.startswith(prefix)
    if test.present is not None:
        present = test.present
        return lambda value: present
    return _within(test)


def _within(test: ParameterTest) -> Callable[[Value], bool]:
    less_than, at_most, more_than, at_least = test.less_than, test.at_most, test.more_than, test.at_least

    def holds(value: Value) -> bool:
        if isinstance(value, bool | str):
            return False
        return (
            # Written so that a NaN, for which every comparison is false, is within no bounds.
            (less_than is None or value < less_than)
            and (at_most is None or value <= at_most)
            and (more_than is None or value > more_than)
            and (at_least is None or value >= at_least)
        )

    return holds


def _typed(value: Value) -> tuple[str, Value]:
    """The value with its kind, since to Python `1 == True`; whole numbers and others compare as numbers, exactly."""
    return "text" if isinstance(value, str) else "truth" if isinstance(value, bool) else "number", value
