"""The table of README.md: every case with its sentence, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from conformance_cases import EXPLAINER_GROUPS

FOLDER = Path(__file__).parent


def test_the_table_lists_every_case_with_its_sentence() -> None:
    """Each case has a row in README.md with its id and the first line of its docstring, and each row a case."""
    _, _, table = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## The cases")
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)

    cases = [row for path in sorted(FOLDER.glob("test_*.py")) for row in _cases(path)]
    assert len({name for name, _ in cases}) == len(cases), "two tests have one id"
    assert sorted(rows) == sorted(cases)


def test_every_case_that_is_not_for_all_hops_has_its_reason() -> None:
    """Of the groups for every hop, README.md says why a case is left out on some of them, and names no other case."""
    _, _, told = (FOLDER / "README.md").read_text(encoding="utf-8").partition("these are not for all:")
    reasons = {
        name for line in re.findall(r"^- (.+?): ", told, re.MULTILINE) for name in re.findall(r"`([^`]+)`", line)
    }

    narrowed = {name for path in sorted(FOLDER.glob("test_*.py")) for name in _narrowed(path)}
    assert narrowed
    assert reasons == narrowed


def _narrowed(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "case":
            name = ast.literal_eval(node.args[0])
            if name.startswith(EXPLAINER_GROUPS) and any(one.arg == "hops" for one in node.keywords):
                yield name


def _cases(path: Path) -> Iterator[tuple[str, str]]:
    """The id of each case in a file, with `.<argument>` where it stands for several, and its sentence.

    Read from the source, because a run may leave out the cases of hops that are not under test.
    """
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        for call in getattr(function, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "case":
                name = ast.literal_eval(call.args[0])
                each = next((one.value for one in call.keywords if one.arg == "each"), None)
                argument = f".<{ast.literal_eval(each.keys[0])}>" if isinstance(each, ast.Dict) else ""
                yield name + argument, (ast.get_docstring(function) or "").partition("\n")[0]
