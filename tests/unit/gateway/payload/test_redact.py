"""Values that are hidden."""

from __future__ import annotations

import hashlib
import hmac

from services.gateway.payload.redact import Redaction

SALT = b"0123456789abcdef"


def tensors(**data):
    return [{"name": name, "datatype": "?", "shape": [len(values)], "data": values} for name, values in data.items()]


def hidden(rules, salt=SALT, **data):
    found = tensors(**data)
    Redaction([{"name": name, "how": how} for name, how in rules], salt).hide(found)
    return {each["name"]: (each["data"], each.get("redacted", "")) for each in found}


def test_the_first_rule_that_fits_counts():
    """A list of what may be seen: whatever else there is, or will be, is hidden."""
    found = hidden([("amount", "keep"), ("*", "mask")], amount=[1.5], name=["Ada"], new=[1])

    assert found == {"amount": ([1.5], ""), "name": ("REDACTED", "mask"), "new": ("REDACTED", "mask")}


def test_without_a_rule_that_fits_values_are_kept():
    assert hidden([("card_*", "mask")], card_number=["4"], discard=["5"]) == {
        "card_number": ("REDACTED", "mask"),
        "discard": (["5"], ""),
    }


def test_another_spelling_does_not_get_by_a_rule():
    """Upper case, and a character that nobody sees."""
    found = hidden([("secret", "mask")], **{"Secret": ["1"], "SECRET": ["2"], "secret\0": ["3"], "secrets": ["4"]})

    assert {name for name, (_, how) in found.items() if how == "mask"} == {"Secret", "SECRET", "secret\0"}


def test_hashes_can_be_joined_by():
    """HMAC-SHA-256 of the value as text; a number and its text are the same id, in any tensor."""
    found = hidden([("*id", "hash")], user_id=[42, 7, 42], other_id=["42"])

    expected = hmac.new(SALT, b"42", hashlib.sha256).hexdigest()
    (first, second, third), how = found["user_id"]
    assert first == third == expected == found["other_id"][0][0]
    assert second != first
    assert how == "hash"


def test_another_salt_makes_other_hashes():
    rules = [("*", "hash")]

    assert hidden(rules, id=[42]) != hidden(rules, salt=b"another salt 123", id=[42])


def test_names_that_are_made_up_do_not_grow_it():
    redaction = Redaction([{"name": "a*", "how": "mask"}], SALT)

    for number in range(25_000):
        redaction.hide(tensors(**{f"a{number}": [1]}))

    assert len(redaction._known) <= 10_000
