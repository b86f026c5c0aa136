"""``replkv certs``: what it makes is tried by two TLS libraries, and what it writes is never seen by others, half written, or lost."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pynng
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from eventual import PATIENCE

from replkv.__main__ import main
from replkv.cli import authority
from replkv.cli.authority import Authority, Entry, Issued, found, now, write_pair
from replkv.cli.certs import DAYS
from replkv.cli.codes import OK, REFUSED, UNAVAILABLE, USAGE
from replkv.tls import TLS

ROOT = Path(__file__).parent.parent.parent
DAY = dt.timedelta(days=1)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command in this process, in a directory of the test's own: its code, its output, its complaints."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: str) -> tuple[int, str, str]:
        code = main(["certs", *arguments.split()])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """A directory with both authorities."""
    made = Authority(tmp_path / "certs")
    made.init(days=3650)
    return made


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def matches(stem: Path) -> bool:
    """Whether a key and a certificate belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(f"{stem}.crt", f"{stem}.key")
    except ssl.SSLError:
        return False
    return True


# -- two TLS libraries ----------------------------------------------------------------------------------------------------------------


class Tried:
    """Mutual TLS between two ends that both trust one authority.

    Args:
        server: path of the certificate and the key of the one, without suffix.
        client: of the other.
        name: of whom it means to reach.
        trusted: the authority that the server trusts of clients.
    """

    def __init__(self, server: Path, client: Path, name: str, *, trusted: Path | None = None) -> None:
        self.server, self.client, self.name = server, client, name
        self.ca = str(server.parent / "ca.crt")
        self.trusted = str(trusted or self.ca)

    def by_ssl(self) -> str:
        """Return what the server learns of the client by OpenSSL, with the strictness that is usual from Python 3.13 on.

        Raises:
            SSLError: one refused the other.
        """
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        theirs.load_cert_chain(f"{self.server}.crt", f"{self.server}.key")
        theirs.load_verify_locations(self.trusted)
        theirs.verify_mode = ssl.CERT_REQUIRED
        mine = ssl.create_default_context(cafile=self.ca)
        mine.load_cert_chain(f"{self.client}.crt", f"{self.client}.key")
        theirs.verify_flags |= ssl.VERIFY_X509_STRICT
        mine.verify_flags |= ssl.VERIFY_X509_STRICT
        ends = socket.socketpair()
        for end in ends:
            end.settimeout(PATIENCE)

        def serve() -> str:
            with theirs.wrap_socket(ends[0], server_side=True) as end:
                end.sendall(b"welcome")
                return str(dict(pair[0] for pair in end.getpeercert()["subject"])["commonName"])  # type: ignore[index, misc]

        with ThreadPoolExecutor(1) as pool, ends[1]:
            served = pool.submit(serve)
            with mine.wrap_socket(ends[1], server_hostname=self.name) as end:
                assert end.recv(7) == b"welcome"
            return served.result(PATIENCE)

    def by_nng(self) -> bytes:
        """Return what the client gets by nng's Mbed TLS, which members use.

        Raises:
            CryptoError: one refused the other.
        """
        for stem in (self.server, self.client):
            Path(f"{stem}.pem").write_bytes(Path(f"{stem}.crt").read_bytes() + Path(f"{stem}.key").read_bytes())
        config = pynng.TLSConfig
        with pynng.Pair0(send_timeout=PATIENCE * 1000) as theirs, pynng.Pair0(recv_timeout=PATIENCE * 1000) as mine:
            theirs.tls_config = config(
                config.MODE_SERVER, ca_files=[self.trusted], cert_key_file=f"{self.server}.pem", auth_mode=config.AUTH_MODE_REQUIRED
            )
            mine.tls_config = config(config.MODE_CLIENT, server_name=self.name, ca_files=[self.ca], cert_key_file=f"{self.client}.pem")
            port = socket.ntohs(theirs.listen("tls+tcp://127.0.0.1:0").local_address.port)
            mine.dial(f"tls+tcp://127.0.0.1:{port}", block=True)
            theirs.send(b"welcome")
            return bytes(mine.recv())


