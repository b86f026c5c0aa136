"""``tls.py``, ``secure.py``, ``diagnosis.py``: what is in the files, who is at the other end, and how a refusal looks on both sides."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import DAY, HOUR, LOOPBACK, Authority, Certified
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_network import FakeCluster, FakeMember, FakeNetwork, settle, url_of

from replkv import TLS, diagnosis, secure
from replkv import transport as module
from replkv.address_book import SEED
from replkv.cli.authority import Issued, write_pair
from replkv.diagnosis import Refusals, probe, probe_tls
from replkv.messages import Vote
from replkv.node import Node
from replkv.secure import Secured
from replkv.testing import Cluster as VirtualCluster
from replkv.tls import Credentials, explain
from replkv.transport import Arrived, Event, LinkDown, LinkFailed, LinkUp, NngTransport, PipeDown, PipeUp

PATIENCE = 20.0  # s; what is waited for takes a second
LOAD = TLS.load


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "others")


@pytest.fixture(scope="module")
def a(ours: Authority) -> Certified:
    return ours.member("a")


@pytest.fixture(scope="module")
def b(ours: Authority) -> Certified:
    return ours.member("b")


# -- the value, and the files ----------------------------------------------------------------------------------------------------------


def test_paths_are_taken_in_any_form_and_a_certificate_needs_its_key(tmp_path: Path) -> None:
    assert TLS(ca=tmp_path, cert=str(tmp_path), key=tmp_path) == TLS(ca=str(tmp_path), cert=tmp_path, key=tmp_path)
    assert TLS(ca="/ca", cert="/c", key="/k", client_ca="/d").files == ("/ca", "/c", "/k", "/d")
    halves: list[dict[str, Any]] = [{"ca": "x", "cert": "x"}, {"ca": "x", "key": "x"}]
    for wrong in halves:
        with pytest.raises(ValueError, match="needs both cert= and key="):
            TLS(**wrong)
    for wrong_name in ("a\0b", "a b", "a..b", ".b", "x" * 64, "ü.example", "[::1]", "*.example"):
        with pytest.raises(ValueError, match=r"TLS\(server_name=\) must be a host name or an IP address"):
            TLS(ca="x", server_name=wrong_name)
    for name in ("db", "db.example-1.internal", "_a", "::1", "10.0.0.1"):
        TLS(ca="x", server_name=name)
    empty: list[dict[str, Any]] = [{"ca": ""}, {"ca": "x", "server_name": ""}, {"ca": "x\0"}]
    for wrong in empty:
        with pytest.raises(ValueError, match="must not be empty"):
            TLS(**wrong)
    kinds: list[dict[str, Any]] = [{"ca": 7}, {"ca": None}, {"ca": "x", "server_name": b"x"}, {"ca": "x", "require_client_cert": 1}]
    for kind in kinds:
        with pytest.raises(TypeError, match="must be a"):
            TLS(**kind)


def test_good_files_are_read_and_their_text_is_what_counts(a: Certified, ours: Authority) -> None:
    found = TLS(**a.tls).load("a")
    assert (found.ca, found.cert, found.key) == tuple(Path(path).read_text() for path in (a.ca, a.cert, a.key))
    assert found.client_ca == found.ca
    assert TLS(**a.tls, client_ca=ours.client_ca).load("a").client_ca == Path(ours.client_ca).read_text()
    assert found.begins < time.time() < found.ends
    assert "PRIVATE" not in repr(found)


def encrypted(path: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return str(path)


def without_end(tmp_path: Path, text: str) -> str:
    path = tmp_path / "broken.crt"
    path.write_text(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    return str(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tmp, ours, others: {"ca": str(tmp / "gone")}, r"gone can't be read: No such file"),
        (lambda tmp, ours, others: {"key": str(tmp)}, r"can't be read: Is a directory"),
        (lambda tmp, ours, others: {"ca": ours.member("a").key}, r"a\.key holds no certificate in PEM form"),
        (lambda tmp, ours, others: {"key": ours.member("a").cert}, r"a\.crt holds no private key in PEM form"),
        (lambda tmp, ours, others: {"key": ours.member("x").key}, r"x\.key is not the private key of .*a\.crt: replace both"),
        (lambda tmp, ours, others: {"key": encrypted(tmp / "secret.key")}, r"secret\.key is encrypted, and nobody is there to type"),
        (lambda tmp, ours, others: {"ca": without_end(tmp, "AAAA")}, r"broken\.crt holds a certificate that can't be read"),
        (lambda tmp, ours, others: {"cert": without_end(tmp, "AAAA")}, r"broken\.crt"),
        (lambda tmp, ours, others: {"ca": others.ca}, r"a\.crt can't be used: no authority in .*others/ca\.crt signed it"),
        (lambda tmp, ours, others: ours.expired("a").tls, r"a-expired\.crt can't be used: it has expired; renew it"),
        (lambda tmp, ours, others: ours.early("a").tls, r"a-early\.crt can't be used: it is not valid yet; look at the clock"),
        (lambda tmp, ours, others: ours.member("x").tls, r"x\.crt is a certificate for x, not for a: each member needs one of its own"),
        (lambda tmp, ours, others: ours.members.sign("", ("a",), file="no-cn").tls, r"for nobody, not for a"),
        (lambda tmp, ours, others: ours.members.sign("a", LOOPBACK, file="hosts").tls, r"a is its common name, and is missing among"),
        (
            lambda tmp, ours, others: ours.members.sign("a", ("a",), serves=False, file="guest").tls,
            r"it is not made for this; members need",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_anything_is_opened(
    tmp_path: Path, ours: Authority, others: Authority, change: Callable[[Path, Authority, Authority], dict[str, Any]], says: str
) -> None:
    tls = TLS(**{**ours.member("a").tls, **change(tmp_path, ours, others)})
    with pytest.raises(ValueError, match=says):
        tls.load("a")


def test_a_file_in_another_form_than_pem_is_told_so(tmp_path: Path, a: Certified) -> None:
    der = tmp_path / "ca.der"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(Path(a.ca).read_text()))
    with pytest.raises(ValueError, match=r"ca\.der holds no certificate in PEM form: .*converted"):
        TLS(**{**a.tls, "ca": str(der)}).load("a")


def test_words_in_any_language_around_a_certificate_made_it_no_pem_file(tmp_path: Path, a: Certified) -> None:
    for part in ("ca", "cert", "key"):
        path = tmp_path / part
        path.write_bytes("Société, 日本\r\n".encode() + Path(a.tls[part]).read_bytes().replace(b"\n", b"\r\n"))
        path.chmod(0o600)
    files: dict[str, Any] = {part: tmp_path / part for part in ("ca", "cert", "key")}
    Secured(TLS(**files), "a")
    for part, path in files.items():
        path.write_bytes(b"\xef\xbb\xbf" + Path(a.tls[part]).read_bytes())
        with pytest.raises(ValueError, match=f"{part} begins with a byte order mark"):
            TLS(**files).load("a")
        shutil.copy(a.tls[part], path)


def test_a_process_that_changed_its_directory_found_its_certificates_no_more(
    tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ours.directory)
    tls = TLS(ca="ca.crt", cert="a.crt", key=Path("a.key"))
    ours.member("a")
    monkeypatch.chdir(tmp_path)
    tls.load("a")


def test_an_authority_for_clients_that_can_not_be_read_was_taken_for_the_own_certificate(tmp_path: Path, a: Certified) -> None:
    broken = without_end(tmp_path, "AAAA")
    with pytest.raises(ValueError, match=r"broken\.crt holds a certificate that can't be read"):
        TLS(**a.tls, client_ca=broken).load("a")


def test_a_key_that_others_can_read_is_worth_a_warning(tmp_path: Path, a: Certified, caplog: pytest.LogCaptureFixture) -> None:
    TLS(**a.tls).load("a")
    assert not caplog.records
    key = tmp_path / "open.key"
    shutil.copy(a.key, key)
    key.chmod(0o644)
    for _ in range(3):  # a member's links, its door, and what is read again
        TLS(**{**a.tls, "key": str(key)}).load("a")
    assert caplog.text.count("open.key: others than its owner can read this private key") == 1


def test_a_client_needs_no_certificate_and_a_member_does(ours: Authority) -> None:
    assert TLS(ca=ours.ca).load().cert == ""
    with pytest.raises(ValueError, match="member a needs a certificate of its own"):
        TLS(ca=ours.ca).load("a")
    TLS(**ours.client("alice").tls).load()  # another authority signs those of clients


def test_a_key_of_a_kind_that_members_do_not_speak_is_refused(tmp_path: Path, ours: Authority) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, signer = Ed25519PrivateKey.generate(), ours.members.issued
    issuer = x509.load_pem_x509_certificate(signer.certificate_pem).subject
    made = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])).issuer_name(issuer)
    made = made.public_key(key.public_key()).serial_number(7).not_valid_before(dt.datetime.now(dt.UTC) - DAY)
    made = made.not_valid_after(dt.datetime.now(dt.UTC) + DAY).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False
    )
    signed = made.sign(serialization.load_pem_private_key(signer.key_pem, None), hashes.SHA256())  # type: ignore[arg-type]  # it is ECDSA
    files: dict[str, Any] = {"ca": ours.ca, "cert": str(tmp_path / "a.crt"), "key": str(tmp_path / "a.key")}
    Path(files["cert"]).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path(files["key"]).touch(mode=0o600)
    Path(files["key"]).write_bytes(pem)
    with pytest.raises(ValueError, match=r"members can't use .*a\.crt.*ECDSA"):
        Secured(TLS(**files), "a")


def test_every_failure_of_a_handshake_has_a_cause_and_a_remedy() -> None:
    reset = explain(ConnectionResetError())
    assert "no TLS is spoken there" in reset
    assert "does not answer" in explain(TimeoutError())
    assert explain(OSError(113, "No route to host")) == "No route to host"
    error = ssl.SSLError(1, "[SSL: SOMETHING_NEW] something new (_ssl.c:1)")
    error.reason = "SOMETHING_NEW"
    assert explain(error) == "the handshake failed: SOMETHING_NEW"


# -- both ends -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NngTransport]]:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    monkeypatch.setattr(module, "PROBE_AFTER", 0.2)
    monkeypatch.setattr(diagnosis, "LOOK_EVERY", 0.1)
    made: list[NngTransport] = []

    def build(name: str, tls: TLS | None, *, clients: bool = False) -> NngTransport:
        made.append(NngTransport(name=name, secured=None if tls is None else Secured(tls, name, clients=clients)))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


def lax(tls: TLS, member: str = "") -> Credentials:
    """Read files without looking at them: as a member does whose own files are good in its own eyes, or were when it started."""
    ca, client_ca, cert, key = (Path(path).read_text() if path else "" for path in (tls.ca, tls.client_ca or tls.ca, tls.cert, tls.key))
    return Credentials(tls.stamp(), ca, client_ca, cert, key)


Seen = dict[NngTransport, list[Event]]


def run(*transports: NngTransport, until: Callable[[Seen], Any]) -> Seen:
    """Poll in turn until what was seen satisfies a condition."""
    seen: Seen = {transport: [] for transport in transports}
    give_up = time.monotonic() + PATIENCE
    while not until(seen):
        assert time.monotonic() < give_up, list(seen.values())
        for transport in transports:
            seen[transport] += transport.poll(0.005)
    return seen


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def met(server: NngTransport, client: NngTransport, url: str, name: str = "a") -> int:
    """Dial; return the pipe that the server sees."""
    client.dial(name, url, name)
    seen = run(server, client, until=lambda seen: of(PipeUp, seen[server]) and of(LinkUp, seen[client]))
    return int(of(PipeUp, seen[server])[-1].pipe)


URL = "tcp://127.0.0.1:0"


def test_both_sides_know_by_its_certificate_who_is_at_the_other_end(make: Callable[..., NngTransport], a: Certified, b: Certified) -> None:
    server, client = make("a", TLS(**a.tls)), make("b", TLS(**b.tls))
    url = server.listen(URL)
    assert url.startswith("tcp://")
    pipe = met(server, client, url)
    assert server.identities(pipe) == frozenset({"b"})
    assert client.identities("a") == frozenset({"a"})
    assert client.send("a", b"question")
    assert of(Arrived, run(server, until=lambda seen: of(Arrived, seen[server]))[server]) == [Arrived(pipe, b"question")]
    assert server.identities(12345) == frozenset()
    assert client.identities("nobody") == frozenset()


@pytest.mark.parametrize("scheme", ["ipc", "inproc"])
def test_what_does_not_leave_the_machine_is_not_encrypted_and_proves_nothing(
    make: Callable[..., NngTransport], a: Certified, b: Certified, tmp_path: Path, scheme: str
) -> None:
    server, client = make("a", TLS(**a.tls)), make("b", TLS(**b.tls))
    pipe = met(server, client, server.listen(f"{scheme}://{tmp_path}/s"))
    assert server.identities(pipe) is None
    assert client.identities("a") is None


def test_nothing_readable_travels(make: Callable[..., NngTransport], a: Certified, b: Certified) -> None:
    server, client = make("a", TLS(**a.tls)), make("b", TLS(**b.tls))
    overheard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as between:
        port = int(server.listen(URL).rpartition(":")[2])
        passing = threading.Thread(target=pass_on, args=(between, port, overheard))
        passing.start()
        met(server, client, f"tcp://127.0.0.1:{between.getsockname()[1]}")
        assert client.send("a", b"very secret")
        run(server, until=lambda seen: of(Arrived, seen[server]))
        client.close()
        passing.join()
    assert len(overheard) > 1000
    assert b"secret" not in overheard


def pass_on(between: socket.socket, port: int, overheard: bytearray) -> None:
    """Take one connection, pass all on both ways, and keep it."""
    near, _ = between.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=copy, args=(far, near, overheard))
        back.start()
        copy(near, far, overheard)
        back.join()


def copy(source: socket.socket, to: socket.socket, overheard: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            overheard.extend(data)
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def test_an_address_or_a_mail_box_in_a_certificate_is_no_name_of_a_member(
    make: Callable[..., NngTransport], a: Certified, ours: Authority
) -> None:
    # nng hands out alternative names as bytes: those of 98.0.0.1 begin like the name b, those of 110.111.100.101 spell "node".
    mallory = ours.members.sign("c", ("c", "98.0.0.1", "110.111.100.101", "6e6f:6465:3100::"), file="mallory")
    server, client = make("a", TLS(**a.tls)), make("c", TLS(**mallory.tls))
    assert server.identities(met(server, client, server.listen(URL))) == frozenset({"c"})


def named(ours: Authority, directory: Path, *subject: tuple[x509.ObjectIdentifier, str]) -> TLS:
    """Files of a certificate with this subject."""
    key, signer = ec.generate_private_key(ec.SECP256R1()), ours.members.issued
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(signer.certificate.subject).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(dt.datetime.now(dt.UTC) - DAY).not_valid_after(dt.datetime.now(dt.UTC) + DAY)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("b")]), critical=False)
    write_pair(directory / "named", Issued(made.sign(signer.key, hashes.SHA256()), key), force=True)
    return TLS(ca=ours.ca, cert=directory / "named.crt", key=directory / "named.key")


CN, ORGANIZATION = x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME


def test_a_common_name_was_taken_for_all_that_follows_it_in_the_subject(
    make: Callable[..., NngTransport], a: Certified, ours: Authority, tmp_path: Path
) -> None:
    server = make("a", TLS(**a.tls))
    url = server.listen(URL)
    for subject in ([(CN, "b"), (ORGANIZATION, "Corp")], [(ORGANIZATION, "x, CN=a"), (CN, "b")]):
        assert server.identities(met(server, make("b", named(ours, tmp_path, *subject)), url)) == frozenset({"b"})
    for several in ([(CN, "a"), (CN, "b")], [(CN, "b"), (CN, "b")]):
        with pytest.raises(ValueError, match="is a certificate for nobody, not for b: .*its one common name"):
            named(ours, tmp_path, *several).load("b")


def test_a_user_whose_name_is_not_plain_could_not_come_in_by_a_certificate(
    make: Callable[..., NngTransport], a: Certified, ours: Authority, tmp_path: Path
) -> None:
    door = make("a", TLS(**a.tls), clients=True)
    url = door.listen(URL)
    for user in ("Müller", "日本", "a,b", ' #x+"\\y ', "C3"):
        tls = named(ours, tmp_path, (CN, user), (ORGANIZATION, "Corp"))
        assert door.identities(met(door, make("", tls), url)) == frozenset({user})


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (rb"a", "a"),
        (rb"a, O=x", "a"),
        (rb"a + O=x", "a"),
        (rb"a\, O=x", "a, O=x"),
        (rb"a\\, O=x", "a\\"),
        (rb"a\, CN=b", "a, CN=b"),
        (rb"a\\, CN=b", ""),
        (rb"a\\\, CN=b", "a\\, CN=b"),
        (rb"a + CN=b", ""),
        (rb"a, O=\, CN\=b", "a"),
        (rb"M\C3\BCller", "Müller"),
        (rb"\C3", ""),
        (rb"a\0Ab", ""),
        (rb"a,b", ""),
        (rb"a+b", ""),
        (b"a\\", ""),
        (rb"#1E0400610062", ""),
        (rb"", ""),
    ],
)
def test_what_nng_takes_for_a_common_name_is_read_with_care(told: bytes, name: str) -> None:
    assert secure.only_common_name(told) == name


@pytest.mark.parametrize(
    ("server", "client", "name", "dialler", "acceptor"),
    [
        pytest.param(
            "a", "b of others", "a", r"not signed by an authority that is in .*ca=", r"refused .*: ", id="another authority on both sides"
        ),
        pytest.param(
            "a", "b of others, who trusts us", "a", r"does not trust the authority", r"not signed by an authority in", id="wrong ca"
        ),
        pytest.param("a", "b expired", "a", r"this certificate has expired: renew it", r"its time is over", id="expired"),
        pytest.param("a", "b early", "a", r"does not accept this certificate.*clocks", r"or has not come", id="not valid yet"),
        pytest.param(
            "a expired", "b", "a", r"its certificate has expired: renew it there", r"certificate was not accepted", id="server expired"
        ),
        pytest.param("a", "b", "x", r"certificate there is for a, not for x: correct the address", r"refused ", id="wrong name"),
        pytest.param("a", "no certificate", "a", r"hung up during the handshake", r"no certificate was shown", id="no certificate"),
        pytest.param(
            "a", "plain", "a", r"it may want TLS, so give tls= on both sides", r"no TLS was spoken: give tls=", id="plain text to TLS"
        ),
        pytest.param("plain", "b", "a", r"no TLS is spoken there: give tls=", r"they do not speak as members do", id="TLS to plain text"),
    ],
)
def test_who_may_not_come_in_is_refused_in_plain_words_on_both_sides_and_others_come_in(
    make: Callable[..., NngTransport],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ours: Authority,
    others: Authority,
    server: str,
    client: str,
    name: str,
    dialler: str,
    acceptor: str,
) -> None:
    monkeypatch.setattr(TLS, "load", lax)
    foreign = others.member("b")
    files: dict[str, dict[str, Any] | None] = {
        "a": ours.member("a").tls,
        "b": ours.member("b").tls,
        "b of others": foreign.tls,
        "b of others, who trusts us": {**foreign.tls, "ca": ours.ca},
        "b expired": ours.expired("b").tls,
        "b early": ours.early("b").tls,
        "a expired": ours.expired("a").tls,
        "no certificate": {"ca": ours.ca},
        "plain": None,
    }
    listening, dialling = (make(who[0], None if (found := files[who]) is None else TLS(**found)) for who in (server, client))
    url = listening.listen(URL)
    dialling.dial("peer", url, name)
    seen = run(listening, dialling, until=lambda seen: of(LinkFailed, seen[dialling]) and " refused " in caplog.text)
    (failed,) = of(LinkFailed, seen[dialling])[:1]
    assert failed.peer == "peer"
    assert re.search(dialler, failed.reason), failed.reason
    warning = next(record.getMessage() for record in caplog.records if " refused " in record.getMessage())
    assert warning.startswith(f"{server[0]} refused ")
    assert url in warning
    assert re.search(acceptor, warning), warning
    assert not of(LinkUp, seen[dialling])
    assert not of(PipeUp, seen[listening])
    good = make("b", None if files[server] is None else TLS(**ours.member("b").tls))
    if "expired" not in server:
        met(listening, good, url)


def test_a_seed_is_known_by_its_host_or_by_the_name_that_tls_says(make: Callable[..., NngTransport], ours: Authority, a: Certified) -> None:
    server = make("a", TLS(**ours.members.sign("a", ("a", "db.internal"), file="elsewhere").tls))
    url = server.listen(URL)
    lost = make("b", TLS(**ours.member("b").tls))
    lost.dial("@seed", url)
    (failed,) = of(LinkFailed, run(server, lost, until=lambda seen: of(LinkFailed, seen[lost]))[lost])
    assert failed.reason == "the certificate there is for a, db.internal, not for 127.0.0.1: give a name that it has in TLS(server_name=)"
    found = make("b", TLS(**ours.member("b").tls, server_name="db.internal"))
    found.dial("@seed", url)
    run(server, found, until=lambda seen: of(LinkUp, seen[found]))
    assert found.identities("@seed") == frozenset({"a"})


def test_the_dot_behind_a_host_was_taken_for_a_part_of_its_name(make: Callable[..., NngTransport], ours: Authority, a: Certified) -> None:
    server, client = make("a", TLS(**a.tls)), make("b", TLS(**ours.member("b").tls))
    url = server.listen("tcp://localhost:0").replace("localhost", "localhost.")
    assert Secured(TLS(**a.tls), "a").expected("", "tcp://db.internal.:7420") == "db.internal"
    client.dial("@seed", url)
    try:
        socket.getaddrinfo("localhost.", 1)
    except OSError:
        return  # not every resolver knows it so
    run(server, client, until=lambda seen: of(LinkUp, seen[client]))


def test_clients_show_certificates_of_their_own_authority_or_none_where_that_is_allowed(
    make: Callable[..., NngTransport], monkeypatch: pytest.MonkeyPatch, ours: Authority, a: Certified
) -> None:
    monkeypatch.setattr(TLS, "load", lax)
    strict = make("a", TLS(**a.tls, client_ca=ours.client_ca), clients=True)
    open_ = make("a", TLS(**a.tls, client_ca=ours.client_ca, require_client_cert=False), clients=True)
    alice, member, nobody = (make("x", TLS(**files)) for files in (ours.client("alice").tls, ours.member("b").tls, {"ca": ours.ca}))
    assert strict.identities(met(strict, alice, strict.listen(URL))) == frozenset({"alice"})
    url = open_.listen(URL)
    assert open_.identities(met(open_, alice, url)) == frozenset({"alice"})
    assert open_.identities(met(open_, nobody, url)) == frozenset()
    assert open_.identities(met(open_, member, url)) == frozenset()  # another authority's certificate proves nothing here
    nobody.dial("a", strict.listen(URL), "a")
    run(strict, nobody, until=lambda seen: of(LinkFailed, seen[nobody]))


def test_warnings_of_strangers_are_few(
    make: Callable[..., NngTransport], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, a: Certified
) -> None:
    monkeypatch.setattr(diagnosis, "COMPLAIN_EVERY", 1000.0)
    server = make("a", TLS(**a.tls))
    port = int(server.listen(URL).rpartition(":")[2])
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.recv(100) == b""
        run(server, until=lambda seen: True)
        server.poll(0.02)
    run(server, until=lambda seen: " refused " in caplog.text)
    assert len([record for record in caplog.records if " refused " in record.getMessage()]) == 1


def test_a_refusal_that_went_on_for_ever_was_told_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = iter(range(1, 100_000))
    monkeypatch.setattr(diagnosis, "_refused", lambda _: {1: next(refused)})
    refusals, told = Refusals("a"), []
    for second in range(24 * 3600):
        refusals.look([(1, "tcp://h:1")], None, float(second))
        if caplog.records:
            told.append(second)
            caplog.clear()
    assert told[:4] == [0, 10, 30, 70]
    assert 140 < len(told) < 160
    refusals.look([(1, "tcp://h:1")], None, 30 * 3600.0)
    refusals.look([(1, "tcp://h:1")], None, 30 * 3600.0 + diagnosis.COMPLAIN_EVERY)
    assert len(caplog.records) == 2, "it was over, and is told from the beginning when it comes again"


def test_a_probe_says_nothing_where_a_member_answers_or_nobody_is(make: Callable[..., NngTransport], a: Certified, b: Certified) -> None:
    secured = Secured(TLS(**b.tls), "b")
    server, plain = make("a", TLS(**a.tls)), make("a", None)
    assert probe_tls(server.listen(URL), "a", secured) == ""
    assert probe(plain.listen(URL)) == ""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        probe(f"tcp://127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError):
        probe_tls(f"tcp://127.0.0.1:{port}", "a", secured)


# -- rotation --------------------------------------------------------------------------------------------------------------------------


def install(certified: Certified, directory: Path, ca: str = "") -> TLS:
    """Put files where a member looks for them, as an operator does: each written beside the old one and renamed."""
    directory.mkdir(exist_ok=True)
    for name, source in (("ca", ca or certified.ca), ("cert", certified.cert), ("key", certified.key)):
        fresh = directory / f"{name}.new"
        shutil.copy(source, fresh)
        fresh.chmod(0o600)
        fresh.rename(directory / name)
    return TLS(ca=directory / "ca", cert=directory / "cert", key=directory / "key")


def test_files_that_are_replaced_are_taken_up_once_they_rest(tmp_path: Path, ours: Authority, others: Authority) -> None:
    secured = Secured(install(ours.member("a"), tmp_path / "a"), "a")
    before = secured.listening()
    assert secured.renew(0.0) is None
    install(ours.member("a", file="again"), tmp_path / "a")
    assert secured.renew(1.0) is None  # they have just changed
    assert secured.listening() == before
    assert secured.renew(2.0) is False
    assert secured.listening() != before
    assert secured.renew(3.0) is None
    install(others.member("a"), tmp_path / "a")
    assert (secured.renew(4.0), secured.renew(5.0)) == (None, True)  # other authorities count


def test_files_that_can_not_be_used_change_nothing_and_are_named(tmp_path: Path, ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    secured = Secured(install(ours.member("a"), tmp_path / "a"), "a")
    before = secured.listening()
    shutil.copy(ours.member("x").key, tmp_path / "a" / "key")
    for moment in range(3):
        assert secured.renew(float(moment)) is None
    assert secured.listening() == before
    (warning,) = caplog.records
    assert warning.getMessage().startswith("a goes on with the certificates that it has: ")
    assert "is not the private key of" in warning.getMessage()
    (tmp_path / "a" / "key").unlink()
    assert (secured.renew(10.0), secured.renew(11.0)) == (None, None)
    assert "can't be read: No such file" in caplog.records[-1].getMessage()
    install(ours.member("a", file="again"), tmp_path / "a")
    assert (secured.renew(20.0), secured.renew(21.0)) == (None, False)


def test_a_certificate_that_ends_soon_is_worth_a_warning_a_day(
    tmp_path: Path, ours: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = ours.members.sign("a", ("a",), begin=-20 * DAY, end=2 * DAY, file="soon")
    secured = Secured(TLS(**soon.tls), "a")
    for moment in (0.0, 100.0, secure.DAY / 2):
        secured.renew(moment)
    (warning,) = caplog.records
    assert "soon.crt, ends at" in warning.getMessage()
    secured.renew(secure.DAY)
    assert len(caplog.records) == 2
    short = ours.members.sign("a", ("a",), begin=-HOUR, end=20 * HOUR, file="short-lived")
    secured = Secured(TLS(**short.tls), "a")
    secured.renew(0.0)
    assert len(caplog.records) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 18 * 3600)
    secured.renew(18 * 3600.0)  # it was looked at once a day, when a day was all it had
    assert "short-lived.crt, ends at" in caplog.records[-1].getMessage()
    monkeypatch.setattr(time, "time", lambda: now + 21 * 3600)
    secured.renew(21 * 3600.0)
    assert "short-lived.crt, has ended, and nobody accepts it any more, at" in caplog.records[-1].getMessage()


def test_new_certificates_are_shown_to_the_very_next_connection(
    make: Callable[..., NngTransport], tmp_path: Path, ours: Authority, others: Authority
) -> None:
    tls = install(ours.member("a"), tmp_path / "a")
    server, old = make("a", tls), make("b", TLS(**ours.member("b").tls))
    url = server.listen(URL)
    met(server, old, url)
    install(others.member("a"), tmp_path / "a")
    renewed = server._secured.listening() if server._secured is not None else None
    seen = run(server, old, until=lambda seen: of(LinkDown, seen[old]) and of(PipeDown, seen[server]))  # it has to prove itself again
    assert server._secured is not None
    assert server._secured.listening() != renewed
    new = make("b", TLS(**others.member("b").tls))
    met(server, new, url)
    seen = run(server, old, until=lambda seen: of(LinkFailed, seen[old]))
    assert not of(LinkUp, seen[old])


def test_a_member_stood_still_while_a_name_server_did_not_answer_for_its_own_host(
    make: Callable[..., NngTransport], tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def look_up(*_: object) -> socket.socket:
        threads.append(threading.current_thread())
        raise OSError

    tls = install(ours.member("a"), tmp_path / "a")
    server = make("a", tls)
    server.listen(URL)
    monkeypatch.setattr("replkv.secure.socket.create_connection", look_up)
    install(ours.member("a", file="a-new"), tmp_path / "a")
    run(server, until=lambda seen: threads)
    assert threads[0] is not threading.current_thread()


def test_connections_are_made_anew_a_few_at_a_time(
    make: Callable[..., NngTransport], tmp_path: Path, ours: Authority, others: Authority
) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text(Path(ours.ca).read_text() + Path(others.ca).read_text())
    server = make("a", install(ours.member("a"), tmp_path / "a"))
    url = server.listen(URL)
    clients = [make("b", TLS(**ours.member("b").tls)) for _ in range(5)]
    for client in clients:
        met(server, client, url)
    install(ours.member("a"), tmp_path / "a", str(bundle))
    seen = run(server, until=lambda seen: of(PipeDown, seen[server]))
    assert len(of(PipeDown, seen[server])) == 1
    run(server, *clients, until=lambda seen: all(of(LinkUp, seen[client]) for client in clients))


# -- the process -----------------------------------------------------------------------------------------------------------------------

CHILD = """
import os, sys, time
from replkv import TLS
from replkv.secure import Secured
from replkv.testing import Cluster as VirtualCluster
from replkv.transport import NngTransport
ca, cert, key = sys.argv[1:]
tls = TLS(ca=ca, cert=cert, key=key)
server, client = NngTransport(name="a", secured=Secured(tls, "a")), NngTransport(name="a", secured=Secured(tls, "a"))
url = server.listen("tcp://127.0.0.1:0")
client.dial("x", url, "x")  # which is not what it is called: every handshake fails, and nng says so
until = time.monotonic() + 1.5
while time.monotonic() < until:
    server.poll(0.01)
    client.poll(0.01)
