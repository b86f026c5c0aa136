"""Members with certificates, over TCP: how a cluster goes on while one may not come in, and while all certificates are exchanged."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from authority import Authority, Certified
from cluster import PATIENCE, eventually, free_ports

from replkv import TLS, AsyncReplica, Config, NoLeader, Replica, diagnosis
from replkv.tls import Credentials

NAMES = "abc"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "others")


class Fleet:
    """Members of one cluster in this process, each with a directory of certificates of its own."""

    def __init__(self, directory: Path, ours: Authority) -> None:
        self.directory = directory
        self.ours = ours
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip("abcd", free_ports(4), strict=True)}
        self.members: dict[str, Replica] = {}

    def tls(self, name: str, certified: Certified | None = None, ca: str = "") -> TLS:
        """Install files for a member, as an operator does: each is written beside the old one and renamed."""
        certified = certified or self.ours.member(name)
        directory = self.directory / f"tls-{name}"
        directory.mkdir(exist_ok=True)
        for part, source in (("ca", ca or certified.ca), ("cert", certified.cert), ("key", certified.key)):
            fresh = directory / f"{part}.new"
            shutil.copy(source, fresh)
            fresh.chmod(0o600)
            fresh.rename(directory / part)
        return TLS(ca=directory / "ca", cert=directory / "cert", key=directory / "key")

    def start(self, name: str, tls: TLS | None, **others: Any) -> Replica:
        others = {"cluster": {each: self.addresses[each] for each in NAMES}, **others}
        self.members[name] = Replica(name, data_dir=self.directory / name, tls=tls, **others)
        return self.members[name]

    def join(self, name: str, tls: TLS) -> Replica:
        return self.start(name, tls, cluster=None, listen=self.addresses[name], join=[self.addresses["a"]])

    def close(self) -> None:
        for member in self.members.values():
            member.close()


@pytest.fixture
def fleet(tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(diagnosis, "LOOK_EVERY", 0.2)
    monkeypatch.setattr(diagnosis, "COMPLAIN_EVERY", 0.2)
    made = Fleet(tmp_path, ours)
    yield made
    made.close()


@pytest.fixture
def cluster(fleet: Fleet) -> Fleet:
    """Three members that are connected to each other."""
    for name in NAMES:
        fleet.start(name, fleet.tls(name))
    for member in fleet.members.values():
        member.put(f"from {member.name}", "v", timeout=PATIENCE)
    return fleet


def lax(tls: TLS, member: str = "") -> Credentials:
    """Read files without looking at them: a member's own are good in its own eyes, or were when it started."""
    ca, client_ca, cert, key = (Path(path).read_text() if path else "" for path in (tls.ca, tls.client_ca or tls.ca, tls.cert, tls.key))
    return Credentials(tls.stamp(), ca, client_ca, cert, key)


def test_members_prove_who_they_are_and_work_together(cluster: Fleet) -> None:
    for member in cluster.members.values():
        for name in NAMES:
            found = member.get(f"from {name}", timeout=PATIENCE)
            assert found is not None
    node = cluster.members["a"]._node
    assert node is not None
    assert all(node.transport.identities(name) == frozenset((name,)) for name in "bc")


@pytest.mark.parametrize(
    ("how", "there", "here"),
    [
        pytest.param("another authority", r"was not signed by an authority that is in .*: renew it", r"refused .* at .*", id="wrong ca"),
        pytest.param("expired", r"says that this certificate has expired: renew it", r"its time is over", id="expired"),
        pytest.param("somebody else's", r"for [ad], not for c", r"(for [ad], not for c|refused .* at)", id="wrong name"),
        pytest.param("none", r"it may want TLS, so give tls= on both sides", r"no TLS was spoken: give tls=", id="plain text to TLS"),
    ],
)
def test_a_member_that_may_not_come_in_is_told_why_and_the_others_go_on(
    cluster: Fleet,
    ours: Authority,
    others: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    there: str,
    here: str,
) -> None:
    monkeypatch.setattr(TLS, "load", lax)
    cluster.members["c"].close()
    kinds: dict[str, Callable[[], TLS | None]] = {
        "another authority": lambda: cluster.tls("c", others.member("c")),
        "expired": lambda: cluster.tls("c", ours.expired("c")),
        "somebody else's": lambda: cluster.tls("c", ours.member("d")),
        "none": lambda: None,
    }
    bad = kinds[how]()
    caplog.clear()
    shut_out = cluster.start("c", bad)
    told = re.compile(f"^c (can't connect to|is refused by) .*{there}", re.MULTILINE)
    noted = re.compile(f"^[ab] .*{here}", re.MULTILINE)
    messages: Callable[[], str] = lambda: "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")  # noqa: E731
    eventually(lambda: told.search(messages()) and noted.search(messages()))
    for name in "ab":
        cluster.members[name].put("meanwhile", name, timeout=PATIENCE)
    with pytest.raises(NoLeader, match=there):
        eventually(lambda: shut_out.get("meanwhile", timeout=0.2) and None)
    shut_out.close()
    mended = cluster.start("c", cluster.tls("c"))
    mended.put("at last", "v", timeout=PATIENCE)


