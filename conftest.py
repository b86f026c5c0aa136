"""What all tests need of the process they run in, and which of them may run at the same time."""

import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# A shell that starts this in the background has it ignore Ctrl-C, and every process begun from here too: some tests send it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# All who run these tests together have to know the same day, though midnight may come between them.
os.environ.setdefault("MUTANTS_DAY", str(datetime.now(UTC).date().toordinal()))

PROCESSES = ("tests/integration/", "tests/torture/", "tests/upgrades/")
"""Whole clusters of processes: more of these at a time would compete for the machine."""
PATIENT = "tests/integration/test_hostile_network.py"
"""The one of them that waits most of its time, until bounds have passed; it may run beside the others."""


def _rank(file: str) -> int:
    """Return when a file's turn is: what takes longest begins first, lest one worker have it left when the others are done."""
    if file == PATIENT:
        return 0
    if file.startswith(PROCESSES):
        return 1
    return 3 if file.startswith("tests/unit/") else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long in front."""
    items.sort(key=lambda item: _rank(item.nodeid.partition("::")[0]))


class FileByFile(LoadScopeScheduling):
    """Gives each file of tests to one worker, so that its fixtures are made once, and all but one that start clusters to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "processes" if file.startswith(PROCESSES) and file != PATIENT else file


@pytest.hookimpl(optionalhook=True)  # unknown where pytest-xdist is installed and switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    """Let pytest-xdist go by files."""
    return FileByFile(config, log)
