"""Packages as they were, for the tests that run them beside today's: one for each feature level, with the program that runs a member of it.

``python tests/upgrades/pinned.py`` pins the package of this checkout as the one of its level, ``… pinned.py COMMIT`` that of a commit.  The
archives are a part of the repository, because the tests must do without its history.  The same files make the same bytes.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import zstandard

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM = "tests/integration/member_process.py"
LEFT_OUT = re.compile(r"replkv/(cli|demo)/|replkv/testing/(?!blackbox\.py)")
"""What no member needs; of the tools for tests its program needs one alone."""
TOOLS = "replkv/testing/__init__.py"
SIZE_MAX = 64 << 20
"""Bytes of an archive's files, all together."""


def archives() -> list[Path]:
    """Return the archives there are, the lowest level first."""
    return sorted(HERE.glob("replkv-level-*.tar.zst"), key=lambda path: int(path.name.split("-")[2].split(".")[0]))


def sources(commit: str | None) -> dict[str, bytes]:
    """Return the files to pin, by name."""
    if commit is None:
        found = {str(path.relative_to(ROOT)): path.read_bytes() for path in [*(ROOT / "replkv").rglob("*.py"), ROOT / PROGRAM]}
    else:
        taken = subprocess.run(["git", "archive", commit, "replkv", PROGRAM], cwd=ROOT, capture_output=True, check=True).stdout
        found = _files(taken)
    kept = {name: data for name, data in found.items() if name.endswith(".py") and not LEFT_OUT.match(name)}
    return {**kept, TOOLS: b""}


def pin(commit: str | None) -> Path:
    """Write the archive for the level that these files support, and return where it is."""
    found = sources(commit)
    (level,) = re.findall(rb"^LEVEL: Final = (\d+)$", found["replkv/features.py"], re.MULTILINE)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(found.items()):
            member = tarfile.TarInfo(name)  # nobody's, and of no time
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path = HERE / f"replkv-level-{int(level)}.tar.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=22, write_checksum=True).compress(packed.getvalue()))
    return path


def unpack(archive: Path, into: Path) -> tuple[Path, Path]:
    """Unpack an archive; return the directory that has the package, and the program that runs a member of it."""
    for name, data in _files(zstandard.ZstdDecompressor().decompress(archive.read_bytes(), max_output_size=SIZE_MAX)).items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return into, into / PROGRAM


def _files(packed: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                found[member.name] = file.read()
    return found


if __name__ == "__main__":
    made = pin(sys.argv[1] if sys.argv[1:] else None)
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size} bytes")
