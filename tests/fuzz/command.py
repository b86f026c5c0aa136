"""Fuzz the readers: ``python tests/fuzz [--target NAME] [--seconds S] [--seed N] [--engine own|atheris] [--grow] [--report FILE]``.

Bytes that lead to a failure are put into the corpus, so that the tests fail until it is mended.  With atheris, where it is installed,
changes are led by what code they reach; without it, by what comes of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loop import Findings, fuzz
from targets import TARGETS

from replkv.testing.arguments import duration, new_file, positive
from replkv.testing.report import write_report

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GROWN_MAX = 1024
"""Bytes of the largest input that ``--grow`` keeps."""

_EXECUTIONS = re.compile(r"number_of_executed_units:\s*(\d+)")


def corpus(name: str) -> dict[str, bytes]:
    """Return the inputs that are kept for a target, by what comes of them."""
    path = CORPUS / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {what: bytes.fromhex(data) for what, data in (line.split(": ") for line in lines)}


def keep(name: str, more: dict[str, bytes]) -> None:
    """Put inputs into the corpus of a target, in place of larger ones of which the same comes."""
    kept = corpus(name)
    for what, data in more.items():
        what = re.sub(r"\W+", " ", what).strip()[:100]
        if what not in kept or len(data) < len(kept[what]):
            kept[what] = data
    CORPUS.mkdir(exist_ok=True)
    lines = (f"{what}: {data.hex()}\n" for what, data in sorted(kept.items()))
    (CORPUS / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _options(arguments)
    print(f"the seed is {options.seed}", flush=True)
    results = {name: _run(name, options) for name in options.target or TARGETS}
    failed = {name: found.failures for name, found in results.items() if found.failures}
    for name, failures in failed.items():
        keep(name, failures)
        print(*(f"{name}: {failure}" for failure in failures), sep="\n")
    if options.report:
        write_report(options.report, "hostile bytes", _figures(results, options))
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description="Give every reader bytes that nobody should write.")
    parser.add_argument("--target", action="append", choices=TARGETS, help="which reader; may be repeated (default: all)")
    parser.add_argument("--seconds", type=duration, default=60.0, metavar="S", help="for each of them (default 60)")
    parser.add_argument("--seed", type=positive, default=int(time.time()), metavar="N", help="of all chance (default: the time)")
    parser.add_argument("--engine", choices=("own", "atheris"), default="atheris" if has_atheris else "own")
    parser.add_argument("--grow", action="store_true", help="keep small inputs with new outcomes in the corpus")
    parser.add_argument("--report", type=new_file, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(arguments)
    if options.engine == "atheris" and not has_atheris:
        parser.error("atheris is not installed")
    return options


def _run(name: str, options: argparse.Namespace) -> Findings:
    run = _with_atheris if options.engine == "atheris" else _by_ourselves
    found = run(name, options.seconds, options.seed)
    print(f"{name}: {found.executions:,} executions, {len(found.outcomes)} outcomes, {len(found.failures)} failures", flush=True)
    if options.grow:
        keep(name, {outcome: data for outcome, data in found.outcomes.items() if len(data) <= GROWN_MAX})
    return found


def _figures(results: dict[str, Findings], options: argparse.Namespace) -> dict[str, object]:
    each = {name: {"executions": found.executions, "failures": sorted(found.failures)} for name, found in results.items()}
    executions = sum(found.executions for found in results.values())
    failures = sum(len(found.failures) for found in results.values())
    return {
        "engine": options.engine,
        "seed": options.seed,
        "readers": len(results),
        "seconds_each": options.seconds,
        "executions": executions,
        "failures": failures,
        "targets": each,
    }


def _by_ourselves(name: str, seconds: float, seed: int) -> Findings:
    until = time.monotonic() + seconds
    return fuzz(TARGETS[name], corpus(name).values(), random.Random(seed), lambda done: not done or time.monotonic() < until)


def _with_atheris(name: str, seconds: float, seed: int) -> Findings:
    """Run atheris in a process of its own: it instruments what is imported after it, and never returns."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs"
        inputs.mkdir()
        for number, data in enumerate([*TARGETS[name].seeds(), *corpus(name).values()]):
            (inputs / str(number)).write_bytes(data)
        limits = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed}", "-max_len=65536", "-timeout=10", "-print_final_stats=1"]
        command = [sys.executable, str(HERE / "guided.py"), name, *limits, f"-artifact_prefix={scratch}/", str(inputs)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = Findings(int(_last(_EXECUTIONS.finditer(done.stderr)) or 0))
        for path in Path(scratch).glob("*-*"):
            found.failures[f"atheris: {_what_went_wrong(done.stderr + done.stdout)}"] = path.read_bytes()
        if done.returncode and not found.failures:
            raise RuntimeError(f"atheris ended with {done.returncode}: {done.stderr[-2000:]}")
        found.outcomes = {path.name: path.read_bytes() for path in inputs.iterdir()}
        return found


def _last(matches: Iterator[re.Match[str]]) -> str:
    return max((match[1] for match in matches), default="", key=int)


def _what_went_wrong(output: str) -> str:
    """Return the end of the traceback in what atheris printed."""
    _, _, trace = output.partition("Uncaught Python exception:")
    lines = [line.strip() for line in (trace or output).splitlines() if line.strip()]
    return " / ".join(lines[:12])
