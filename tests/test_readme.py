"""The README's example does what it says."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from replkv.demo.processes import free_ports

README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs_as_three_members(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.+?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    example = found[1]
    for written, free in zip(("7420", "7421", "7422"), free_ports(3, random.Random()), strict=True):
        example = example.replace(written, str(free))
    (tmp_path / "app.py").write_text(example, encoding="utf-8")
    members = {name: _start(tmp_path, name) for name in "abc"}
    try:
        for name, member in members.items():
            assert member.stdout is not None
            read, scanned = member.stdout.readline(), member.stdout.readline()
            assert f"started/{name}" in read, _errors(member)
            assert f"started/{name}" in scanned
        for member in members.values():
            _, errors = member.communicate("\n", timeout=30)
            assert (member.returncode, errors) == (0, "")
    finally:
        for member in members.values():
            member.kill()
            member.communicate()


def test_the_second_example_does_what_it_says(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.+?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, timeout=60, cwd=README.parent)
    assert (done.stdout, done.stderr) == ("put services/web/1 10.0.0.1:80\n{'on': True} 1\n", "")


def _start(directory: Path, name: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-u", "app.py", name], subprocess.PIPE
    found_here = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": found_here}
    return subprocess.Popen(command, cwd=directory, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _errors(member: subprocess.Popen[str]) -> str:
    member.kill()
    return member.communicate()[1]
