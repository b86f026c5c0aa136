"""The pods of examples/kubernetes, as processes: what a StatefulSet does to them, with loopback addresses that change."""

from __future__ import annotations

import http.client
import itertools
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cluster import ROOT, eventually, free_ports
from fleet import CALM, Writer
from servers import Program

from replkv import Client, connect

EXAMPLE = ROOT / "examples" / "kubernetes"
MANIFEST = (EXAMPLE / "statefulset.yaml").read_text(encoding="utf-8")
FOUNDERS = re.findall(r"(store-\d)=", MANIFEST)
GRACE = int(re.findall(r"terminationGracePeriodSeconds: (\d+)", MANIFEST)[0])


class Pod:
    """One pod of the set, container after container, with a volume that is kept unless it is lost."""

    def __init__(self, stateful: StatefulSet, name: str) -> None:
        self.stateful, self.name = stateful, name
        self.volume = stateful.root / name
        self.volume.mkdir()
        self.container: Program | None = None

    def start(self) -> None:
        """Start the container as the manifest describes it; the map of founders is what the names resolve to now."""
        host = self.stateful.hosts[self.name]
        members, clients, web = self.stateful.ports
        environment = {
            "REPLKV_NAME": self.name,
            "REPLKV_CLUSTER": ",".join(f"{name}={self.stateful.hosts[name]}:{members}" for name in FOUNDERS),
            "REPLKV_ADVERTISE": f"{host}:{members}",
            "REPLKV_LISTEN": f"{host}:{members}",
            "REPLKV_CLIENTS": f"{host}:{clients}",
            "REPLKV_INSECURE": "0",
            "REPLKV_DATA_DIR": str(self.volume / "replkv"),
        }
        assert set(environment) == set(re.findall(r"- name: (REPLKV_\w+)", MANIFEST))
        path = {"PYTHONPATH": f"{ROOT}:{EXAMPLE}"}
        self.container = Program(self.volume, "app", f"{host}:{web}", environment={**environment, **path})

    def probe(self, path: str) -> int:
        """Return the status of a probe; 0 if nobody answers."""
        assert f"path: {path}\n" in MANIFEST
        connection = http.client.HTTPConnection(self.stateful.hosts[self.name], self.stateful.ports[2], timeout=1.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Wait until the readiness probe succeeds."""
        eventually(lambda: self._runs() and self.probe("/ready") == http.HTTPStatus.OK, pause=0.05)

    def _runs(self) -> bool:
        assert self.container is not None
        return self.container.said("")

    def log(self) -> str:
        """Return what its containers have written."""
        return (self.volume / "app.log").read_text()

    def delete(self) -> None:
        """End the container as a node does that is drained; it has to end in time, and by itself."""
        assert self.container is not None
        self.container.process.send_signal(signal.SIGTERM)
        assert self.container.process.wait(GRACE) == 0, self.log()

    def kill(self) -> None:
        """End the container with SIGKILL."""
        assert self.container is not None
        self.container.process.kill()
        self.container.process.wait()

    def lose_volume(self) -> None:
        """Empty the volume."""
        shutil.rmtree(self.volume / "replkv")


class StatefulSet:
    """The pods by name, and what the cluster's DNS says of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = free_ports(3)
        self._numbers = itertools.count(1)
        self.hosts: dict[str, str] = {}
        self.pods: dict[str, Pod] = {}
        for name in FOUNDERS:
            self.add(name)

    def __getitem__(self, name: str) -> Pod:
        return self.pods[name]

    def add(self, name: str) -> Pod:
        """Make a pod, not started."""
        self.move(name)
        self.pods[name] = Pod(self, name)
        return self.pods[name]

    def move(self, name: str) -> None:
        """Give a pod another address."""
        self.hosts[name] = f"127.0.71.{next(self._numbers)}"

    def wait_ready(self, names: Iterable[str]) -> None:
        """Wait until the readiness probes of all these succeed."""
        for name in names:
            self[name].wait_ready()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect to the founders, where they are now."""
        with connect([f"{self.hosts[name]}:{self.ports[1]}" for name in FOUNDERS], config=CALM) as client:
            yield client


@pytest.fixture
def stateful(tmp_path: Path) -> Iterator[StatefulSet]:
    made = StatefulSet(tmp_path)
    yield made
    for pod in made.pods.values():
        if pod.container is not None:
            pod.container.__exit__()


def start_in_parallel(stateful: StatefulSet) -> None:
    first, second, third = (stateful[name] for name in FOUNDERS)
    first.start()
    second.start()
    for pod in (first, second):  # nothing answers where the third will be
        eventually(lambda: pod.probe("/alive") == http.HTTPStatus.OK)  # noqa: B023  # it is waited for here
        assert pod.probe("/ready") == http.HTTPStatus.SERVICE_UNAVAILABLE
    third.start()
    stateful.wait_ready(FOUNDERS)


def scale_to_five(stateful: StatefulSet) -> None:
    new = [stateful.add(name) for name in ("store-3", "store-4")]
    for pod in new:
        pod.start()
    stateful.wait_ready(pod.name for pod in new)


def drain_two(stateful: StatefulSet, *names: str) -> None:
    for name in names:
        stateful[name].delete()
    for name in names:
        stateful.move(name)
        stateful[name].start()


def scale_to_three(stateful: StatefulSet) -> None:
    data = {"REPLKV_DATA_DIR": str(stateful["store-0"].volume / "replkv"), "PYTHONPATH": f"{ROOT}:{EXAMPLE}"}
    with Program(stateful.root, "app", "remove", "store-3", "store-4", environment=data) as removing:
        assert removing.process.wait(GRACE) == 0, removing.log.read_text()
        assert removing.log.read_text() == "members: store-0, store-1, store-2\n"
    for name in ("store-3", "store-4"):
        pod = stateful[name]
        assert pod.container is not None
        assert pod.container.process.wait(GRACE) == 1, "it has stopped, and says why"
        assert f"Removed: member {name} was removed from its cluster" in pod.log()


def test_what_a_stateful_set_does_to_its_pods(stateful: StatefulSet) -> None:
    start_in_parallel(stateful)
    with ExitStack() as ending:
        client = ending.enter_context(stateful.client())
        writers = [ending.enter_context(Writer.of(client, name)) for name in "pq"]

        def all_go_on() -> None:
            for writer in writers:
                writer.goes_on()

        stateful["store-1"].kill()
        stateful.move("store-1")
        stateful["store-1"].start()
        stateful["store-1"].wait_ready()
        all_go_on()
        stateful["store-2"].kill()
        stateful["store-2"].lose_volume()
        stateful["store-2"].start()
        stateful["store-2"].wait_ready()
        all_go_on()
        for name in reversed(FOUNDERS):  # a rolling update
            stateful[name].delete()
            all_go_on()
            stateful[name].start()
            stateful[name].wait_ready()
        scale_to_five(stateful)
        drain_two(stateful, "store-0", "store-3")
        all_go_on()
    for pod in stateful.pods.values():  # all nodes lose their power
        pod.kill()
    for pod in stateful.pods.values():
        stateful.move(pod.name)
    for pod in stateful.pods.values():
        pod.start()
    stateful.wait_ready(stateful.pods)
    scale_to_three(stateful)
    with stateful.client() as client:
        for writer in writers:
            found = client.get(writer.key)
            assert found is not None
            writer.check(int(found.text))


def test_the_manifest_lets_all_pods_start_at_once_and_one_go_at_a_time() -> None:
    assert len(FOUNDERS) == int(re.findall(r"replicas: (\d+)", MANIFEST)[0])
    for needed in (
        "clusterIP: None",
        "publishNotReadyAddresses: true",
        "podManagementPolicy: Parallel",
        "type: RollingUpdate",
        "maxUnavailable: 1",
        "whenScaled: Delete",
        "serviceName: store",
    ):
        assert needed in MANIFEST
    probes = dict(re.findall(r"(\w+)Probe:.*\n\s+httpGet:\n\s+path: (\S+)", MANIFEST))
    assert probes == {"startup": "/alive", "liveness": "/alive", "readiness": "/ready"}
