"""The names that a request carries."""

import pytest

from infermesh.errors import InvalidRequest
from infermesh.names import check_model_name, check_version, explained_model


def test_a_model_has_a_name() -> None:
    """An empty model name is the caller's fault, and nothing was started for it."""
    with pytest.raises(InvalidRequest, match="model name: expected the name of a model") as refused:
        check_model_name("")

    assert refused.value.rejected
    check_model_name("iris")


@pytest.mark.parametrize("version", ["", "0", "1", "007", "9" * 18])
def test_a_version_is_a_number_or_left_out(version: str) -> None:
    """Numbers of up to 18 digits and the empty version are taken."""
    check_version("m", version)


@pytest.mark.parametrize("version", ["latest", "1.0", "-1", " 1", "1\n", "٣", "9" * 19, "v1"])
def test_what_is_no_version_is_refused_with_what_would_be_one(version: str) -> None:
    """Anything that is neither a number nor a declared label is INVALID_ARGUMENT."""
    with pytest.raises(InvalidRequest, match=r'model "m": version: expected a number, got "'):
        check_version("m", version)


def test_a_declared_label_stands_for_a_version() -> None:
    """A label is taken when the model declares it; else the refusal lists those that it does declare."""
    check_version("m", "stable", ("stable", "canary"))

    with pytest.raises(InvalidRequest, match="one of its labels stable, canary"):
        check_version("m", "beta", ("stable", "canary"))


@pytest.mark.parametrize(
    ("name", "model"),
    [("fraud-explainer", "fraud"), ("fraud", ""), ("-explainer", ""), ("a-explainer-explainer", "a-explainer")],
)
def test_an_explainer_names_the_model_that_it_explains(name: str, model: str) -> None:
    """One suffix is taken off; a name that is only the suffix explains nothing."""
    assert explained_model(name) == model