child = os.fork()
if not child:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
while time.monotonic() < until + 0.5:
    server.poll(0.01)
    client.poll(0.01)
print("well")  # and it ends in the middle of it
"""


def test_a_process_may_fork_and_end_while_nng_has_something_to_say(a: Certified) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, a.ca, a.cert, a.key], capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


# -- names in greetings ----------------------------------------------------------------------------------------------------------------


def certified(network: FakeNetwork, name: str, certificate: str = "", **others: Any) -> FakeMember:
    """A member whose certificate is for itself, or for somebody else."""
    member = FakeMember(network, name, **others)
    member.transport.certificate = frozenset((certificate or name,))
    return member


def test_a_stolen_certificate_does_not_speak_for_another_member(caplog: pytest.LogCaptureFixture) -> None:
    network = FakeNetwork()
    honest, thief = certified(network, "a"), certified(network, "b", "c")
    for _ in range(3):
        network.connect("b", "a")
        settle(honest, thief)
    assert honest.changes() == []
    assert not thief.links.send("a", Vote(1, 1, 1))
    reason = "the certificate of this connection is for c, not for b: start each member with a certificate of its own name"
    texts = [record.getMessage() for record in caplog.records]
    assert texts.count(f"a refused a connection of b: {reason}") == 1, "once is enough"
    assert texts.count(f"b is refused by a at {url_of('a')}: {reason}") == 1
    assert honest.links.explain() == f"b at {url_of('b')} (no connection), c at {url_of('c')} (no connection)"
    assert f"a at {url_of('a')} ({reason})" in thief.links.explain()


def test_frames_of_a_thief_are_dropped_although_it_greets_again_and_again() -> None:
    network = FakeNetwork()
    honest, thief = certified(network, "a"), certified(network, "b", "c")
    pipe = network.connect("b", "a")
    settle(honest, thief)
    thief.transport.send("a", thief.links._frame(honest.links.identity.incarnation, Vote(9, 9, 9)))
    settle(honest, thief)
    assert honest.take() == []
    assert honest.transport.kicked == [pipe]


def test_who_answers_under_a_name_that_its_certificate_has_not_is_believed_nothing(caplog: pytest.LogCaptureFixture) -> None:
    network = FakeNetwork()
    honest, impostor = certified(network, "a"), certified(network, "b", "c")
    network.connect("a", "b")
    settle(honest, impostor)
    assert honest.links.incarnation_of("b") is None
    assert "the certificate of this connection is for c, not for b" in honest.links.explain()


def test_a_seed_is_believed_its_name_only_if_its_certificate_has_it() -> None:
    network = FakeNetwork()
    newcomer = certified(network, "d", join=("a", "b"))
    honest, impostor = certified(network, "a"), certified(network, "b", "c")
    for member in (honest, impostor):
        member.links.join_cluster(b"1" * 16, {name: ord(name) for name in "ab"})
    for seed in ("a", "b"):
        network.connect("d", f"{SEED}{url_of(seed)}")
    settle(newcomer, honest, impostor)
    assert [peer for peer in newcomer.book.peers if not peer.startswith(SEED)] == ["a"]


def test_a_connection_that_does_not_come_about_is_explained_once() -> None:
    network = FakeNetwork()
    member = FakeMember(network, "a", "ab")
    for _ in range(2):
        member.transport.events.append(LinkFailed("b", "its certificate has expired"))
    member.handle()
    assert member.links.explain() == f"b at {url_of('b')} (its certificate has expired)"
    FakeMember(network, "b", "ab")
    network.connect("a", "b")
    settle(member)
    member.transport.events.append(LinkFailed("nobody", "no such link"))
    member.handle()


# -- joining ---------------------------------------------------------------------------------------------------------------------------


def founded(*, encrypted: bool = True) -> FakeCluster:
    cluster = FakeCluster()
    if encrypted:
        certify(cluster)
    cluster.run(lambda: all(node.ready for node in cluster.nodes.values()))
    return cluster


def certify(cluster: FakeCluster) -> None:
    for name, end in cluster.network.ends.items():
        end.certificate = frozenset((name,))


def joined(cluster: FakeCluster, name: str, join: str = "abc", certificate: str = "") -> Node:
    node = cluster.start(name, join=join)
    cluster.network.ends[name].certificate = frozenset((certificate or name,))
    return node


def voters(cluster: FakeCluster) -> str:
    return "".join(cluster.nodes["a"].machine.configuration.voters)


def test_a_certificate_is_the_permission_to_join() -> None:
    cluster = founded()
    newcomer = joined(cluster, "d")
    cluster.run(lambda: newcomer.ready and voters(cluster) == "abcd")
    assert cluster.nodes["a"].machine.roster["d"].address == url_of("d")


def test_a_newcomer_whom_only_a_follower_sees_is_let_in_by_its_certificate() -> None:
    cluster = founded()
    leader = cluster.leader()
    assert leader is not None
    follower = next(name for name in "abc" if name != leader)
    newcomer = joined(cluster, "d", join=follower)
    cluster.network.sever("d", *({*"abc"} - {follower}))
    cluster.run(lambda: all("d" in node.machine.roster for node in cluster.nodes.values() if node is not newcomer))
    cluster.network.severed.clear()
    cluster.run(lambda: newcomer.ready and voters(cluster) == "abcd")


def test_a_certificate_of_another_name_opens_nothing() -> None:
    cluster = founded()
    thief = joined(cluster, "d", certificate="c")
    cluster.rest(1000)
    assert thief.raft is None
    assert all("d" not in node.machine.roster for node in cluster.nodes.values())


def test_without_certificates_a_newcomer_has_to_be_named_first() -> None:
    cluster = founded(encrypted=False)
    newcomer = cluster.start("d", join="abc")
    cluster.rest(1000)
    assert newcomer.raft is None
    assert all("d" not in node.machine.roster for node in cluster.nodes.values() if node is not newcomer)


def test_one_that_brings_a_map_of_founders_is_not_let_in_by_its_certificate_alone() -> None:
    cluster = founded()
    cluster.addresses["d"] = url_of("d")
    stranger = cluster.start("d")
    certify(cluster)
    cluster.rest(1000)
    assert stranger.raft is None
    assert "d" not in cluster.nodes["a"].machine.roster


def test_a_newcomer_that_a_new_configuration_made_forgotten_is_heard_again() -> None:
    cluster = founded()
    cluster.network.sever("d", "a", "b", "c")
    newcomer = joined(cluster, "d")
    cluster.network.severed.clear()
    cluster.run(lambda: any("d" in node.book.peers for node in cluster.nodes.values() if node is not newcomer))
    other = joined(cluster, "e")  # its coming is another configuration
    cluster.run(lambda: newcomer.ready and other.ready and voters(cluster) == "abcde")


# -- simulated -------------------------------------------------------------------------------------------------------------------------


def test_a_simulated_impostor_is_shut_out_and_the_others_go_on() -> None:
    with VirtualCluster(seed=3) as cluster:
        network = cluster._world.network
        network.certificates.update({name: name for name in "abc"})
        network.reset(1.0)
        cluster.advance(5.0)
        cluster["a"].put("before", "v")
        network.certificates["c"] = "b"
        network.reset(1.0)
        cluster.advance(20.0)
        cluster["a"].put("after", "v")
        assert {cluster[name].status().raft_leader for name in "ab"} <= {"a", "b"}
        assert all("is for b, not for c" in cluster._world.members[name].process.links.explain() for name in "ab")
        network.certificates["c"] = "c"
        assert cluster.run_until(lambda: cluster["c"].ready and cluster["c"].get("after", consistency="local") is not None)
