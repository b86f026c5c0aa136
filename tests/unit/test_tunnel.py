"""``tunnel.py``: a client's end of TLS against a server's in memory, good ones and such as are to be refused."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from pathlib import Path

import pytest
from authority import Authority, Certified

from replkv.tls import TLS
from replkv.tunnel import Contexts, Tunnel, TunnelError, is_tls

PLAIN_GREETING = b"\x00SP\x00\x00\x31\x00\x00"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("others"))


class Server:
    """The other end."""

    def __init__(self, certified: Certified, client_ca: str | None = None, version: ssl.TLSVersion | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified.cert, certified.key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        if version is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")  # without which there is no 1.1
            context.minimum_version = context.maximum_version = version
        self.arriving, self.leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.arriving, self.leaving, server_side=True)
        self.greeted = False

    def handle(self, data: bytes) -> bytes:
        """Take bytes of the client in, and return what it said; greet it with a word."""
        self.arriving.write(data)
        pieces = []
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.greeted:
                self.tls.do_handshake()
                self.greeted = True
                self.tls.write(b"welcome")
            while piece := self.tls.read(1 << 20):
                pieces.append(piece)
        return b"".join(pieces)


def meet(tunnel: Tunnel, server: Server, cut: int = 1 << 20) -> bytes:
    """Let bytes go both ways until there are no more, and return what the client heard."""
    heard = b""
    while (out := tunnel.take()) or server.leaving.pending:
        refusal = None
        if out:
            try:
                server.handle(out)
            except ssl.SSLError as error:
                refusal = error
        while data := server.leaving.read(cut):
            heard += tunnel.decrypt(data)
        if refusal is not None:
            raise refusal
    return heard


def tunnel_of(certified: Certified | None, ca: str = "", host: str = "127.0.0.1", server_name: str | None = None) -> Tunnel:
    if certified is None:
        tls = TLS(ca=ca, server_name=server_name)
    else:
        tls = TLS(ca=ca or certified.ca, cert=certified.cert, key=certified.key, server_name=server_name)
    return Tunnel(Contexts(tls), host)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_what_goes_in_comes_out_on_the_other_side(ours: Authority, version: ssl.TLSVersion, cut: int) -> None:
    tunnel, server = tunnel_of(ours.client("alice")), Server(ours.member("a"), ours.client_ca, version)
    assert tunnel.encrypt(b"too early") == 0
    assert meet(tunnel, server, cut) == b"welcome"
    assert tunnel.is_open
    sent = os.urandom(300_000)
    taken = 0
    while taken < len(sent):
        taken += tunnel.encrypt(memoryview(sent)[taken:])
    assert server.handle(tunnel.take()) == sent
    server.tls.write(sent)
    heard = b""
    while data := server.leaving.read(cut if cut > 1 else 1000):
        heard += tunnel.decrypt(data)
    assert heard == sent


def test_a_client_may_do_without_a_certificate(ours: Authority, version: ssl.TLSVersion) -> None:
    assert meet(tunnel_of(None, ours.ca), Server(ours.member("a"), version=version)) == b"welcome"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost.", "[::1]", "a"])
def test_the_host_of_the_address_is_looked_for_in_the_certificate(ours: Authority, host: str) -> None:
    assert meet(tunnel_of(None, ours.ca, host), Server(ours.member("a"))) == b"welcome"


@pytest.mark.parametrize("host", ["127.0.0.2", "db1.internal", "[::2]", "localhost.evil"])
def test_a_certificate_for_another_host_is_refused(ours: Authority, host: str) -> None:
    with pytest.raises(TunnelError, match=r"its certificate is not for .*server_name="):
        meet(tunnel_of(None, ours.ca, host), Server(ours.member("a")))


def test_the_name_that_is_said_counts_and_not_the_host(ours: Authority) -> None:
    assert meet(tunnel_of(None, ours.ca, "10.0.0.1", "a"), Server(ours.member("a"))) == b"welcome"
    with pytest.raises(TunnelError, match="not for b"):
        meet(tunnel_of(None, ours.ca, "127.0.0.1", "b"), Server(ours.member("a")))


def test_an_authority_that_is_not_ours_is_not_trusted_whatever_the_system_trusts(ours: Authority, others: Authority) -> None:
    with pytest.raises(TunnelError, match=rf"not signed by an authority that is in {others.ca}: .*ca="):
        meet(tunnel_of(None, others.ca), Server(ours.member("a")))


@pytest.mark.parametrize(("kind", "says"), [("expired", "has expired: renew it"), ("early", "not valid yet: .*clocks")])
def test_a_certificate_that_is_not_valid_now_is_refused(ours: Authority, kind: str, says: str) -> None:
    with pytest.raises(TunnelError, match=says):
        meet(tunnel_of(None, ours.ca), Server(getattr(ours, kind)("a")))


def test_the_refused_side_is_told_why(ours: Authority, others: Authority) -> None:
    tunnel, server = tunnel_of(None, others.ca), Server(ours.member("a"))
    with pytest.raises(TunnelError):
        meet(tunnel, server)
    with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
        server.handle(tunnel.take())


def test_a_member_that_demands_a_certificate_says_so_after_the_handshake(ours: Authority, version: ssl.TLSVersion) -> None:
    with pytest.raises(TunnelError, match="certificate"):
        meet(tunnel_of(None, ours.ca), Server(ours.member("a"), ours.client_ca, version))


def test_a_certificate_of_another_authority_for_clients_is_refused(ours: Authority, others: Authority, version: ssl.TLSVersion) -> None:
    with pytest.raises(TunnelError, match="does not trust the authority"):
        meet(tunnel_of(others.client("alice"), ours.ca), Server(ours.member("a"), ours.client_ca, version))


def test_nothing_older_than_version_1_2_is_spoken(ours: Authority) -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server = Server(ours.member("a"), version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(TunnelError, match=r"no version of TLS from 1\.2 on"):
        meet(tunnel_of(None, ours.ca), server)


@pytest.mark.parametrize("cut", [1, 8])
def test_a_member_without_tls_is_recognised(ours: Authority, cut: int) -> None:
    tunnel = tunnel_of(None, ours.ca)
    with pytest.raises(TunnelError, match="the member there has no tls="):
        for at in range(0, 8, cut):
            tunnel.decrypt(PLAIN_GREETING[at : at + cut])


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x16\x02\x00", bytes(8), b"\xff"])
def test_what_speaks_no_tls_is_recognised(ours: Authority, said: bytes) -> None:
    with pytest.raises(TunnelError, match="no TLS is spoken there"):
        tunnel_of(None, ours.ca).decrypt(said)


def test_garbage_in_place_of_a_handshake_is_refused(ours: Authority) -> None:
    with pytest.raises(TunnelError, match="handshake"):
        tunnel_of(None, ours.ca).decrypt(b"\x16\x03\x03\x00\x05" + b"\xff" * 5)


def test_a_close_without_a_word_is_interpreted(ours: Authority) -> None:
    assert "perhaps no TLS" in tunnel_of(None, ours.ca).why_closed()
    for certified, says in ((None, r"give TLS(cert=, key=)"), (ours.client("alice"), "client-alice.crt")):
        tunnel, server = tunnel_of(certified, ours.ca), Server(ours.member("a"))
        server.handle(tunnel.take())
        tunnel.decrypt(server.leaving.read())
        assert says in tunnel.why_closed()


def test_a_refusal_that_cannot_be_decrypted_is_one_all_the_same(ours: Authority) -> None:
    """As of nng's TLS, 3.6 of Mbed TLS: it refuses a client's certificate with keys that OpenSSL no longer has."""
    tunnel, server = tunnel_of(None, ours.ca), Server(ours.member("a"))
    server.handle(tunnel.take())
    tunnel.decrypt(server.leaving.read())
    assert tunnel.is_open
    with pytest.raises(TunnelError, match=r"may demand a certificate"):
        tunnel.decrypt(b"\x17\x03\x03\x00\x13" + os.urandom(19))


def test_what_was_said_before_a_close_is_not_lost(ours: Authority, version: ssl.TLSVersion) -> None:
    tunnel, server = tunnel_of(None, ours.ca), Server(ours.member("a"), version=version)
    meet(tunnel, server)
    server.tls.write(b"bye")
    with contextlib.suppress(ssl.SSLWantReadError):
        server.tls.unwrap()
    assert not tunnel.ended
    assert tunnel.decrypt(server.leaving.read()) == b"bye"
    assert tunnel.ended


def test_first_bytes_of_tls() -> None:
    assert is_tls(b"\x15")
    assert is_tls(b"\x16\x03\x01")
    assert not is_tls(b"\x00SP")
    assert not is_tls(b"\x16\x02")


# -- files -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changing(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "changing")


def replace(path: str, by: str) -> None:
    """Put another file in the place of one, as a rotation does."""
    temporary = Path(f"{path}.new")
    temporary.write_bytes(Path(by).read_bytes())
    temporary.chmod(0o600)
    temporary.rename(path)


def test_files_that_changed_are_read_again_by_the_next_connection(changing: Authority, others: Authority) -> None:
    alice = changing.client("alice")
    contexts = Contexts(TLS(**alice.tls))
    first = contexts.current()
    assert contexts.current() is first
    replace(changing.ca, others.ca)
    assert contexts.current() is not first
    assert meet(Tunnel(contexts, "localhost"), Server(others.member("a"))) == b"welcome"


def test_files_that_cannot_be_used_leave_what_was_read_before_in_use(changing: Authority, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = changing.client("alice"), changing.client("bob")
    contexts = Contexts(TLS(**alice.tls))
    first = contexts.current()
    replace(alice.cert, bob.cert)
    with caplog.at_level(logging.WARNING):
        assert contexts.current() is first
        assert contexts.current() is first
    assert [record.getMessage() for record in caplog.records if alice.key in record.getMessage()] == caplog.messages
    assert len(caplog.messages) == 1
    replace(alice.key, bob.key)
    assert contexts.current() is not first


def test_a_file_that_is_missing_is_named(ours: Authority, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.crt"):
        Contexts(TLS(ca=tmp_path / "nowhere.crt"))
