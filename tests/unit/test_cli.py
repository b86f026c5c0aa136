"""The command line, against a real member: what it prints, for people and for scripts, and with which code it ends."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from eventual import PATIENCE, eventually
from rich.console import Console

from replkv import (
    Closed,
    Conflict,
    Corrupt,
    DiskFull,
    LockLost,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    Replica,
    ReplkvError,
    Settings,
    Status,
    Transfer,
    WaitTimeout,
)
from replkv.__main__ import main
from replkv.cli.app import commands
from replkv.cli.asking import Asking, asking, targets_of
from replkv.cli.codes import INTERRUPTED, REFUSED, TRY_AGAIN, UNAVAILABLE, USAGE, code_of
from replkv.cli.forms import escaped, json_field
from replkv.cli.panorama import Panorama, Row, drawn
from replkv.ops import Revoke
from replkv.plans import Write

ROOT = Path(__file__).parent.parent.parent
FAST = Settings(heartbeat=0.02, promise=0.03, election_timeout=0.3)
RESERVED = b"\x00"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Replica, str]]:
    directory = str(tmp_path_factory.mktemp("member"))
    with Replica("m", data_dir=directory, settings=FAST) as replica:
        replica.wait_ready()
        yield replica, directory


@pytest.fixture
def replica(member: tuple[Replica, str], monkeypatch: pytest.MonkeyPatch) -> Replica:
    """A member without keys, which commands ask."""
    replica, directory = member
    replica.delete(start=b"\x01")
    monkeypatch.setenv("REPLKV_TO", directory)
    return replica


@pytest.fixture
def run(replica: Replica, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """A command in this process: its code, its output, its complaints."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capfdbinary.readouterr()
        return code, out.decode("latin-1"), err.decode()

    return run


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test, whatever happens."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def started(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "replkv", *arguments]
    pipe = subprocess.PIPE
    options: dict[str, Any] = {"env": environment, "text": True, "start_new_session": True}
    return ended(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options))


# -- keys --------------------------------------------------------------------------------------------------------------------------


def test_a_value_comes_out_as_it_went_in(run: Run, replica: Replica) -> None:
    code, out, err = run("put", "greeting", "hello")
    assert (code, out, err) == (0, f"revision {replica.revision}\n", "")
    assert run("get", "greeting") == (0, "hello", "")