@pytest.mark.parametrize("name", ["a", "node_1.zone-2", "10.0.0.7", "x" * 63, "7", "A"])
def test_members_know_each_other_by_name_and_clients_by_host(ours: Authority, name: str) -> None:
    for member in (name, "peer"):
        ours.member(member, ["db1.internal", "10.0.0.1", "::1"], days=DAYS)
    server, client = ours.directory / name, ours.directory / "peer"
    for by in (name, "db1.internal", "10.0.0.1", "::1"):
        tried = Tried(server, client, by)
        if by != "7":  # which Python takes for the address 0.0.0.7
            assert tried.by_ssl() == "peer"
        assert tried.by_nng() == b"welcome"


@pytest.mark.parametrize("name", ["a", "node_1.zone-2", "10.0.0.7", "x" * 63, "7", "A"])
def test_members_and_clients_take_what_is_made(ours: Authority, name: str) -> None:
    ours.member(name, ["127.0.0.1"], days=DAYS)
    ours.client(name, days=DAYS)
    ca, client_ca = ours.directory / "ca.crt", ours.directory / "client-ca.crt"
    TLS(ca=ca, client_ca=client_ca, cert=ours.directory / f"{name}.crt", key=ours.directory / f"{name}.key").load(name)
    clients = ours.directory / "clients"
    client = TLS(ca=ca, cert=clients / f"{name}.crt", key=clients / f"{name}.key")
    client.load()
    with pytest.raises(ValueError, match=r"\.crt"):
        client.load(name)


def test_another_name_is_refused(ours: Authority) -> None:
    for member in ("a", "b"):
        ours.member(member, ["db1"], days=DAYS)
    tried = Tried(ours.directory / "a", ours.directory / "b", "b")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'b'"):
        tried.by_ssl()
    with pytest.raises(pynng.CryptoError):
        tried.by_nng()


def test_a_client_is_known_where_clients_are_and_never_taken_for_the_member_of_its_name(ours: Authority) -> None:
    for member in ("a", "b"):
        ours.member(member, ["127.0.0.1"], days=DAYS)
    ours.client("b", days=DAYS)
    server, client = ours.directory / "a", ours.directory / "clients" / "b"
    at_the_door = Tried(server, client, "a", trusted=ours.directory / "client-ca.crt")
    assert at_the_door.by_ssl() == "b"
    assert at_the_door.by_nng() == b"welcome"
    among_members = Tried(server, client, "a")
    with pytest.raises(ssl.SSLError, match="unknown ca|UNKNOWN_CA"):
        among_members.by_ssl()
    with pytest.raises(pynng.CryptoError):
        among_members.by_nng()


def test_a_client_can_not_serve_even_where_its_authority_is_trusted(ours: Authority) -> None:
    ours.member("b", ["127.0.0.1"], days=DAYS)
    by = Issued(certificate(ours.directory / "ca.crt"), authority._read_key(ours.directory / "ca.key"))
    write_pair(ours.directory / "a", by.sign("a", ["a"], serves=False, begin=now() - DAY, end=now() + DAY), force=False)
    tried = Tried(ours.directory / "a", ours.directory / "b", "a")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable certificate purpose|unsupported certificate purpose"):
        tried.by_ssl()
    with pytest.raises(pynng.NNGException):  # Mbed TLS does not even offer it
        tried.by_nng()


