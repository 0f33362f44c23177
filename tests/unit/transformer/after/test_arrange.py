"""Outputs renamed, dropped and kept, and answers that nothing is done to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.call import Call
from infermesh.errors import Internal
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_outputs, read_outputs
from services.transformer.after.after_model import AfterModel
from services.transformer.after.answer import Answer, Held, Words
from services.transformer.after.bind import bound, followed
from services.transformer.after.course import Course
from services.transformer.after.declared import StepConfig
from services.transformer.after.outputs import Outputs, OutputType

OUTPUTS = {name: np.full(2, at, np.float32) for at, name in enumerate("abc")}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"rename": {"a": "b", "b": "a"}}, {"b": 0, "a": 1, "c": 2}),
        ({"rename": {"b": "x"}}, {"a": 0, "x": 1, "c": 2}),
        ({"drop": ["a", "c"]}, {"b": 1}),
        ({"keep": ["c", "a"]}, {"a": 0, "c": 2}),
    ],
)
async def test_outputs_keep_their_order(
    answered: Any, raw: bool, step: dict[str, Any], expected: dict[str, int]
) -> None:
    """Renamed ones stay in their place, two may be exchanged, and those that are kept stand as they stood."""
    outputs = await answered(OUTPUTS, step, raw=raw)

    assert list(outputs) == list(expected)
    assert [int(array[0]) for array in outputs.values()] == list(expected.values())


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"rename": {"x": "y"}}, '"x": is not in the model\'s answer, and is to be renamed'),
        ({"rename": {"a": "b"}}, '"b": is the new name of another output, and is in the answer too'),
        ({"keep": ["a", "x"]}, '"x": is not in the model\'s answer, and is to be kept'),
    ],
)
async def test_an_answer_that_does_not_fit(answered: Any, step: dict[str, Any], words: str) -> None:
    """An output that is not there, or a name that is taken, is INTERNAL: nothing takes another's place silently."""
    with pytest.raises(Internal, match=words):
        await answered(OUTPUTS, step)


async def test_what_stands_beside_the_outputs_stays(
    after_of: Callable[..., AfterModel], model_of: Callable[..., Any]
) -> None:
    """Parameters of the response and of its outputs, id and version, and fields that nobody knows."""
    model = model_of(OUTPUTS)
    response = await model.infer(pb.ModelInferRequest(model_name="m", id="7"), Call())
    response.outputs[1].parameters["unit"].string_param = "EUR"
    response.outputs[1].MergeFromString(b"\xfa\x07\x01z")
    response.MergeFromString(b"\xfa\x07\x01u")
    before = pb.ModelInferResponse()
    before.CopyFrom(response)
    answer = Answer(response, set(), Words(()), model="m")
    (renaming,) = bound([StepConfig(rename={"b": "x"})])

    renaming.step.apply(answer)
    written = answer.write(())

    before.outputs[1].name = "x"
    assert written.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


async def test_a_float16_output_takes_the_others_with_it(after_of: Callable[..., AfterModel]) -> None:
    """It travels raw alone, and never beside typed ones: the whole answer is raw then."""
    response = pb.ModelInferResponse()
    add_outputs(response, [("a", "FP32", np.ones(2, np.float32)), ("t", "BYTES", np.array([b"x"], object))], raw=False)
    response.outputs[0].parameters["unit"].string_param = "EUR"
    answer = Answer(response, set(), Words(()), model="m")

    answer.add("half", Held("FP16", np.ones(2, np.float16)))
    written = answer.write(())

    assert len(written.raw_output_contents) == 3
    assert not any(output.HasField("contents") for output in written.outputs)
    assert written.outputs[0].parameters["unit"].string_param == "EUR"
    assert [array.tolist() for array in read_outputs(written).values()] == [[1, 1], [b"x"], [1, 1]]


@pytest.mark.parametrize("raw", [True, False])
async def test_answers_that_break_the_protocol(after_of: Callable[..., AfterModel], raw: bool) -> None:
    """The same output twice, contents that are too short: INTERNAL, and not the caller's fault."""
    twice = pb.ModelInferResponse()
    add_outputs(twice, [("a", "FP32", np.ones(2)), ("a", "FP32", np.ones(2))], raw=raw)
    short = pb.ModelInferResponse()
    add_outputs(short, [("a", "FP32", np.ones(2))], raw=raw)
    short.outputs[0].shape[:] = [3]

    for response, words in ((twice, "is twice in the model's answer"), (short, "the model's answer can't be read")):
        with pytest.raises(Internal, match=words):
            Answer(response, {"a"}, Words(()), model="m")
    short.raw_output_contents.extend([b"", b""])
    with pytest.raises(Internal, match="raw contents for 1 outputs"):
        Answer(short, {"a"}, Words(()), model="m")


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
STEPS = st.one_of(
    st.dictionaries(NAMES, NAMES, min_size=1, max_size=3)
    .filter(lambda names: len(set(names.values())) == len(names))
    .map(lambda names: {"rename": names}),
    st.lists(NAMES, min_size=1, max_size=2, unique=True).map(lambda names: {"drop": names}),
    st.lists(NAMES, min_size=1, max_size=4, unique=True).map(lambda names: {"keep": names}),
    st.builds(lambda of, to: {"top_k": {"of": of, "k": 1, "values": to, "classes": f"{to}_at"}}, NAMES, NAMES),
    st.builds(lambda of: {"calibrate": {"of": of, "column": 0, "platt": {"a": -1, "b": 0}}}, NAMES),
)


@given(st.lists(STEPS, min_size=1, max_size=5), st.data())
def test_who_names_outputs_gets_what_all_would_have_been(steps: list[dict[str, Any]], data: st.DataObject) -> None:
    """Any steps that fit the model: the metadata tell the outputs, which are the same however few are asked for."""
    bounded = bound([StepConfig.model_validate(step) for step in steps])
    rows = {name: np.array([[at + 1, at, at]], np.float32) for at, name in enumerate("abc")}
    told = followed(bounded, Outputs({name: OutputType("FP32", (-1, 3)) for name in rows}))
    if told.faults:
        return  # the file does not fit the model, and the transformer says so

    def done(course: Course, names: list[str]) -> dict[str, Any]:
        response = pb.ModelInferResponse()
        add_outputs(response, [(name, "FP32", rows[name]) for name in names], raw=True)
        if not course.steps:
            return {name: array.tolist() for name, array in read_outputs(response).items()}
        answer = Answer(response, course.takes, Words(()), model="m", is_whole=not course.wanted)
        for step in course.steps:
            step.apply(answer)
        return {name: array.tolist() for name, array in read_outputs(answer.write(course.wanted)).items()}

    whole = done(Course(bounded, ()), list(rows))
    assert list(whole) == list(told.known)
    if not whole:
        return
    wanted = data.draw(st.lists(st.sampled_from(list(whole)), min_size=1, max_size=4))
    course = Course(bounded, wanted)

    assert set(course.asked) <= set(rows)
    chosen = done(course, course.asked)
    assert list(chosen) == list(dict.fromkeys(wanted))
    assert chosen == {name: whole[name] for name in wanted}