def test_bytes_that_are_no_text_go_through_stdin_and_stdout(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blob = bytes(range(256))
    (tmp_path / "blob").write_bytes(blob)
    for arguments in (("put", "blob"), ("put", "blob", "-")):
        with (tmp_path / "blob").open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            assert run(*arguments)[0] == 0
        assert run("get", "blob") == (0, blob.decode("latin-1"), "")


def test_a_key_need_not_be_text(run: Run, replica: Replica) -> None:
    assert run("put", os.fsdecode(b"\xff\x01"), os.fsdecode(b"\xfe"))[0] == 0
    assert [(kv.key, kv.value) for kv in replica.scan()] == [(b"\xff\x01", b"\xfe")]
    assert run("scan") == (0, "\\xff\\x01\t\\xfe\n", "")


def test_a_missing_key_is_code_1(run: Run) -> None:
    assert run("get", "no\nsuch") == (REFUSED, "", "replkv: there is no key no\\nsuch\n")


def test_put_obeys_its_conditions(run: Run, replica: Replica) -> None:
    assert run("put", "k", "1", "--if-mod-revision", "0")[0] == 0
    code, out, err = run("put", "k", "2", "--if-mod-revision", "0")
    assert (code, out) == (REFUSED, "")
    assert re.fullmatch(r"replkv: .*\n", err)
    assert run("put", "gone", "soon", "--ttl", "0.1")[0] == 0
    eventually(lambda: replica.get("gone") is None)


def test_get_reads_the_past_and_locally(run: Run, replica: Replica) -> None:
    before = replica.put("k", "old").revision
    replica.put("k", "new")
    assert run("get", "k", "--revision", str(before))[1] == "old"
    assert run("get", "k", "--consistency", "local")[1] == "new"


def test_scan_lists_a_pair_a_line(run: Run, replica: Replica) -> None:
    for key, value in (("a/1", "x"), ("a/2", "two\nlines\tand \\"), ("b", "z")):
        replica.put(key, value)
    assert run("scan", "a/") == (0, "a/1\tx\na/2\ttwo\\nlines\\tand \\\\\n", "")
    assert run("scan", "--keys-only", "--sort", "mod", "--descending")[1] == "b\na/2\na/1\n"
    assert run("scan", "--start", "a/2", "--end", "b", "--keys-only")[1] == "a/2\n"
    assert run("scan", "--count")[1] == "3\n"
    assert run("scan", "a/", "--limit", "1", "--keys-only") == (0, "a/1\n", "replkv: only 1 of 2 keys are listed\n")


def test_json_tells_everything_and_bytes_exactly(run: Run, replica: Replica) -> None:
    replica.put("text", "ü")
    revision = replica.put("bytes", b"\xff").revision
    code, out, _ = run("scan", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["revision"] == revision
    first, second = said["kvs"]
    assert (first["key"], first["value_base64"], second["value"]) == ("bytes", "/w==", "ü")
    assert first["mod_revision"] == first["create_revision"] == revision
    assert json.loads(run("get", "bytes", "--json")[1]) == first
    assert "value" not in json.loads(run("scan", "--json", "--keys-only", "text")[1])["kvs"][0]
    assert json.loads(run("put", "k", "v", "--json")[1]) == {"revision": revision + 1}
    assert json.loads(run("delete", "k", "--json")[1]) == {"deleted": 1, "revision": revision + 2}


def test_delete_says_how_many(run: Run, replica: Replica) -> None:
    for number in range(5):
        replica.put(f"k{number}", "v")
    assert run("delete", "k0")[1].startswith("1 key deleted, revision ")
    assert run("delete", "--start", "k1", "--end", "k3")[1].startswith("2 keys deleted, revision ")
    assert run("delete", "--prefix", "k")[1].startswith("2 keys deleted, revision ")
    assert run("delete", "--prefix", "k")[:2] == (0, "0 keys deleted\n")


@pytest.mark.parametrize(
    "data", [b"", b"plain", "grün".encode(), b"\\xff", b"\xff", b"a\nb\tc", b"\x1b[31m", "\u202e\x85\ufffe".encode(), b"\xc3("]
)
def test_what_is_escaped_is_one_printable_line_that_says_which_bytes(data: bytes) -> None:
    text = escaped(data)
    assert text.isprintable()
    escape = re.compile(r"\\(?:x(..)|u(....)|U(.{8})|(n)|(t)|(r)|(\\))")

    def unescaped(found: re.Match[str]) -> str:
        byte, short, long, *others = found.groups()
        if byte and int(byte, 16) >= 0x80:
            return bytes([int(byte, 16)]).decode(errors="surrogateescape")
        number = byte or short or long
        return chr(int(number, 16)) if number else "".join(to for to, one in zip("\n\t\r\\", others, strict=True) if one)

    assert escape.sub(unescaped, text).encode(errors="surrogateescape") == data


def test_a_field_of_json_is_text_or_base64() -> None:
    assert json_field("key", "ü".encode()) == {"key": "ü"}
    assert json_field("key", b"\xff") == {"key_base64": "/w=="}


# -- watch -------------------------------------------------------------------------------------------------------------------------


def test_watch_prints_a_line_for_each_change_until_ctrl_c(replica: Replica) -> None:
    first = replica.put("w/a", "1").revision
    with started("watch", "w/", "--initial") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{first}\tput\tw/a\t1\n"
        assert process.stdout.readline() == f"{first}\tsynced\n"
        replica.put("other", "1")
        second = replica.put("w/b", b"\xff\n").revision
        assert process.stdout.readline() == f"{second}\tput\tw/b\t\\xff\\n\n"
        third = replica.delete("w/a").revision
        assert process.stdout.readline() == f"{third}\tdelete\tw/a\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == INTERRUPTED
        assert process.stderr.read().strip() == ""


def test_watch_begins_where_it_is_told_to_and_speaks_json(replica: Replica) -> None:
    first = replica.put("w/a", b"\xff").revision
    lease = replica.lease(10.0)
    replica.put("w/b", "1", lease=lease)
    lease.revoke()
    with started("watch", "w/", "--from", str(first), "--json") as process:
        assert process.stdout is not None
        said = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [(each["revision"], each["kind"]) for each in said] == [(first, "put"), (first + 1, "put"), (first + 2, "delete")]
    assert said[0]["value_base64"] == "/w=="
    assert said[1]["lease"] == lease.id
    assert said[2]["key"] == "w/b"


def test_watch_of_what_is_compacted_is_refused(run: Run, replica: Replica) -> None:
    first = replica.put("w/a", "1").revision
    replica.compact(replica.put("w/a", "2").revision)
    code, out, err = run("watch", "w/", "--from", str(first - 1))
    assert (code, out) == (REFUSED, "")
    assert "compacted" in err


# -- lock --------------------------------------------------------------------------------------------------------------------------


def in_line(replica: Replica) -> int:
    return replica.scan(prefix=RESERVED + b"replkv/lock/", count_only=True).count


def test_lock_runs_a_command_with_its_fence_and_passes_its_code_on(run: Run, replica: Replica) -> None:
    code, out, err = run("lock", "jobs", "--", "sh", "-c", "echo $REPLKV_FENCE; exit 7")
    assert (code, err) == (7, "")
    assert run("lock", "jobs", "sh", "-c", 'test "$REPLKV_FENCE" -gt "$0"', out.strip())[0] == 0
    assert run("lock", "jobs", "--", "sh", "-c", "kill -KILL $$")[0] == 128 + signal.SIGKILL
    assert in_line(replica) == 0


def test_a_command_that_cannot_be_run_gives_the_lock_back(run: Run, replica: Replica, tmp_path: Path) -> None:
    code, out, err = run("lock", "jobs", "--", "no-such-command")
    assert (code, out, err) == (127, "", "replkv: no-such-command can't be run: No such file or directory\n")
    assert run("lock", "jobs", "--", str(tmp_path))[0] == 126
    assert in_line(replica) == 0


def test_a_lock_that_another_one_holds_is_code_75(run: Run, replica: Replica) -> None:
    with replica.lock("jobs"):
        code, out, err = run("lock", "--no-wait", "jobs", "--", "echo", "never")
        assert (code, out, err) == (TRY_AGAIN, "", "replkv: lock 'jobs' is held by another one\n")
        code, out, err = run("lock", "--timeout", "0.05", "jobs", "--", "echo", "never")
        assert (code, out) == (TRY_AGAIN, "")
        assert re.fullmatch(r"replkv: .*jobs.*\n", err)
        assert in_line(replica) == 1
    assert in_line(replica) == 0


@pytest.mark.parametrize("trap", ['trap "echo told >>$0; exit 3" TERM', 'trap "" TERM'])
def test_a_command_whose_lock_is_lost_is_ended(run: Run, replica: Replica, tmp_path: Path, trap: str) -> None:
    seen = tmp_path / "seen"

    def lose_it() -> None:
        eventually(seen.exists)
        for lease in replica.leases():
            replica._run(Write(Revoke(lease.id)), None)

    losing = threading.Thread(target=lose_it)
    losing.start()
    script = f"{trap}; touch $0; while :; do sleep 0.02; done"
    code, out, err = run("lock", "--ttl", "1", "--grace", "0.2", "jobs", "--", "sh", "-c", script, str(seen))
    losing.join()
    assert (code, out) == (TRY_AGAIN, "")
    assert "the lock is lost: sh is told to end" in err
    assert seen.read_text() == ("told\n" if "told" in trap else "")
    assert in_line(replica) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(replica: Replica, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f'trap "echo got; exit 9" {name}; echo ready; while :; do sleep 0.02; done'
    with started("lock", "jobs", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got\n"
        assert process.wait(PATIENCE) == 9
        assert process.stderr.read() == ""
    assert in_line(replica) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_leaves_nothing_in_the_line(replica: Replica, number: signal.Signals) -> None:
    with replica.lock("jobs"):
        with started("lock", "jobs", "--", "echo", "never") as process:
            eventually(lambda: in_line(replica) == 2)
            process.send_signal(number)
            assert process.wait(PATIENCE) == 128 + number
            assert process.stdout is not None
            assert process.stdout.read() == ""
        assert in_line(replica) == 1


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def on_a_terminal(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A command that has a terminal; what is written to its stdin is typed there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}
    command = [sys.executable, "-c", TERMINAL, sys.executable, "-m", "replkv", *arguments]
    pipe = subprocess.PIPE
    return ended(subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True, bufsize=1))


def test_ctrl_c_on_a_terminal_reaches_the_command_once(replica: Replica) -> None:
    script = "import sys; from signal import *; it = [SIGINT]; pthread_sigmask(SIG_BLOCK, it); print('ready', flush=True); sigwait(it); "
    script += "sys.exit(1 if sigtimedwait(it, 0.3) is None else 2)"  # how often it came
    with on_a_terminal("lock", "jobs", "--", sys.executable, "-c", script) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.stdin.write("\x03")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 1


def test_on_a_terminal_tables_are_drawn_and_values_escaped(replica: Replica) -> None:
    replica.put("k[b]", b"\x1b[31m\xff")
    for arguments, parts in (
        (("status",), ("╭", "│ ", "● leader")),
        (("scan",), ("╭", "k[b]", r"\x1b[31m\xff")),
        (("get", "k[b]"), (r"\x1b[31m\xff",)),
    ):
        with on_a_terminal(*arguments) as process:
            out, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
        assert all(part in out for part in parts)


# -- the cluster -------------------------------------------------------------------------------------------------------------------


def test_status_shows_the_member_that_answers(run: Run) -> None:
    code, out, err = run("status")
    assert (code, err) == (0, "")
    title, headings, row = out.splitlines()
    assert title == "1 member, leader m, feature level 1"
    assert headings.split() == ["member", "address", "state", "term", "revision", "commit", "applied", "last", "lag", "condition"]
    assert row.split()[:4] == ["m", "–".encode().decode("latin-1"), "●".encode().decode("latin-1"), "leader"]
    assert row.split()[-1] == "ok"


def test_status_in_json_has_all_that_a_member_says(run: Run, replica: Replica) -> None:
    said = json.loads(run("status", "--json")[1])
    assert said["leader"] == "m"
    (one,) = said["members"]
    assert one["answered"]
    assert {field.name for field in attrs.fields(Status)} <= set(one)
    assert one["revision"] == replica.revision


STATUS = Status("a", "leader", "a", 3, 1234, 100, 100, 101, ("a", "b", "c", "d"), ("c",))
ROWS = (
    Row("a", "tcp://10.0.0.1:7420", False, STATUS, True),
    Row(
        "b",
        "tcp://10.0.0.2:7420",
        False,
        attrs.evolve(STATUS, name="b", state="follower", applied_index=90, full=("b",), healing="x"),
        True,
    ),
    Row("c", "tcp://10.0.0.3:7420", False, None, False),
    Row("d", "tcp://10.0.0.4:7420", True, None, True),
    Row("e", "", False, attrs.evolve(STATUS, name="e", state="failed", failure="the disk [broke]", unreachable=()), True),
)


def test_every_member_has_a_row_that_says_what_ails_it() -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(drawn(Panorama(ROWS)))
    title, _, a, b, c, d, e, hint = (line.split() for line in console.export_text().splitlines())
    console.file.close()
    assert title == ["5", "members,", "leader", "a"]
    assert a == ["a", "10.0.0.1:7420", "●", "leader", "3", "1,234", "100", "100", "101", "0", "can't", "reach", "c"]
    assert b[2:9] == ["follower", "3", "1,234", "100", "90", "101", "10"]
    assert " ".join(b[9:]) == "disk full; healing: x; can't reach c"
    assert c == ["c", "10.0.0.3:7420", "unreachable"]
    assert d == ["d", "10.0.0.4:7420", "not", "asked"]
    assert " ".join(e).endswith("the disk [broke]")
    assert "not asked: d;" in " ".join(hint)


def test_a_row_shows_how_far_snapshots_are() -> None:
    transfers = (Transfer("sending", "b", 45_600_000, 100_000_000), Transfer("taking", "", 0, 1_250_000_000))
    rows = (
        attrs.evolve(ROWS[0], status=attrs.evolve(STATUS, unreachable=(), transfers=transfers)),
        attrs.evolve(ROWS[1], status=attrs.evolve(STATUS, name="b", unreachable=(), transfers=(Transfer("loading", "a", 7, 7),))),
        attrs.evolve(ROWS[2], status=attrs.evolve(STATUS, name="c", transfers=(Transfer("receiving", "a", 999, 1000),))),
    )
    console = Console(width=300, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(drawn(Panorama(rows)))
    said = [" ".join(line.split()).partition(" 0 ")[2] for line in console.export_text().splitlines()[2:]]
    console.file.close()
    assert said == [
        "sending a snapshot to b ████░░░░░░ 46% of 100.0 MB; taking a snapshot ░░░░░░░░░░ 0% of 1,250.0 MB",
        "loading a snapshot ██████████ 100% of 0.0 MB",
        "can't reach c; receiving a snapshot from a █████████░ 100% of 0.0 MB",
    ]
    members = json.loads(json.dumps(Panorama(rows).as_json()))["members"]
    assert members[1]["transfers"] == [{"doing": "loading", "peer": "a", "done": 7, "total": 7}]


def test_status_asks_every_member_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = {name: f"ipc://{tmp_path}/{name}.sock" for name in "abc"}
    members = [Replica(name, data_dir=tmp_path / name, cluster=cluster, settings=FAST) for name in cluster]
    try:
        for each in members:
            each.wait_ready(PATIENCE)
        named = [argument for name in "ab" for argument in ("--to", str(tmp_path / name))]
        assert main(["status", "--json", *named]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [(one["name"], one["answered"], one["reachable"]) for one in said["members"]] == [
            ("a", True, True),
            ("b", True, True),
            ("c", False, True),
        ]
        assert main(["members", "--json", *named]) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["a", "b", "c"]
    finally:
        for each in members:
            each.close()


def test_members_are_changed_and_the_leadership_is_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = {name: f"ipc://{tmp_path}/{name}.sock" for name in "ab"}
    members = [Replica(name, data_dir=tmp_path / name, cluster=cluster, settings=FAST) for name in cluster]

    def said(*arguments: str, code: int = 0) -> str:
        assert main([*arguments, "--to", str(tmp_path / "a"), "--to", str(tmp_path / "b")]) == code
        out, err = capsys.readouterr()
        return str(err if code else out)

    try:
        for each in members:
            each.wait_ready(PATIENCE)
        for name in "ba":
            assert said("transfer", name) == f"{name} leads\n"
            eventually(lambda: {each.status().raft_leader for each in members} == {name})  # noqa: B023  # at once
        assert json.loads(said("transfer", "--json")) == {"leader": "b"}
        assert "no member x; those that can lead are a, b" in said("transfer", "x", code=REFUSED)
        named = json.loads(said("members", "--learner", f"c=ipc://{tmp_path}/c.sock", "--json"))
        assert [(one["name"], one["learner"]) for one in named] == [("a", False), ("b", False), ("c", True)]
        assert said("members", "--remove", "c", "--promote", "b").split()[4:] == [
            *("a", cluster["a"], "voter", "yes"),
            *("b", cluster["b"], "voter", "yes"),
        ]
        assert "no member x" in said("members", "--remove", "x", code=REFUSED)
        assert "no member x" in said("members", "--promote", "x", code=REFUSED)
        for wrong in (("--add", "c"), ("--add", "c=h:port"), ("--add", "c=h:1", "--add", "c=h:2"), ("--add", "c=h:1", "--remove", "c")):
            assert "members --help tells more" in said("members", *wrong, code=USAGE)
    finally:
        for each in members:
            each.close()


def test_status_goes_on_until_ctrl_c_when_it_is_to_watch(replica: Replica) -> None:
    with started("status", "--watch", "--every", "0.01", "--json") as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == INTERRUPTED
        assert [look["leader"] for look in looks] == ["m"] * 3


def test_members_and_leases_are_listed(run: Run, replica: Replica) -> None:
    assert run("members")[1].splitlines()[1].split()[0] == "m"
    assert json.loads(run("members", "--json")[1]) == [{"name": "m", "address": "", "learner": False, "healthy": True}]
    with replica.lease(30.0) as lease:
        replica.put("k", "v", lease=lease)
        (said,) = (one for one in json.loads(run("leases", "--json")[1]) if one["id"] == lease.id)
        assert (said["ttl"], said["keys"], said["kept"]) == (30.0, 1, True)
        assert [str(lease.id), "30"] in [line.split()[:2] for line in run("leases")[1].splitlines()]


def test_bench_measures_and_leaves_no_key(run: Run, replica: Replica) -> None:
    said = json.loads(run("bench", "--seconds", "0.25", "--json")[1])
    assert len(said["figures"]) == 5
    assert all(0 < figure["p50_ms"] <= figure["p99_ms"] and figure["calls"] > 0 for figure in said["figures"])
    assert "as a client of member m" in said["about"][0]
    assert replica.scan(count_only=True).count == 0
    out = run("bench", "--seconds", "0.1")[1]
    assert "put, 64 in flight" in out
    assert "only member has synced it to disk" in out


# -- what goes wrong ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nosuch", "No such command 'nosuch'"),
        ("get", "Missing argument 'KEY'"),
        ("get k --timeout 0", "'--timeout'"),
        ("get k --consistency odd", "'odd' is not one of"),
        ("delete", "say what to delete"),
        ("delete k --prefix p", "say what to delete"),
        ("delete --prefix=", "say what to delete"),
        ("delete k --end z", "end= needs start="),
        ("scan a --start b", "not several"),
        ("put k v --ttl 1e12", "ttl is at most"),
        ("lock jobs", "Missing argument 'COMMAND...'"),
        ("lock jobs --", "say what to run"),
        ("lock --ttl 1e12 jobs true", "ttl is at most"),
        ("lock --json jobs true", "No such option"),
        ("get k --to 10.1.2.3", "say --insecure"),
    ],
)
def test_wrong_usage_is_code_2_and_a_line(run: Run, arguments: str, says: str) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out) == (USAGE, "")
    assert says in err
    assert re.fullmatch(r"replkv: .*--help tells more\)\n", err)


def test_whom_to_ask_must_be_said_somewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("REPLKV_TO", raising=False)
    monkeypatch.delenv("REPLKV_DATA_DIR", raising=False)
    assert main(["get", "k"]) == USAGE
    assert "say whom to ask: --to" in capsys.readouterr().err
    monkeypatch.setenv("REPLKV_DATA_DIR", "data")
    assert targets_of(()) == ("data/",)
    monkeypatch.setenv("REPLKV_TO", " one, 127.0.0.1:7421,")
    assert targets_of(()) == ("one", "127.0.0.1:7421")
    assert targets_of(("given",)) == ("given",)


@pytest.mark.parametrize("command", ["status", "get k", "put k v"])
def test_a_member_that_is_not_there_is_code_69(command: str, tmp_path: Path, run: Run) -> None:
    code, out, err = run(*command.split(), "--to", str(tmp_path), "--timeout", "0.1")
    assert (code, out) == (UNAVAILABLE, "")
    assert re.fullmatch(r"replkv: .*no member answered in time.*\n", err)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("x"), REFUSED),
        (LockLost("x"), TRY_AGAIN),
        (OutcomeUnknown("x"), TRY_AGAIN),
        (Overloaded("x"), TRY_AGAIN),
        (WaitTimeout("x"), TRY_AGAIN),
        (DiskFull("x"), TRY_AGAIN),
        (NoLeader("x"), UNAVAILABLE),
        (Corrupt("x"), UNAVAILABLE),
        (Closed("x"), UNAVAILABLE),
    ],
)
def test_every_error_has_its_code(error: ReplkvError, code: int) -> None:
    assert code_of(error) == code


