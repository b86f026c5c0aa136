"""The fixtures of the pytest plugin, in runs of pytest of their own, and the example that uses them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "testing_a_worker"

TESTS = """
import asyncio
import sys

import pytest


def test_nothing_heavy_is_imported():
    assert "replkv" not in sys.modules


def test_a_cluster(replkv_cluster, replkv_seed):
    assert replkv_cluster.seed == replkv_seed
    replkv_cluster["a"].put("key", "value")
    assert replkv_cluster["c"].get("key").text == "value"


@pytest.mark.replkv(members=5, patience=60)
def test_a_larger_one(replkv_cluster):
    assert len(replkv_cluster.members) == 5


def test_tasks(replkv_async_cluster):
    async def main():
        await asyncio.sleep(10)
        await replkv_async_cluster["a"].put("key", "value")

    replkv_async_cluster.run(main())


@pytest.mark.parametrize("reason", ["one", "two"])
def test_that_fails(replkv_cluster, reason):
    replkv_cluster.kill("b")
    assert reason == "two"


@pytest.mark.replkv(5)
def test_with_a_wrong_marker(replkv_cluster):
    pass
"""


def run(directory: Path, *arguments: str) -> tuple[str, str]:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-p", "pytest_replkv"]
    done = subprocess.run([*command, *arguments], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=100)
    return done.stdout, done.stderr


def test_tests_get_clusters_and_failures_tell_the_seed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    told, errors = run(tmp_path, "--strict-markers")
    assert "1 failed, 5 passed, 1 error" in told, told + errors
    assert "the marker replkv takes named arguments, such as members=5" in told
    found = re.search(
        r"- replkv_cluster -.*\n<Cluster seed (\d+), at .*; b is down; .*>\nto see it again: pytest '(.+)' --replkv-seed=(\d+)", told
    )
    assert found, told
    assert found[1] == found[3]
    assert found[2] == "test_it.py::test_that_fails[one]"
    again, errors = run(tmp_path, found[2], f"--replkv-seed={found[1]}")
    assert found[0].splitlines()[1] in again, again + errors


def test_a_test_is_run_under_many_seeds(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    told, errors = run(tmp_path, "--replkv-seeds=3", "-k", "cluster or fails")
    assert "3 failed, 6 passed" in told, told + errors
    assert "to see it again: pytest 'test_it.py::test_that_fails[one]' --replkv-seed=2" in told


def test_the_example_finds_what_is_wrong_with_two_workers() -> None:
    told, errors = run(EXAMPLE, "--replkv-seeds=3")
    assert "18 passed" in told, told + errors


def test_neither_replkv_nor_its_simulator_imports_pytest() -> None:
    script = "import sys, replkv.testing; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_story_is_the_same_whatever_the_hash_seed() -> None:
    script = (
        "from replkv.testing import Cluster\n"
        "with Cluster(5, seed=3) as c:\n"
        "    c.partition({'a', 'b'}, {'c', 'd', 'e'})\n"
        "    with c.wait_for_leader().lock('job') as lock:\n"
        "        c.heal(); c.expire(c['b'].lease(3)); c.advance(1)\n"
        "    print(c.fingerprint)\n"
    )
    stories = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(stories) == 1


def test_what_the_guide_shows_is_true(tmp_path: Path) -> None:
    readme, guide = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/TESTING.md"))
    blocks = re.findall(r"```python\n(.+?)```", guide, re.DOTALL)
    blocks += re.findall(r"```python\n(def test_.+?)```", readme, re.DOTALL)
    (tmp_path / "test_it.py").write_text("\n\n".join(blocks), encoding="utf-8")
    told, errors = run(tmp_path, "--strict-markers", "--replkv-seeds=2")
    assert "11 passed" in told, told + errors
