"""Clients that come by TLS: to real members, and to what is not what it should be; each refusal has a cause, a remedy and an end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynng
import pytest
from authority import Authority, Certified

from replkv import TLS, AuthenticationFailed, Client, Config, Event, NoLeader, Put, Replica, Settings, aio, connect, whereabouts
from replkv.__main__ import main
from replkv.cli.codes import UNAVAILABLE, USAGE

ROOT = Path(__file__).parent.parent.parent
FAST = Settings(heartbeat=0.05, promise=0.1, election_timeout=0.5)
PATIENCE = 20.0  # s; what is waited for takes a fraction of it
SOON = 0.5  # s in which a refusal has to be found out

Where = tuple[Replica, str]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("others"))


@contextmanager
def member(data: Path, tls: TLS | None, clients: str = "127.0.0.1:0") -> Iterator[Where]:
    """A member, and where it serves clients."""
    with Replica("a", data_dir=data, settings=FAST, config=Config(clients=clients), tls=tls) as replica:
        replica.wait_ready(PATIENCE)
        yield replica, whereabouts.find(str(data))[1]


@pytest.fixture
def where(ours: Authority, tmp_path: Path) -> Iterator[Where]:
    with member(tmp_path / "data", TLS(**ours.member("a").tls, client_ca=ours.client_ca)) as found:
        yield found


@contextmanager
def listening(certified: Certified | None, client_ca: str | None = None, version: int | None = None) -> Iterator[str]:
    """What members listen with, with certificates that no member would start with; it never says a word."""
    with pynng.Rep0() as server:
        if certified is not None:
            mode = pynng.TLSConfig.AUTH_MODE_REQUIRED if client_ca else pynng.TLSConfig.AUTH_MODE_OPTIONAL
            config = pynng.TLSConfig(
                pynng.TLSConfig.MODE_SERVER, ca_files=[client_ca or certified.ca], cert_key_file=certified.pem, auth_mode=mode
            )
            if version is not None:
                pynng.nng.check_err(pynng.lib.nng_tls_config_version(config._tls_config, version, version))
            server.tls_config = config
        listener = server.listen("tls+tcp://127.0.0.1:0" if certified is not None else "tcp://127.0.0.1:0")
        yield f"tcp://127.0.0.1:{str(listener.local_address).rpartition(':')[2]}"


def refusal(url: str, tls: TLS | None, **options: Any) -> str:
    """Return why a client can't connect."""
    with pytest.raises(NoLeader) as caught:
        connect(url, tls=tls, timeout=SOON, **options)
    assert url in str(caught.value)
    return str(caught.value)


# -- members -----------------------------------------------------------------------------------------------------------------------


def test_a_client_works_by_tls_as_without(where: Where, ours: Authority) -> None:
    replica, url = where
    with connect(url, tls=TLS(**ours.client("alice").tls)) as client:
        assert client.put("k", "v").revision == replica.revision
        assert client.get("k") == replica.get("k")
        with client.watch(prefix="w/", initial=True) as watch, client.lease(60) as lease:
            client.put("w/1", "x", lease=lease)
            assert isinstance([watch.next(PATIENCE) for _ in range(2)][1], Event)
        with client.lock("job") as lock:
            client.put("locked", "1", guard=lock)
        futures = [client.submit(Put(f"many/{number}", bytes(1000))) for number in range(500)]
        assert all(future.result(PATIENCE).revision for future in futures)
        assert client.scan(prefix="many/").count == 500


def test_large_values_go_both_ways_by_tls(where: Where, ours: Authority) -> None:
    with connect(where[1], tls=TLS(**ours.client("alice").tls)) as client:
        value = os.urandom(1 << 20)
        for number in range(12):
            client.put(f"big/{number}", value)
        assert all(kv.value == value for kv in client.scan(prefix="big/"))


def test_an_async_client_works_by_tls(where: Where, ours: Authority) -> None:
    async def test() -> None:
        async with aio.connect(where[1], tls=TLS(**ours.client("alice").tls)) as client:
            await asyncio.gather(*(client.add("n") for _ in range(100)))
            found = await client.get("n")
            assert found is not None

    asyncio.run(asyncio.wait_for(test(), PATIENCE))


def test_a_data_directory_leads_to_a_socket_without_tls(where: Where, ours: Authority, tmp_path: Path) -> None:
    for tls in (None, TLS(**ours.client("alice").tls)):
        with connect(tmp_path / "data", tls=tls) as client:
            assert client.status().name == "a"