WITHOUT = "import sys; sys.modules['{}'] = None; from replkv.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_what_needs_it_says_so(missing: str) -> None:
    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT.format(missing), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE)

    done = without("status")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == "replkv: status needs click and rich: pip install 'replkv[cli]'\n"
    for plain in (["demo", "--help"], ["member", "--help"]):
        assert without(*plain).returncode == 0
    assert "pip install 'replkv[cli]'" in " ".join(without("--help").stdout.split())


# -- when a cluster is gone ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_taken_by_a_client_and_can_be_checked_by_its_hash(run: Run, replica: Replica, tmp_path: Path) -> None:
    replica.put("key", "value")
    code, out, err = run("backup", str(tmp_path / "b"))
    assert (code, err) == (0, "")
    assert f"revision {replica.revision} of cluster" in out
    assert out.splitlines()[-1] == f"{hashlib.sha256((tmp_path / 'b').read_bytes()).hexdigest()}  {tmp_path / 'b'}"
    code, out, err = run("backup", str(tmp_path / "b"))
    assert (code, out) == (UNAVAILABLE, "")
    assert "is there already" in err
    assert "--overwrite" in err
    code, out, _ = run("backup", str(tmp_path / "b"), "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)["revision"] == replica.revision
    assert run("restore", str(tmp_path / "b"), str(tmp_path / "new"), "--name", "x")[0] == 0
    with Replica("x", data_dir=tmp_path / "new") as restored:
        assert restored.get("key", timeout=PATIENCE) is not None


def test_a_backup_is_restored_and_says_what_to_do_next(run: Run, replica: Replica, tmp_path: Path) -> None:
    replica.put("key", "value")
    backup, new = replica.backup(tmp_path / "b"), str(tmp_path / "new")
    cluster = f"x=ipc://{tmp_path}/x,y=ipc://{tmp_path}/y"
    code, out, err = run("restore", backup.path, new, "--name", "x", "--cluster", cluster)
    assert (code, err) == (0, "")
    assert f"with revision {backup.revision} of cluster {backup.cluster}" in out
    assert out.endswith("now start x with this directory, and y with empty directories\n")
    with Replica("x", data_dir=new) as restored:
        restored.wait_ready(PATIENCE)
        assert restored.get("key") is not None
    code, out, err = run("restore", backup.path, new, "--name", "x")
    assert (code, out) == (USAGE, "")
    assert "not empty" in err


def test_what_was_restored_is_told_in_json(run: Run, replica: Replica, tmp_path: Path) -> None:
    backup = replica.backup(tmp_path / "b")
    code, out, _ = run("restore", backup.path, str(tmp_path / "new"), "--name", "x", "--revision-gap", "7", "--json")
    assert code == 0
    assert {"name": "x", "former": backup.cluster, "revision": backup.revision + 7, "damage": ""}.items() <= json.loads(out).items()


def test_what_is_no_backup_is_not_restored(run: Run, tmp_path: Path) -> None:
    for file, says in (ROOT / "README.md", "does not begin like a snapshot"), (tmp_path / "nothing", "No such file"):
        code, out, err = run("restore", str(file), str(tmp_path / "new"), "--name", "x")
        assert (code, out) == (UNAVAILABLE, "")
        assert says in err
    assert not (tmp_path / "new").exists()


def test_recovery_asks_before_it_begins(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {name: f"ipc://{tmp_path}/{name}" for name in "xy"}
    first, second = (Replica(name, data_dir=tmp_path / f"data-{name}", cluster=cluster) for name in "xy")
    first.put("key", "value", timeout=PATIENCE)
    second.close()
    directory = str(tmp_path / "data-x")
    code, _, err = run("recover", directory, "--yes")
    assert (code, "in use" in err) == (UNAVAILABLE, True)
    first.close()
    code, _, err = run("recover", directory)
    assert (code, "--yes" in err) == (USAGE, True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run("recover", directory)[0] == INTERRUPTED
    monkeypatch.undo()
    code, out, err = run("recover", directory, "--yes", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["members"] == ["x", "y"]
    with Replica("x", data_dir=directory, cluster=cluster) as alone:
        assert alone.get("key", timeout=PATIENCE) is not None
    code, _, err = run("recover", directory, "--yes")
    assert (code, "only voter" in err) == (USAGE, True)


# -- docs/CLI.md -------------------------------------------------------------------------------------------------------------------


def helps() -> dict[str, str]:
    """What each command says about itself, in the order of their names; those that argparse reads word it as Python's version does.

    The options of all that ask members are left out.
    """
    return {name: _help(name, command) for name, command in each(commands.commands) if name not in ("demo", "member")}


@click.command()
@asking()
def anything(asked: Asking) -> None:
    """Ask members."""


def _help(name: str, command: Any) -> str:
    names = {option.name for option in anything.params}
    shared = [option for option in command.params if option.name in names and isinstance(option, click.Option)]
    if not any(option.name == "to" for option in shared):
        shared = []
    for option in shared:
        option.hidden = True
    try:
        text: str = command.get_help(_context(name, command))
        return text
    finally:
        for option in shared:
            option.hidden = False


def each(group: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Every command, and those of every command that has some of its own, by the words that a user types."""
    for name, command in group.items():
        yield f"{within}{name}", command
        yield from each(getattr(command, "commands", {}), f"{within}{name} ")


def _context(name: str, command: Any) -> Any:
    return click.Context(command, info_name=f"replkv {name}", terminal_width=100, help_option_names=["-h", "--help"])


def test_the_documentation_has_what_the_commands_say() -> None:
    text = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    written = dict(re.findall(r"```text\nUsage: replkv (\w+(?: [a-z]\w*)*) (.*?)\n```", text, re.DOTALL))
    said = {name: text.removeprefix(f"Usage: replkv {name} ") for name, text in helps().items()}
    assert {name: text.split() for name, text in written.items()} == {name: text.split() for name, text in said.items()}


def test_the_documentation_has_the_options_that_commands_share() -> None:
    text = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    written = re.search(r"```text\nOptions:\n(.*?)\n```", text, re.DOTALL)
    said = anything.get_help(_context("anything", anything)).partition("Options:\n")[2]
    assert written is not None
    assert written[1].split() == said.split()[: said.split().index("-h,")]


def test_the_documentation_has_every_command_and_every_code() -> None:
    text = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    assert {f"replkv {name}" for name in commands.commands} <= set(re.findall(r"replkv \w+", text))
    for code in (0, REFUSED, USAGE, UNAVAILABLE, TRY_AGAIN, 126, 127, INTERRUPTED):
        assert f"| {code} |" in text