def test_a_cluster_without_tls_refuses_one_that_wants_it(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    for name in NAMES:
        fleet.start(name, None)
    fleet.members["a"].put("k", "v", timeout=PATIENCE)
    fleet.members["c"].close()
    fleet.start("c", fleet.tls("c"))
    eventually(lambda: "no TLS is spoken there: give tls= on both sides, or on none" in caplog.text)
    eventually(lambda: "they do not speak as members do here; where they want TLS, give tls= on both sides or on none" in caplog.text)
    fleet.members["a"].put("k", "w", timeout=PATIENCE)


def test_a_certificate_lets_a_newcomer_in_and_another_name_does_not(cluster: Fleet) -> None:
    newcomer = cluster.join("d", cluster.tls("d"))
    newcomer.put("from d", "v", timeout=PATIENCE)
    eventually(lambda: "d" in cluster.members["a"].status().voters)
    with pytest.raises(ValueError, match=r"is a certificate for d, not for e: each member needs one of its own"):
        Replica("e", data_dir=cluster.directory / "e", listen="127.0.0.1:1", join=["127.0.0.1:2"], tls=cluster.tls("d"))


# -- rotation --------------------------------------------------------------------------------------------------------------------------


def shown(address: str, certified: Certified, trusted: str) -> str:
    """Return the certificate that a member shows to the next connection; empty: it does not accept that of the visitor."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the handshake is over when both sides have looked
    context.load_verify_locations(trusted)
    context.load_cert_chain(certified.cert, certified.key)
    context.check_hostname = False
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), PATIENCE) as connection, context.wrap_socket(connection) as secure:
            return ssl.DER_cert_to_PEM_cert(secure.getpeercert(True) or b"")
    except ssl.SSLError:
        return ""


def wait_shown(address: str, certified: Certified, trusted: str, certificate: str) -> None:
    eventually(lambda: shown(address, certified, trusted) == certificate)


def test_all_certificates_are_renewed_under_a_new_authority_and_nobody_restarts(
    cluster: Fleet, ours: Authority, others: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text(Path(ours.ca).read_text() + Path(others.ca).read_text())
    leader = cluster.members["a"].status().raft_term
    steps: list[tuple[Authority, str]] = [(ours, str(bundle)), (others, str(bundle)), (others, others.ca)]
    for number, (authority, ca) in enumerate(steps):
        installed = {}
        for name in NAMES:
            certified = authority.member(name, file=f"{name}-{number}")
            cluster.tls(name, certified, ca)
            installed[name] = Path(certified.cert).read_text()
        for name, certificate in installed.items():
            wait_shown(cluster.addresses[name], authority.member("visitor"), str(bundle), certificate)
            cluster.members[name].put(f"step {number}", name, timeout=PATIENCE)
    old = ours.member("visitor")
    eventually(lambda: all(shown(cluster.addresses[name], old, str(bundle)) == "" for name in NAMES))
    newcomer = cluster.join("d", cluster.tls("d", others.member("d")))
    newcomer.put("from d", "v", timeout=PATIENCE)
    eventually(lambda: not any(member.status().unreachable for member in cluster.members.values()))
    assert cluster.members["a"].status().raft_term - leader <= 2, "one was made anew after the other"
    assert "goes on with the certificates that it has" not in caplog.text


def test_one_that_keeps_the_old_authority_is_cut_off_while_it_runs(
    cluster: Fleet, ours: Authority, others: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        cluster.tls(name, others.member(name))
    eventually(lambda: cluster.members["c"].status().raft_leader is None and set(cluster.members["c"].status().unreachable) == {"a", "b"})
    for name in "ab":
        cluster.members[name].put("without c", name, timeout=PATIENCE)
    cluster.tls("c", others.member("c"))
    cluster.members["c"].put("again", "v", timeout=PATIENCE)


def test_new_files_that_are_no_good_leave_everything_as_it_is(cluster: Fleet, ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(ours.member("x").key, cluster.directory / "tls-a" / "key")
    eventually(lambda: re.search(r"a goes on with the certificates that it has: .*is not the private key of", caplog.text))
    cluster.members["b"].close()
    cluster.start("b", cluster.tls("b")).put("k", "v", timeout=PATIENCE)
    assert not cluster.members["a"].status().unreachable


# -- the door of clients ---------------------------------------------------------------------------------------------------------------


def test_clients_of_other_machines_come_in_through_tls(fleet: Fleet, ours: Authority) -> None:
    (port,) = free_ports(1)
    config = Config(clients=f"127.0.0.1:{port}")
    strict = TLS(**ours.member("a").tls, client_ca=ours.client_ca)
    for tls, certified, comes_in in (
        (strict, ours.client("alice"), True),
        (strict, ours.member("b"), False),  # signed by another authority than that of clients
        (evolve(strict, require_client_cert=False), None, True),
    ):
        with Replica("a", data_dir=fleet.directory / "alone", tls=tls, config=config) as member:
            member.put("k", "v", timeout=PATIENCE)
            assert greeted(port, ours.ca, certified) is comes_in
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
                plain.sendall(b"\0SP\0\0\x30\0\0")
                assert plain.recv(8) == b""


def test_nobody_was_told_that_clients_of_the_members_authority_can_join_as_members(
    fleet: Fleet, ours: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    alone = TLS(**ours.member("a").tls)
    for tls, warned in ((alone, True), (evolve(alone, client_ca=ours.client_ca), False), (evolve(alone, require_client_cert=False), False)):
        caplog.clear()
        with Replica("a", data_dir=fleet.directory / "alone", tls=tls, config=Config(clients=f"127.0.0.1:{port}")):
            assert ("each of them could join as a member: give clients an authority of their own" in caplog.text) is warned


def greeted(port: int, ca: str, certified: Certified | None) -> bool:
    """Tell whether the door speaks to a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    if certified is not None:
        context.load_cert_chain(certified.cert, certified.key)
    try:
        connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with connection, context.wrap_socket(connection, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"\0SP\0\0\x30\0\0")
            return secure.recv(8).startswith(b"\0SP\0")
    except OSError:
        return False


# -- arguments -------------------------------------------------------------------------------------------------------------------------


def test_beyond_this_machine_a_member_listens_with_tls_or_when_told_that_it_may(tmp_path: Path, ours: Authority) -> None:
    (port,) = free_ports(1)
    arguments: dict[str, Any] = {"data_dir": tmp_path / "a", "listen": f"0.0.0.0:{port}", "advertise": f"127.0.0.1:{port}"}
    with pytest.raises(ValueError, match=r"nothing is encrypted there: give tls=TLS\(ca=\.\.\., .*insecure=True"):
        Replica("a", **arguments)
    with Replica("a", tls=TLS(**ours.member("a").tls), **arguments) as member:
        member.put("k", "v", timeout=PATIENCE)


def test_wrong_certificates_are_refused_before_anything_is_opened(tmp_path: Path, ours: Authority) -> None:
    a = ours.member("a")
    with pytest.raises(TypeError, match=r"tls must be a replkv\.TLS, not dict"):
        Replica("a", data_dir=tmp_path / "a", tls=a.tls)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"member a needs a certificate of its own: give TLS\(cert=, key=\)"):
        Replica("a", data_dir=tmp_path / "a", tls=TLS(ca=a.ca))
    with pytest.raises(ValueError, match="a-expired.crt can't be used: it has expired"):
        AsyncReplica("a", data_dir=tmp_path / "a", tls=TLS(**ours.expired("a").tls))
    assert not (tmp_path / "a").exists()


