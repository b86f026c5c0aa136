"""What a user gets: a wheel that is complete, and a README whose commands are true."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import replkv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the checkout so that nothing is left in it."""
    pytest.importorskip("setuptools", minversion="70.1", reason="builds wheels by itself since then")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("setup.cfg", "pyproject.toml", "pytest_replkv.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "replkv", copy / "replkv", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "replkv").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_the_wheel_has_types_data_and_license(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "replkv/py.typed" in names
    assert "replkv/demo/linux-sysctl.conf" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    parts = {name.split("/")[0] for name in wheel.namelist()}
    assert parts == {"replkv", "pytest_replkv.py", f"replkv-{replkv.__version__}.dist-info"}


def test_the_version_is_written_in_one_place(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"replkv-{replkv.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {replkv.__version__}\n" in metadata
    others = [path for path in (ROOT / "setup.cfg", ROOT / "pyproject.toml") if f'"{replkv.__version__}"' in path.read_text()]
    assert others == []


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    entry_points = wheel.read(f"replkv-{replkv.__version__}.dist-info/entry_points.txt").decode()
    assert "replkv = replkv.__main__:main" in entry_points
    assert "[pytest11]\nreplkv = pytest_replkv" in entry_points


def test_the_data_set_exists_once() -> None:
    example = ROOT / "examples" / "linux-sysctl.conf"
    assert example.resolve() == ROOT / "replkv" / "demo" / "linux-sysctl.conf"


@pytest.mark.parametrize("mark", ["demo", "test"])
def test_the_readme_has_the_two_commands_of_extras_that_exist(mark: str) -> None:
    found = re.search(rf"<!-- {mark} command -->\n```sh\n(.+)\n```", README)
    assert found
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    (extra,) = re.findall(r"'\.\[(\w+)\]'", found[1])
    assert extra in config["options.extras_require"]


def test_the_version_command_tells_the_version() -> None:
    told = subprocess.run([sys.executable, "-m", "replkv", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"replkv {replkv.__version__}\n"
