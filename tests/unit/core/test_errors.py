"""The tree of errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh import errors
from infermesh.errors import ForeignStatus, MeshError, NotFound, ResourceExhausted, quoted


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "€" * 341 + "y" * 5, "😀" * 300, "\n" * 2000])
def test_a_message_is_cut_to_a_kibibyte_at_a_character(text: str) -> None:
    """No message is longer than 1 KiB of UTF-8, and no character is cut in two."""
    message = NotFound(text).message

    assert len(message.encode()) <= 1024
    assert message.endswith("…")
    assert text.startswith(message[:-1])


def test_a_message_of_a_kibibyte_stays_whole() -> None:
    """The bound itself is allowed."""
    assert NotFound("é" * 512).message == "é" * 512


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=1500))
def test_every_message_can_be_sent(text: str) -> None:
    """Whatever a text holds, lone surrogates too, its message is UTF-8 of at most 1 KiB."""
    assert len(NotFound(text).message.encode("utf-8")) <= 1024


def test_an_error_says_what_a_program_needs() -> None:
    """Reason, rejection, hop and pushback are kept beside the text; the reason has a default per class."""
    error = ResourceExhausted("full", rejected=True, hop="predictor", retry_after_s=0.5)

    assert (error.code, error.reason, error.rejected, error.hop, error.retry_after_s) == (
        "RESOURCE_EXHAUSTED",
        "OVERLOADED",
        True,
        "predictor",
        0.5,
    )
    assert str(error) == error.message == "full"
    assert ResourceExhausted("full", reason="QUEUE_FULL").reason == "QUEUE_FULL"


def test_codes_are_of_one_class_each() -> None:
    """A code leads back to its class."""
    codes = [kind.code for kind in MeshError.__subclasses__() if kind is not ForeignStatus]

    assert len(set(codes)) == len(codes) == len(errors.__all__) - 4


def test_a_foreign_status_keeps_its_own_code() -> None:
    """A code that has no class here is a property of the one error, not of all of them."""
    aborted, lost = ForeignStatus("ABORTED", "a"), ForeignStatus("DATA_LOSS", "b", reason="DISK", rejected=True)

    assert (aborted.code, aborted.reason) == ("ABORTED", "ABORTED")
    assert (lost.code, lost.reason, lost.rejected) == ("DATA_LOSS", "DISK", True)


@given(st.one_of(st.text(), st.binary()), st.integers(1, 80))
def test_what_a_caller_sent_is_quoted_safely(text: str | bytes, limit: int) -> None:
    """A quotation is printable ASCII on one line, shortened, and in double quotes."""
    result = quoted(text, limit)

    assert result.isascii() and result.isprintable()
    assert result[0] == result[-1] == '"'
    assert len(json.loads(result)) <= 4 * limit + 8  # a byte that is no UTF-8 takes four characters


def test_a_long_quotation_says_that_it_was_cut() -> None:
    """An ellipsis stands for what is left out, and only then."""
    assert json.loads(quoted("a" * 64)) == "a" * 64
    assert json.loads(quoted("a" * 65)) == "a" * 64 + "…"
    assert quoted("a\n\x1b[31m") == '"a\\n\\u001b[31m"'
    assert quoted(b"\xff\x00a") == '"\\\\xff\\u0000a"'
