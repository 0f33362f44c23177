"""A comparison that is reported on again, judged by other settings, or read back: what is reckoned anew, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.compare.comparison import OtherState
from services.gateway.compare.psi import PsiTest, psi_test
from services.gateway.compare_config import CompareConfig
from tests.unit.gateway.compare.pairs import FRAUD, compared, fraud, pair, planted, same_model

QUICK = {"bin_from": 100}


def test_a_report_stands_until_pairs_come() -> None:
    """It is reckoned once, however often it is asked for."""
    comparison = compared(same_model(3, 0.0, 20, 4))
    first = comparison.report()

    assert comparison.report() is first
    comparison.add(pair(fraud(0.2), fraud(0.2)))
    assert comparison.report().pairs == 21


def test_columns_that_wait_for_their_test_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One report does only so much; the next one goes on, and they are a note until then."""
    monkeypatch.setattr("services.gateway.compare.shifts.AT_ONCE", 1)
    comparison = compared(planted(3, 300, shift=0.4), **QUICK)
    for waiting in (2, 1):
        said = comparison.report()
        assert any(
            f"distributions of {waiting} column" in each and "yet to be tested" in each for each in said.verdict.notes
        )

    last = comparison.report()

    assert not any("yet to be tested" in each for each in last.verdict.notes)
    assert all(each.p is not None for each in last.shifts)
    assert comparison.report() is last


def test_an_alpha_that_redraws_cannot_reach_is_told() -> None:
    """A shift could never be a finding then."""
    said = compared(same_model(3, 0.0, 300, 40), alpha=1e-5, **QUICK).report()

    assert any("alpha is too small for distributions" in each for each in said.verdict.notes)


def test_nothing_is_redrawn_while_a_state_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of distributions may take long; they are made when a report is asked for."""
    state = compared(planted(3, 300, shift=0.4), **QUICK).state()
    made = []

    def counting(*args: Any, **options: Any) -> PsiTest:
        made.append(args)
        return psi_test(*args, **options)

    monkeypatch.setattr("services.gateway.compare.shifts.psi_test", counting)
    comparison = compared(iter(()), **QUICK)
    comparison.restore(state)
    assert made == []

    comparison.report()

    assert len(made) == 3


def test_other_settings_to_judge_by_keep_what_was_counted() -> None:
    """Those that count otherwise are refused, and nothing changes; those that judge hold from the next report on."""
    comparison = compared(planted(3, 300, shift=0.4), **QUICK)
    before = comparison.report()

    assert not comparison.adopt(CompareConfig(**{**FRAUD, **QUICK, "atol": 0.5}))
    assert comparison.report() is before
    assert comparison.adopt(CompareConfig(**{**FRAUD, **QUICK, "min_pairs": 301, "worst": 2}))

    after = comparison.report()
    assert (before.verdict.state, after.verdict.state) == ("differs", "not enough")
    assert after.worst == before.worst[:2]


@pytest.mark.parametrize("cell", [[999, 0, 1], [-1, 0, 1], [0, 1, -1]])
def test_a_cell_that_no_table_has_is_damage(cell: list[int]) -> None:
    """It is seen when the state is read, and not when somebody asks for a report."""
    state = compared(planted(14, 300), **QUICK).state()
    state["shifts"]["columns"][1]["shift"]["table"].append(cell)

    with pytest.raises(OtherState, match="was damaged"):
        compared(iter(()), **QUICK).restore(state)
