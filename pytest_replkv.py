"""The pytest plugin of replkv: fixtures with whole clusters under virtual time; see docs/TESTING.md.

It stands beside the package, so that a run of tests that uses none of the fixtures does not import that.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from replkv.testing import AsyncCluster, Cluster

CLUSTERS = ("replkv_cluster", "replkv_async_cluster")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("replkv", "clusters under virtual time")
    group.addoption("--replkv-seed", type=int, metavar="SEED", help="the seed of all clusters; by default each test has its own")
    group.addoption("--replkv-seeds", type=int, metavar="N", help="run each test that uses a cluster with the seeds 0 to N - 1")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "replkv(members=3, settings=…, config=…, patience=…): how the test's cluster is made")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test under several seeds, if that is wanted."""
    seeds = metafunc.config.getoption("replkv_seeds")
    if seeds is not None and "replkv_seed" in metafunc.fixturenames:
        metafunc.parametrize("replkv_seed", range(seeds), ids=lambda seed: f"seed={seed}")


@pytest.fixture
def replkv_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test's cluster: that of ``--replkv-seed``, or one that follows from the test's name."""
    seed = request.config.getoption("replkv_seed")
    return zlib.crc32(request.node.nodeid.encode()) if seed is None else int(seed)


@pytest.fixture
def replkv_cluster(request: pytest.FixtureRequest, replkv_seed: int) -> Iterator[Cluster]:
    """A cluster whose members are held as ``Replica``; ``@pytest.mark.replkv(members=5)`` tells how it is made."""
    from replkv.testing import Cluster  # noqa: PLC0415  # only now is it needed

    yield from _use(Cluster(**{"seed": replkv_seed, **_arguments(request)}))


@pytest.fixture
def replkv_async_cluster(request: pytest.FixtureRequest, replkv_seed: int) -> Iterator[AsyncCluster]:
    """A cluster whose members are held as ``AsyncReplica``; its ``run`` runs a coroutine in virtual time."""
    from replkv.testing import AsyncCluster  # noqa: PLC0415  # only now is it needed

    yield from _use(AsyncCluster(**{"seed": replkv_seed, **_arguments(request)}))


def _arguments(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("replkv")
    if marker is not None and marker.args:
        raise pytest.UsageError(f"{request.node.nodeid}: the marker replkv takes named arguments, such as members=5")
    return {} if marker is None else dict(marker.kwargs)


def _use(cluster: Any) -> Iterator[Any]:
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have a failure say how the cluster was, and how to see it again."""
    report = yield
    if call.when == "call" and report.failed:
        for name in CLUSTERS:
            cluster = getattr(item, "funcargs", {}).get(name)
            if cluster is not None:
                report.sections.append((name, f"{cluster!r}\nto see it again: pytest {_again(item)!r} --replkv-seed={cluster.seed}"))
    return report


def _again(item: pytest.Item) -> str:
    """Return the test's name without the seed that ``--replkv-seeds`` put into it."""
    return re.sub(r"seed=\d+-|-seed=\d+|\[seed=\d+\]", "", item.nodeid)
