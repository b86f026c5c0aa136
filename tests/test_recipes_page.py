"""The examples of docs/RECIPES.md are one program that does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from replkv.recipes import Recipes

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "RECIPES.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other() -> None:
    program = "\n".join(re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "nobody leads",
        "None",
        "{'page': 2}",
        "alarm",
        "1000 range(1001, 1011)",
        "2000",
        "{'web-1': {'port': 8081}}",
        "five more at once",
    ]


def test_every_recipe_has_its_section_in_the_order_of_the_calls() -> None:
    recipes = [name for name in vars(Recipes) if not name.startswith("_")]
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == recipes
