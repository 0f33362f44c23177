"""Lines of the audit, and docs/audit.md, which says what is in one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infermesh.call import Caller
from infermesh.journal import Journal
from services.gateway.audit.entry import Entry
from services.gateway.audit.line import SCHEMA, line_of

PAGE = Path(__file__).parents[4] / "docs/audit.md"
TYPES = {
    "text": str,
    "number": int | float,
    "boolean": bool,
    "list": list,
    "object": dict,
    "object or null": dict | None,
}


def entry(**changed):
    journal = changed.pop("journal", None) or Journal("ModelInfer")
    known = {
        "journal": journal,
        "ended": journal.started + 0.0125,
        "wall": 1_700_000_000.5,
        "request_id": "r1",
        "trace": {},
        "caller": Caller("demo", tenant="acme"),
        "peer": "ipv4:10.0.0.7:1",
        "model": "fraud",
        "route": "fraud",
        "answered": "fraud",
        "version": "3",
        "variant": "stable",
        "fallback": "",
        "code": "OK",
        "reason": "",
        "hop": "",
        "request_bytes": 10,
        "response_bytes": 20,
    }
    return Entry(**{**known, **changed})


def test_the_page_has_every_key_in_its_order_and_of_its_type():
    """The table of docs/audit.md: what it says is what there is, for a line in which everything is filled."""
    journal = Journal("ModelInfer")
    journal.attempted("predictor", "OK", 1.0, 1.01, "10.0.0.1:8001")
    journal.fallback_for = ("UNAVAILABLE", "AWAY")
    journal.shadows.append("candidate")
    line = json.loads(line_of(entry(journal=journal)))
    found = {}

    def walk(prefix, fields):
        for key, value in fields.items():
            found[prefix + key] = value
            inside = value[0] if isinstance(value, list) and value else value
            if isinstance(inside, dict):
                walk(f"{prefix}{key}{'[]' if isinstance(value, list) else ''}.", inside)

    walk("", line)
    section = PAGE.read_text().split("## What is in a line", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", section, re.MULTILINE)

    assert [key for key, _ in rows] == list(found)
    assert all(isinstance(found[key], TYPES[kind]) for key, kind in rows)
    assert f"schema {SCHEMA}" in section


def test_the_time_is_when_the_call_came():
    line = json.loads(line_of(entry()))

    assert line["time"] == "2023-11-14T22:13:20.487Z"
    assert line["ms"]["whole"] == 12.5


@given(st.text(max_size=300), st.text(max_size=300))
def test_nothing_that_is_sent_ends_a_line(sent, id_):
    """Quotes, newlines, U+2028, lone surrogates: always one line of ASCII, and the same text when it is read."""
    line = line_of(
        entry(model=sent[:256], request_id=id_, trace={"traceparent": sent}, reason=sent, caller=Caller(sent))
    )

    assert line.isascii()
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and b"\r" not in line
    read = json.loads(line)
    assert read["model"] == sent[:256]
    assert read["request_id"] == id_[:128]


def test_lines_are_bounded():
    """Whatever is sent: names, ids and lists are cut, so that a batch of lines has a bound too."""
    journal = Journal("ModelInfer")
    for number in range(1000):
        journal.attempted("predictor", "UNAVAILABLE", 1.0, 1.001, "e" * 1000)
        journal.shadows.append(f"shadow-{number}")
    long = "\U0001f600" * 10_000
    names = dict.fromkeys(("request_id", "peer", "answered", "version", "variant", "reason", "hop", "fallback"), long)

    line = line_of(entry(journal=journal, caller=Caller(long, tenant=long), **names))

    assert len(line) < 50_000