def test_the_environment_names_the_files(tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    a = ours.member("a")
    monkeypatch.setenv("REPLKV_NAME", "a")
    monkeypatch.setenv("REPLKV_TLS_CERT", a.cert)
    with pytest.raises(ValueError, match="REPLKV_TLS_CERT is set, and REPLKV_TLS_CA is not"):
        Replica.from_env()
    for variable, value in (("CA", a.ca), ("KEY", a.key), ("CLIENT_CA", ours.client_ca), ("SERVER_NAME", "db")):
        monkeypatch.setenv(f"REPLKV_TLS_{variable}", value)
    with Replica.from_env() as member:
        assert member._tls == TLS(ca=a.ca, cert=a.cert, key=a.key, client_ca=ours.client_ca, server_name="db")
    monkeypatch.setenv("REPLKV_TLS_REQUIRE_CLIENT_CERT", "0")  # passwords sufficed in programs only, and not where ``replkv member`` runs
    with Replica.from_env() as member:
        assert member._tls is not None
        assert not member._tls.require_client_cert
    monkeypatch.setenv("REPLKV_TLS_REQUIRE_CLIENT_CERT", "no")
    with pytest.raises(ValueError, match="REPLKV_TLS_REQUIRE_CLIENT_CERT must be 1 or 0, not 'no'"):
        Replica.from_env()


def test_asyncio_members_take_certificates_too(tmp_path: Path, ours: Authority) -> None:
    ports = free_ports(2)
    cluster = {name: f"127.0.0.1:{port}" for name, port in zip("ab", ports, strict=True)}

    async def main() -> None:
        members = [AsyncReplica(name, data_dir=tmp_path / name, cluster=cluster, tls=TLS(**ours.member(name).tls)) for name in cluster]
        async with members[0], members[1]:
            await members[0].put("k", "v", timeout=PATIENCE)
            assert await members[1].get("k", timeout=PATIENCE) is not None

    asyncio.run(main())