@pytest.mark.parametrize("kind", ["RSA", "P-384"])
def test_an_authority_that_was_there_before_can_be_used(ours: Authority, kind: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an older one")])
    built = authority._builder(name, key, name, key, now() - DAY, now() + DAY)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    built = built.add_extension(authority._usage(signs=True), critical=True)
    older = Issued(built.sign(key, hashes.SHA256()), key)
    bundle = (ours.directory / "ca.crt").read_bytes() + older.certificate_pem
    (ours.directory / "ca.crt").write_bytes(bundle)
    (ours.directory / "ca.key").write_bytes(older.key_pem)
    for member in ("a", "b"):
        made = ours.member(member, ["127.0.0.1"], days=DAYS)
        assert made.troubles == ()
        assert made.left < DAY  # not beyond the authority
    tried = Tried(ours.directory / "a", ours.directory / "b", "a")
    assert tried.by_ssl() == "b"
    assert tried.by_nng() == b"welcome"


# -- certificates ---------------------------------------------------------------------------------------------------------------------


def test_a_certificate_is_valid_from_an_hour_ago_for_the_days_that_were_asked_for(ours: Authority) -> None:
    made = ours.member("a", ["db1"], days=7)
    assert made.begin is not None
    assert dt.timedelta(minutes=59) < now() - made.begin < dt.timedelta(minutes=61)
    assert 6.9 * DAY < made.left <= 7 * DAY
    assert ours.client("alice", days=1).left <= DAY


def test_serial_numbers_are_random_and_authorities_can_be_told_apart(ours: Authority, tmp_path: Path) -> None:
    Authority(tmp_path / "others").init(days=1)
    for number in range(3):
        ours.client(f"u{number}", days=1)
    made = [certificate(path) for path in tmp_path.rglob("*.crt")]
    assert len(made) == 7
    assert len({one.serial_number for one in made}) == 7
    assert min(one.serial_number.bit_length() for one in made) > 100
    assert len({one.subject for one in made}) == 7


def test_what_is_made_is_what_the_directory_shows(ours: Authority) -> None:
    member = ours.member("a", ["DB1.internal.", "[::1]", "10.0.0.1", "a"], days=DAYS)
    client = ours.client("Zoë", days=DAYS)
    assert member.hosts == ("a", "DB1.internal", "::1", "10.0.0.1")
    assert (client.name, client.hosts) == ("Zoë", ())
    ca, client_ca, *others = ours.entries(soon=30)
    assert (ca.kind, client_ca.kind) == ("authority for members", "authority for clients")
    assert others == [member, client]
    assert not any(entry.troubles for entry in (ca, client_ca, *others))


def test_an_authority_can_not_sign_another(ours: Authority) -> None:
    for name in ("ca", "client-ca"):
        constraints = certificate(ours.directory / f"{name}.crt").extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


# -- files ----------------------------------------------------------------------------------------------------------------------------


def test_a_key_is_never_readable_by_others_not_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: dict[str, int] = {}
    original = os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        fd = original(path, flags, mode, **options)
        if flags & os.O_CREAT:
            modes[str(path)] = os.fstat(fd).st_mode & 0o777
        return fd

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        ours = Authority(tmp_path / "certs")
        ours.init(days=1)
        ours.member("a", ["db1"], days=1)
        ours.member("a", days=1, force=True)
        ours.client("alice", days=1)
    finally:
        os.umask(before)
    assert len(modes) == 10
    assert {mode for path, mode in modes.items() if ".key" in path} == {0o600}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.rglob("*.key"))
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in tmp_path.rglob("*.crt"))
    assert {path.stat().st_mode & 0o777 for path in (ours.directory, ours.directory / "clients")} == {0o700}
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 8  # and nothing that was for a moment


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", ["ca.crt", "ca.key", "client-ca.crt", "client-ca.key"])
def test_no_authority_is_replaced_unless_that_is_wished(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(FileExistsError, match=r"force=True, which makes worthless"):
        Authority(tmp_path).init(days=1)
    assert contents(tmp_path) == {tmp_path / there: b"precious"}
    Authority(tmp_path).init(days=1, force=True)
    assert matches(tmp_path / "ca")
    assert matches(tmp_path / "client-ca")


@pytest.mark.parametrize("there", ["a.crt", "a.key"])
def test_no_certificate_and_no_key_is_replaced_unless_that_is_wished(ours: Authority, there: str) -> None:
    ours.directory.joinpath(there).write_text("precious")
    before = contents(ours.directory)
    with pytest.raises(FileExistsError, match=f"{there} is there already"):
        ours.member("a", ["db1"], days=1)
    assert contents(ours.directory) == before
    assert ours.member("a", ["db1"], days=1, force=True).troubles == ()


def test_a_file_that_comes_at_the_last_moment_is_not_replaced(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours.directory / "a.key").write_text("precious")
    before = contents(ours.directory)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(FileExistsError):
        ours.member("a", ["db1"], days=1)
    assert contents(ours.directory) == before


def test_a_reader_of_the_pair_sees_two_that_match_or_that_do_not_never_half_of_one(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.member("a", ["db1"], days=1)
    stem = ours.directory / "a"
    seen = [matches(stem)]
    original = Path.replace

    def watched(path: Path, target: Path) -> Path:
        replaced = original(path, target)
        seen.append(matches(stem))
        return replaced

    monkeypatch.setattr(Path, "replace", watched)
    ours.member("a", days=1, force=True)
    assert seen == [True, False, True]


def test_a_disk_that_is_full_leaves_the_old_pair_and_nothing_else(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    ours.member("a", ["db1"], days=1)
    before = contents(ours.directory)
    for syncs in range(2):
        turns = itertools.count()

        def full(fd: int, turns: Any = turns, syncs: int = syncs) -> None:
            if next(turns) == syncs:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                ours.member("a", days=1, force=True)
        assert contents(ours.directory) == before


def test_root_leaves_replaced_files_to_who_has_to_read_them(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    ours.member("a", ["db1"], days=1)
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: given.append((uid, gid)))
    ours.member("a", days=1, force=True)
    ours.member("b", ["db2"], days=1, force=True)
    there = (ours.directory / "a.key").stat()
    assert given == [(there.st_uid, there.st_gid)] * 2


# -- what is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x" * 64, "a/b", "../a", ".a", "-a", "a b", "é", "a..b", "a\n", "*", "ca", "client-ca", "CA"])
def test_a_member_whose_name_no_certificate_can_bear_is_refused(ours: Authority, name: str) -> None:
    before = contents(ours.directory)
    with pytest.raises(ValueError, match="a certificate can't name a member|must not be named"):
        ours.member(name, ["db1"], days=1)
    assert contents(ours.directory) == before


@pytest.mark.parametrize("user", ["", "x" * 65, "é" * 33, "a/b", "../a", ".a", "-a", "a\0", "a\n"])
def test_a_user_whose_name_no_certificate_can_bear_is_refused(ours: Authority, user: str) -> None:
    before = contents(ours.directory)
    with pytest.raises(ValueError, match="a certificate can't name a user"):
        ours.client(user, days=1)
    assert contents(ours.directory) == before


@pytest.mark.parametrize(
    "host",
    [
        "",
        "db1:7420",
        "10.0.0.1:7420",
        "[::1]:7420",
        "*",
        "*.internal",
        "tcp://db1",
        "a b",
        "10.1",
        "é.example",
        "0.0.0.0",
        "[::]",
        "fe80::1%eth0",
    ],
)
def test_a_host_that_is_none_is_refused(ours: Authority, host: str) -> None:
    with pytest.raises(ValueError, match=r"host|address"):
        ours.member("a", [host], days=1)
    assert not (ours.directory / "a.key").exists()


def test_a_certificate_without_hosts_is_refused(ours: Authority) -> None:
    for force in (False, True):
        with pytest.raises(ValueError, match="say by which host names"):
            ours.member("a", days=1, force=force)


def test_an_authority_that_has_ended_signs_nothing(tmp_path: Path) -> None:
    write_pair(tmp_path / "ca", found("members", now() - 2 * DAY, now() - DAY), force=False)
    with pytest.raises(ValueError, match="has ended on .*: make a new one in another directory"):
        Authority(tmp_path).member("a", ["db1"], days=1)


def encrypted() -> bytes:
    secret = serialization.BestAvailableEncryption(b"secret")
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


def strange() -> bytes:
    plain = serialization.NoEncryption()
    return ed25519.Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def another() -> bytes:
    return found("others", now(), now() + DAY).key_pem


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (encrypted, "ca.key is encrypted"),
        (strange, "neither RSA nor of an elliptic curve"),
        (another, "ca.key does not belong to .*ca.crt"),
        (lambda: b"nothing", "ca.key is no private key in PEM"),
    ],
)
def test_a_key_of_the_authority_that_can_not_sign_says_why(ours: Authority, key: Callable[[], bytes], says: str) -> None:
    (ours.directory / "ca.key").write_bytes(key())
    with pytest.raises(ValueError, match=says):
        ours.member("a", ["db1"], days=1)
    assert not (ours.directory / "a.key").exists()


# -- what is shown --------------------------------------------------------------------------------------------------------------------


def troubles(ours: Authority, name: str) -> str:
    (entry,) = (entry for entry in ours.entries(soon=30) if entry.path.name == f"{name}.crt")
    return "; ".join(entry.troubles)


def test_what_is_wrong_with_a_certificate_is_told(ours: Authority, tmp_path: Path) -> None:
    by = Issued(certificate(ours.directory / "ca.crt"), authority._read_key(ours.directory / "ca.key"))
    write_pair(ours.directory / "old", by.sign("old", ["x"], serves=True, begin=now() - 2 * DAY, end=now() - DAY), force=False)
    write_pair(ours.directory / "early", by.sign("early", ["x"], serves=True, begin=now() + DAY, end=now() + 90 * DAY), force=False)
    for name in ("other", "open", "renamed", "keyless", "garbled"):
        ours.member(name, ["x"], days=90)
    ours.member("soon", ["x"], days=29)
    shutil.copy(ours.directory / "old.key", ours.directory / "other.key")
    (ours.directory / "open.key").chmod(0o640)
    shutil.copy(ours.directory / "renamed.crt", ours.directory / "new.crt")
    (ours.directory / "keyless.key").unlink()
    (ours.directory / "garbled.key").write_text("nothing")
    (ours.directory / "nothing.crt").write_text("nothing")
    theirs = Authority(tmp_path / "theirs")
    theirs.init(days=90)
    theirs.member("foreign", ["x"], days=90)
    shutil.copy(theirs.directory / "foreign.crt", ours.directory)
    ours.client("alice", days=90)
    shutil.copy(ours.directory / "clients" / "alice.crt", ours.directory)

    assert troubles(ours, "keyless") == troubles(ours, "renamed") == troubles(ours, "ca") == ""
    for name, says in {
        "old": "has ended on ",
        "early": "is valid from ",
        "soon": "ends on ",
        "other": "does not belong to ",
        "open": "has a key that others may read",
        "new": "names 'renamed', not 'new'",
        "garbled": "has a key that can't be used",
        "nothing": "is no certificate in PEM",
        "foreign": "is not signed by ",
    }.items():
        assert troubles(ours, name).startswith(says), name
        assert ";" not in troubles(ours, name)
    as_member, as_client = (entry for entry in ours.entries() if entry.name == "alice")
    assert as_member.troubles == (f"is not signed by {ours.directory / 'ca.crt'}",)
    assert as_client.troubles == ()
    (ours.directory / "client-ca.crt").unlink()
    assert "can't be checked" in ours.entries()[-1].troubles[0]


# -- the command ----------------------------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_made_and_what_comes_next(run: Run, tmp_path: Path) -> None:
    code, out, err = run("init certs")
    assert (code, err) == (OK, "")
    assert out.splitlines()[-1] == "next: replkv certs member certs NAME --host HOST, for each member"
    code, out, err = run("member certs a --host db1 --local")
    assert (code, err) == (OK, "")
    made, then = out.splitlines()
    assert made.startswith("certs/a.crt and a.key: member a at a, db1, localhost, 127.0.0.1, ::1, valid until ")
    assert 'Replica("a", …, tls=TLS(ca="ca.crt", cert="a.crt", key="a.key", client_ca="client-ca.crt"))' in then
    code, out, err = run("client certs alice")
    assert (code, err) == (OK, "")
    assert 'connect(…, tls=TLS(ca="ca.crt", cert="alice.crt", key="alice.key"))' in out.splitlines()[-1]
    assert Tried(tmp_path / "certs" / "a", tmp_path / "certs" / "a", "localhost").by_nng() == b"welcome"


def test_what_is_there_is_drawn_and_what_ends_soon_is_told_with_the_remedy(run: Run) -> None:
    for arguments in ("init certs", "member certs a --host db1", "client certs alice --days 7"):
        assert run(arguments)[0] == OK
    code, out, err = run("show certs --within 7")
    assert (code, out.splitlines()[0].split()[:2]) == (REFUSED, ["file", "of"])
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "certs/ca.crt", "certs/client-ca.crt", "certs/a.crt", "certs/clients/alice.crt"
    ]  # fmt: skip
    assert err.startswith("replkv: certs/clients/alice.crt ends on ")
    assert err.endswith(": make it again with 'replkv certs client certs alice --force'\n")
    assert run("client certs alice --force")[0] == OK
    code, out, err = run("show certs --json")
    assert (code, err) == (OK, "")
    shown = json.loads(out)
    assert [one["name"] for one in shown[2:]] == ["a", "alice"]
    assert shown[2]["hosts"] == ["a", "db1"]
    assert dt.datetime.fromisoformat(shown[2]["end"]) - now() > (DAYS - 1) * DAY
    code, _, err = run("show certs --within 4000")
    assert (code, err.count("\n")) == (REFUSED, 4)
    assert err.splitlines()[0].endswith("docs/CLI.md says how members come to trust it")


