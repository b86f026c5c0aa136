"""What docs/GUARANTEES.md claims rests on tests that exist, and on figures that came out of runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from replkv.testing.history import Violation

sys.path.insert(0, str(Path(__file__).parent))

import evidence

ROOT = Path(__file__).parent.parent
TEXT = evidence.PAGE.read_text(encoding="utf-8")


def test_every_test_that_a_promise_names_exists() -> None:
    named = sorted(set(re.findall(r"`((?:tests|replkv)/[\w./]+)`", TEXT)))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_rule_that_a_promise_names_is_checked() -> None:
    promises = [line for line in TEXT.splitlines() if re.match(r"\| G\d", line)]
    rules = sorted({rule for line in promises for rule in re.findall(r"\b[A-Z]\d\b", line.rsplit("|", 2)[1])})
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "replkv" / "testing").glob("*.py"))
    assert len(rules) > 10
    assert [rule for rule in rules if f'{Violation.__name__}("{rule}"' not in sources and f'"{rule}"' not in sources] == []


def test_the_evidence_is_what_the_runs_reported() -> None:
    assert evidence.page() == TEXT
