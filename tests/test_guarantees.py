"""What docs/GUARANTEES.md claims rests on tests that exist, on rules that are checked, and on figures that came out of runs."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import evidence

ROOT = Path(__file__).parent.parent
TEXT = evidence.PAGE.read_text(encoding="utf-8")


def test_every_test_that_a_promise_names_exists() -> None:
    named = sorted(set(re.findall(r"`((?:tests|replkv)/[\w./]+)`", TEXT)))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def rules_of(path: Path) -> Iterator[str]:
    """The rules that a module can blame: what it calls ``Violation`` or ``_blame`` with; ``cycles.py`` composes the names of its own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Violation", "_blame"):
            yield from (str(rule.value) for rule in node.args[:1] if isinstance(rule, ast.Constant))
        elif path.name == "cycles.py" and isinstance(node, ast.Constant) and re.fullmatch(r"G[\w-]{1,9}", str(node.value)):
            yield str(node.value)


CHECKERS = ("replkv/testing", "tests/crash_points", "tests/torture")
RULES = {rule for folder in CHECKERS for path in (ROOT / folder).rglob("*.py") for rule in rules_of(path)}


def test_every_rule_that_a_promise_names_is_checked() -> None:
    promises = [line for line in TEXT.splitlines() if re.match(r"\| G\d", line)]
    named = {rule for line in promises for rule in re.findall(r"\b[A-Z]\d\b|`liveness`", line.rsplit("|", 2)[1])}
    assert len(named) > 10
    assert {rule.strip("`") for rule in named} <= RULES


def test_the_page_of_rules_has_those_that_are_checked_and_no_others() -> None:
    explained = re.findall(r"^\| ([\w-]+) \| .+\. \|$", (ROOT / "docs" / "RULES.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(explained) == sorted(RULES)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_a_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


def test_no_recorded_run_failed() -> None:
    assert [name for name, report in evidence.recorded().items() if report[evidence.STATUS] != 0] == []


def test_the_evidence_is_what_the_runs_reported() -> None:
    assert evidence.page() == TEXT