def test_what_was_made_is_told_in_json(run: Run) -> None:
    code, out, _ = run("init certs --json --days 10")
    assert (code, [one["kind"] for one in json.loads(out)]) == (OK, ["authority for members", "authority for clients"])
    code, out, _ = run("member certs a --host db1 --json")
    (made,) = json.loads(out)
    assert {
        "path": "certs/a.crt",
        "kind": "member",
        "name": "a",
        "hosts": ["a", "db1"],
        "key": True,
        "troubles": [],
    }.items() <= made.items()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("show certs", USAGE, "'replkv certs init certs'"),
        ("member certs a --host db1", USAGE, "'replkv certs init certs'"),
        ("client certs alice", USAGE, "'replkv certs init certs'"),
        ("init file", USAGE, "is a file"),
        ("init file/certs", UNAVAILABLE, "Not a directory"),
        ("init certs --days 0", USAGE, "--days"),
        ("member certs", USAGE, "NAME"),
        ("nothing", USAGE, "No such command"),
    ],
)
def test_wrong_usage_is_a_line(run: Run, tmp_path: Path, arguments: str, code: int, says: str) -> None:
    (tmp_path / "file").touch()
    told = run(arguments)
    assert told[:2] == (code, "")
    assert says in told[2]
    assert told[2].count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_would_be_replaced_names_the_option(run: Run) -> None:
    assert [run("init certs")[0], run("member certs a --host db1")[0]] == [OK, OK]
    for arguments in ("init certs", "member certs a --host db1"):
        code, out, err = run(arguments)
        assert (code, out) == (UNAVAILABLE, "")
        assert "is there already" in err
        assert "pass --force" in err


def test_without_a_command_it_says_which_there_are(run: Run) -> None:
    code, out, err = run("")
    assert (code, err) == (OK, "")
    assert 'tls=TLS(ca="ca.crt", cert="a.crt", key="a.key", client_ca="client-ca.crt")' in out


def test_without_cryptography_it_says_what_to_install(tmp_path: Path) -> None:
    without = "import sys; sys.modules['cryptography'] = None; from replkv.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", without, "certs", "init", str(tmp_path / "certs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "certs needs cryptography: pip install 'replkv[certs]'" in done.stderr
    assert not (tmp_path / "certs").exists()


def test_an_entry_that_can_not_be_read_has_no_end() -> None:
    assert Entry(Path("x.crt"), "member", "x").left <= dt.timedelta()