def test_a_host_name_and_a_name_of_its_own_are_looked_for(where: Where, ours: Authority) -> None:
    port = where[1].rpartition(":")[2]
    alice = ours.client("alice")
    with connect(f"localhost:{port}", tls=TLS(**alice.tls)) as client:
        assert client.status().name == "a"
    with connect(where[1], tls=TLS(**alice.tls, server_name="a")) as client:
        assert client.status().name == "a"
    assert "its certificate is not for b" in refusal(where[1], TLS(**alice.tls, server_name="b"))


def test_members_may_let_clients_in_without_a_certificate(ours: Authority, tmp_path: Path) -> None:
    tls = TLS(**ours.member("a").tls, client_ca=ours.client_ca, require_client_cert=False)
    with member(tmp_path / "data", tls) as (_, url), connect(url, tls=TLS(ca=ours.ca)) as client:
        client.put("k", "v")
    with member(tmp_path / "data", tls) as (_, url), connect(url, tls=TLS(**ours.client("alice").tls)) as client:
        client.put("k", "v")


def test_a_member_demands_a_certificate_of_clients(where: Where, ours: Authority) -> None:
    said = refusal(where[1], TLS(ca=ours.ca))
    assert "certificate" in said
    assert "give TLS(cert=, key=)" in said


def test_a_client_of_another_authority_is_refused(where: Where, ours: Authority, others: Authority) -> None:
    mallory = others.client("alice")
    said = refusal(where[1], TLS(ca=ours.ca, cert=mallory.cert, key=mallory.key))
    assert re.search(r"may not accept .*client-alice\.crt|does not trust the authority", said)
    with connect(where[1], tls=TLS(**ours.client("alice").tls)) as client:
        assert client.status().name == "a"


def test_without_tls_nobody_is_let_in(where: Where) -> None:
    assert "tls=" in refusal(where[1], None)


def test_a_member_without_tls_is_none_for_a_client_with(ours: Authority, tmp_path: Path) -> None:
    with member(tmp_path / "data", None) as (_, url):
        assert "the member there has no tls=: start it with tls=" in refusal(url, TLS(**ours.client("alice").tls))


def _child(url: str, tls: TLS, parents: Client, results: Any) -> None:
    try:
        parents.close()
        with connect(url, tls=tls) as client:
            client.put("child", "was here")
            results.put(client.get("k"))
    except BaseException as error:
        results.put(error)
        raise


def test_a_forked_child_connects_by_tls_and_leaves_its_parents_connection_alone(where: Where, ours: Authority) -> None:
    tls = TLS(**ours.client("alice").tls)
    with connect(where[1], tls=tls) as client:
        client.put("k", "v")
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on: this process has threads
            child = context.Process(target=_child, args=(where[1], tls, client, results))
            child.start()
        assert results.get(timeout=PATIENCE) == client.get("k")
        child.join(PATIENCE)
        assert child.exitcode == 0
        assert client.get("child") is not None


