"""One etcd of each version that is installed, and one replkv, for all the plays of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from etcd_server import NO_ETCD, Etcd, EtcdServer, find_etcds, running_etcd
from etcd_store import EtcdStore
from play import Play
from replkv_store import ReplkvStore

from replkv import Replica

ETCDS = find_etcds()
WANTED: list[Etcd | None] = [*ETCDS] or [None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    versions = " and ".join(map(str, ETCDS))
    terminalreporter.write_line(f"differential tests: against {versions}" if ETCDS else f"differential tests: skipped, {NO_ETCD}")


@pytest.fixture(scope="module", params=WANTED, ids=str)
def installed(request: pytest.FixtureRequest) -> Etcd:
    if request.param is None:
        pytest.skip(NO_ETCD)
    assert isinstance(request.param, Etcd)
    return request.param


@pytest.fixture(scope="module")
def server(installed: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_etcd(installed, tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(scope="module")
def etcd(server: EtcdServer) -> EtcdStore:
    return EtcdStore(server)


@pytest.fixture(scope="module")
def replkv(installed: Etcd) -> Iterator[ReplkvStore]:
    with Replica() as replica:
        replica.wait_ready()
        yield ReplkvStore(replica)


@pytest.fixture
def both(etcd: EtcdStore, replkv: ReplkvStore) -> Play:
    return Play(etcd, replkv)
