"""Request parameters."""

import pytest

from infermesh.errors import InvalidRequest
from infermesh.parameters import check_parameters, unsigned
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest


def request(**parameters: InferParameter) -> ModelInferRequest:
    return ModelInferRequest(model_name="m", parameters=parameters)


def test_all_five_kinds_and_unknown_names_are_accepted() -> None:
    """Parameters are the caller's own, whatever their kind, zero values too."""
    message = request(
        a=InferParameter(bool_param=False),
        b=InferParameter(int64_param=-1),
        c=InferParameter(string_param=""),
        d=InferParameter(double_param=0.0),
        e=InferParameter(uint64_param=2**64 - 1),
    )

    check_parameters(message)


@pytest.mark.parametrize("owner", ["request", "input", "output"])
def test_a_parameter_without_a_value_is_refused_where_it_stands(owner: str) -> None:
    """An unset parameter is refused on the request, an input and an output, by name."""
    message = ModelInferRequest(model_name="m")
    holder = {
        "request": lambda: message,
        "input": lambda: message.inputs.add(name="x"),
        "output": lambda: message.outputs.add(name="x"),
    }[owner]()
    holder.parameters["p"].SetInParent()

    with pytest.raises(InvalidRequest, match=rf'{owner}.*parameter "p": expected a value, got none') as refused:
        check_parameters(message)

    assert refused.value.reason == "PARAMETER_UNSET"


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("value", [InferParameter(uint64_param=7), InferParameter(int64_param=7)])
def test_reserved_numbers_are_unsigned_of_either_kind(name: str, value: InferParameter) -> None:
    """Both integer kinds serve, as clients send both."""
    message = request(**{name: value})

    check_parameters(message)

    assert unsigned(message, name) == 7


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize(
    ("value", "came"),
    [
        (InferParameter(int64_param=-1), "int64_param -1"),
        (InferParameter(string_param="x" * 500), "string_param 'xxx"),
        (InferParameter(double_param=1.0), "double_param 1.0"),
        (InferParameter(bool_param=True), "bool_param True"),
    ],
)
def test_a_reserved_number_of_another_kind_is_refused(name: str, value: InferParameter, came: str) -> None:
    """Negative and other values are named, shortened."""
    with pytest.raises(InvalidRequest, match=f'parameter "{name}": expected a uint64.*got {came}') as refused:
        check_parameters(request(**{name: value}))

    assert len(refused.value.message) < 300