def test_certificates_that_changed_count_for_the_next_connection(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    mine = old.client("alice")
    data = tmp_path / "data"
    with member(data, TLS(**old.member("a").tls, client_ca=old.client_ca)) as (_, url):
        client = connect(url, tls=TLS(**mine.tls))
        client.put("k", "v")
    with client:
        for path, by in ((mine.ca, new.ca), (mine.key, new.client("alice").key), (mine.cert, f"{new.directory}/client-alice.crt")):
            Path(f"{path}.new").write_bytes(Path(by).read_bytes())
            Path(f"{path}.new").chmod(0o600)
            Path(f"{path}.new").rename(path)
        with member(data, TLS(**new.member("a").tls, client_ca=new.client_ca), url):
            found = client.get("k", timeout=PATIENCE)
            assert found is not None
            assert found.value == b"v"


def test_users_prove_by_tls_who_they_are(
    ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a password or by a certificate, in a program and in a shell; whoever does neither is told so."""
    tls = TLS(**ours.member("a").tls, client_ca=ours.client_ca, require_client_cert=False)
    with member(tmp_path / "data", tls) as (replica, url):
        replica.auth.add_user("root", "toor")
        replica.auth.grant_role("root", "root")
        replica.auth.enable()
        with connect(url, tls=TLS(ca=ours.ca), user="root", password="toor") as client:
            client.put("k", "v")
        with connect(url, tls=TLS(**ours.client("root").tls)) as client:
            assert client.get("k") == replica.get("k")
        for proof in ({"user": "root", "password": "guess"}, {}):
            with pytest.raises(AuthenticationFailed) as caught:
                connect(url, tls=TLS(ca=ours.ca), **proof)  # type: ignore[arg-type]
            assert "guess" not in str(caught.value)
        (tmp_path / "password").write_text("toor\n")
        to = ["--to", url, "--ca", ours.ca]
        assert main(["get", "k", *to, "--user", "root", "--password-file", str(tmp_path / "password")]) == 0
        monkeypatch.setenv("REPLKV_PASSWORD", "toor")
        assert main(["get", "k", *to, "--user", "root"]) == 0
        assert main(["lock", *to, "--user", "root", "job", "--", "true"]) == 0
        capsys.readouterr()
        assert main(["get", "k", *to]) != 0
        assert "say --user" in capsys.readouterr().err


# -- what is no member ------------------------------------------------------------------------------------------------------------


VERSIONS = pytest.mark.parametrize("version", [pynng.lib.NNG_TLS_1_2, pynng.lib.NNG_TLS_1_3], ids=["1.2", "1.3"])


@VERSIONS
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda ours, _: ours.expired("a"), "its certificate has expired: renew it"),
        (lambda ours, _: ours.early("a"), "its certificate is not valid yet: look at the clocks"),
        (lambda _, others: others.member("a"), "not signed by an authority"),
        (lambda ours, _: ours.member("a", "db1.internal"), "its certificate is not for 127.0.0.1"),
    ],
)
def test_who_shows_a_wrong_certificate_is_not_believed(
    ours: Authority, others: Authority, version: int, make: Callable[[Authority, Authority], Certified], says: str
) -> None:
    with listening(make(ours, others), version=version) as url:
        assert says in refusal(url, TLS(**ours.client("alice").tls))


@VERSIONS
def test_a_refusal_after_the_handshake_is_understood(ours: Authority, others: Authority, version: int) -> None:
    """With TLS 1.3 a server looks at the client's certificate when the client believes to be connected."""
    with listening(ours.member("a"), ours.client_ca, version) as url:
        assert "give TLS(cert=, key=)" in refusal(url, TLS(ca=ours.ca))
        mallory = others.client("alice")
        said = refusal(url, TLS(ca=ours.ca, cert=mallory.cert, key=mallory.key))
        assert re.search(r"may not accept .*client-alice\.crt|does not trust the authority", said)


@VERSIONS
def test_plain_text_is_no_tls(ours: Authority, version: int) -> None:
    with listening(ours.member("a"), version=version) as url:
        assert "tls=" in refusal(url, None)


def test_tls_is_no_plain_text(ours: Authority) -> None:
    with listening(None) as url:
        assert "the member there has no tls=" in refusal(url, TLS(ca=ours.ca))


@pytest.mark.parametrize("speaks", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_what_is_no_member_at_all_ends_in_time(ours: Authority, speaks: bytes) -> None:
    """A port that never answers, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(PATIENCE)
        with pytest.raises(NoLeader) as caught:
            client = aio.connect(url, tls=TLS(ca=ours.ca), timeout=SOON)
            asyncio.run(_answered(client, server, speaks))
        assert not speaks or "no TLS is spoken there" in str(caught.value)


async def _answered(client: Any, server: socket.socket, speaks: bytes) -> None:
    opening = asyncio.create_task(client.open())
    end, _ = await asyncio.to_thread(server.accept)
    with end:
        end.sendall(speaks)
        await opening


def test_refused_connections_leave_no_descriptor(ours: Authority, others: Authority) -> None:
    with listening(others.member("a")) as url:
        refusal(url, TLS(ca=ours.ca))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            refusal(url, TLS(ca=ours.ca))
        assert len(os.listdir("/proc/self/fd")) <= before


# -- arguments ---------------------------------------------------------------------------------------------------------------------


def test_beyond_this_machine_it_takes_tls_or_the_word_insecure(ours: Authority) -> None:
    with pytest.raises(ValueError, match=r"nothing is encrypted on the way there: give tls=, or say insecure=True"):
        connect("db1.internal")
    with pytest.raises(ValueError, match=r"the password would travel there in clear: give tls=, or say insecure=True"):
        connect("db1.internal", user="alice", password="secret")
    unreachable = "db1.invalid:1"
    for options in ({"tls": TLS(ca=ours.ca)}, {"insecure": True}):
        with pytest.raises(NoLeader, match=unreachable):
            connect(unreachable, user="alice", password="secret", timeout=0.1, **options)


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"tls": "ca.crt"}, TypeError, "tls must be a TLS, not str"),
        ({"user": 5, "password": "x"}, TypeError, "the name of a user is a str, not int"),
        ({"user": "alice", "password": 7}, TypeError, "a password is bytes or a str, not int"),
        ({"user": "alice"}, ValueError, "user= and password= belong together"),
        ({"password": "secret"}, ValueError, "user= and password= belong together"),
        ({"user": "", "password": "secret"}, ValueError, "the name of a user has 1 to"),
        ({"user": "alice", "password": ""}, ValueError, "a password has 1 to"),
        ({"user": "alice", "password": "secret" * 1000}, ValueError, "a password has 1 to"),
        ({"tls": TLS(ca="/nowhere.crt")}, ValueError, "/nowhere.crt can't be read"),
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any], kind: type[Exception], says: str) -> None:
    for connecting in (connect, aio.connect):
        with pytest.raises(kind, match=re.escape(says)) as caught:
            connecting("127.0.0.1:1", **wrong)
        assert "secret" not in str(caught.value)


def test_a_certificate_that_has_expired_is_refused_before_anybody_is_asked(ours: Authority) -> None:
    expired = ours.expired("a")
    with pytest.raises(ValueError, match=rf"{expired.cert} .*expired"):
        connect("127.0.0.1:1", tls=TLS(**expired.tls))


# -- from a shell ------------------------------------------------------------------------------------------------------------------


def test_commands_go_by_tls(where: Where, ours: Authority, others: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    alice = ours.client("alice")
    to = ["--to", where[1], "--ca", alice.ca, "--cert", alice.cert, "--key", alice.key]
    assert main(["put", "k", "v", *to]) == 0
    assert main(["get", "k", *to]) == 0
    assert capsys.readouterr().out.endswith("v")
    assert main(["status", "--json", *to]) == 0
    assert main(["lock", *to, "job", "--", "true"]) == 0
    capsys.readouterr()
    assert main(["get", "k", "--to", where[1], "--ca", others.ca, "--timeout", str(SOON)]) == UNAVAILABLE
    assert re.search(rf"{others.ca}: .*--ca", capsys.readouterr().err)
    assert main(["get", "k", "--to", where[1], "--ca", ours.ca, "--timeout", str(SOON)]) == UNAVAILABLE
    assert "give --cert and --key" in capsys.readouterr().err


def _member_process(*options: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPLKV_")}
    command = [sys.executable, "-m", "replkv", "member", "--name", "a", "--clients", "127.0.0.1:0", *options]
    return subprocess.Popen(command, env={**environment, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)


def test_a_member_of_a_shell_takes_certificates(ours: Authority, tmp_path: Path) -> None:
    a, data = ours.member("a"), str(tmp_path / "data")
    options = ("--data-dir", data, "--ca", a.ca, "--cert", a.cert, "--key", a.key, "--client-ca", ours.client_ca)
    with _member_process(*options) as process:
        try:
            assert process.stderr is not None
            while "is ready" not in (line := process.stderr.readline()):
                assert line, "it has ended"
            url = whereabouts.find(data)[1]
            with connect(url, tls=TLS(**ours.client("alice").tls)) as client:
                assert client.put("k", "v").revision
            assert "give TLS(cert=, key=)" in refusal(url, TLS(ca=ours.ca))
        finally:
            process.terminate()
        process.stderr.read()
        assert process.wait(PATIENCE) == 0


def test_a_member_of_a_shell_names_a_certificate_that_it_cannot_use(ours: Authority, tmp_path: Path) -> None:
    b, data = ours.member("b"), str(tmp_path / "data")
    for options, says in (
        (("--ca", "/nowhere.crt", "--cert", b.cert, "--key", b.key), "/nowhere.crt can't be read"),
        (("--ca", b.ca, "--cert", b.cert, "--key", b.key), f"{b.cert} is a certificate for .*b, not for a"),
        (("--cert", b.cert, "--key", b.key), "REPLKV_TLS_CA"),
    ):
        with _member_process("--data-dir", data, *options) as process:
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == USAGE
            assert re.search(says, said), said
    assert not os.path.exists(data)
