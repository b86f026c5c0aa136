"""Processes that move: names are identity, an address is only where somebody was last."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import PATIENCE, Member, eventually, free_ports
from fleet import Fleet, Writer, start_all


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three members, which a test leaves wherever they are, but well."""
    with Fleet(tmp_path_factory.mktemp("three"), "abc") as fleet:
        fleet.start()
        yield fleet


def move(fleet: Fleet, name: str, host: str, *, knows: str = "") -> None:
    """Give a member that does not run another address, and a map in which that and the addresses of those it knows are new."""
    member = fleet[name]
    fleet.place(name, host)
    member.arguments["cluster"] = {**member.arguments["cluster"], **{each: fleet.addresses[each] for each in (name, *knows)}}


def all_know(fleet: Fleet) -> bool:
    """Tell whether every member finds every other one where it is."""
    where = [f"tcp://{fleet.addresses[member.name]}" for member in fleet]
    seen = [member.call("members") for member in fleet]
    return all([one["address"] for one in found] == where and all(one["healthy"] for one in found) for found in seen)


def test_a_member_that_comes_back_elsewhere_is_followed_and_still_found_by_those_who_restart_with_old_maps(three: Fleet) -> None:
    moved = three.others(three.leader())[0]
    stay = three.others(moved)
    with Writer.at(stay[0]) as writer:
        moved.stop()
        move(three, moved.name, "127.0.0.2")
        moved.start()
        eventually(lambda: all_know(three), pause=0.05)
        writer.goes_on()
    for member in stay:
        member.stop()
        member.start()
        member.call("wait_ready", timeout=PATIENCE)
    eventually(lambda: all_know(three), pause=0.05)
    moved.stop()
    move(three, moved.name, "127.0.0.3")
    stay[0].kill()
    moved.start()  # one that moved and one that never heard of it by itself are the majority
    assert stay[1].call("add", writer.key, timeout=PATIENCE)[0] == len(writer.counted) + 1
    stay[0].start()
    eventually(lambda: all_know(three), pause=0.05)


def test_all_that_move_at_once_come_back_though_each_is_told_only_where_one_of_them_is(three: Fleet) -> None:
    revision, _ = three["a"].call("put", "k", "v")
    for member in three:
        member.run.process.kill()
    for member in three:
        member.kill()
    for number, member in enumerate(three):
        move(three, member.name, f"127.0.0.{4 + number}", knows="a")
    start_all(three)
    three.wait_ready()
    eventually(lambda: all_know(three), pause=0.05)
    assert three["c"].call("get", "k")[:3] == ["k", "v", revision]


def test_a_member_that_had_joined_needs_no_seed_that_still_answers(three: Fleet) -> None:
    three.add("a", "d", through="a")
    three.wait_for("abcd")
    joined = three["d"]
    joined.stop()
    joined.arguments["join"] = [f"127.0.0.1:{free_ports(1)[0]}"]  # nobody is there
    joined.arguments["listen"] = three.place("d", "127.0.0.9")
    joined.start()
    eventually(lambda: all_know(three), pause=0.05)
    three.wait_for("abcd")
    three.dismiss("a", "d")


@contextmanager
def names(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield a file like /etc/hosts, and the command that runs another one where it is /etc/hosts; skip the test where that can't be."""
    if missing := [program for program in ("unshare", "nsenter", "mount") if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not found")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount --bind '{hosts}' /etc/hosts && echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("it needs the right to make a mount namespace")
        yield hosts, ("nsenter", "--target", str(holder.pid), "--mount", "--")
    finally:
        holder.stdin.close()
        holder.wait(PATIENCE)
        holder.stdout.close()


def test_a_name_is_looked_up_at_every_dial(tmp_path: Path) -> None:
    with names(tmp_path) as (hosts, within), Fleet(tmp_path, "abc") as fleet:
        ports = {name: address.rpartition(":")[2] for name, address in fleet.addresses.items()}
        fleet.addresses = {name: f"{name}.replkv.test:{port}" for name, port in ports.items()}
        at = {"a": "127.0.0.11", "b": "127.0.0.12", "c": "127.0.0.13"}
        for name in "abc":
            listen = f"{at[name]}:{ports[name]}"
            fleet.members[name] = Member(name, tmp_path, within=within, cluster=fleet.addresses, listen=listen)

        def write_hosts() -> None:
            hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}.replkv.test\n" for name, ip in at.items()))

        at_first = [fleet[name] for name in "ab"]
        start_all(at_first)  # nobody's name is known yet
        write_hosts()
        fleet["c"].start()
        fleet.wait_ready()
        moved = fleet.others(fleet.leader())[0]
        moved.stop()
        at[moved.name] = "127.0.0.23"
        moved.arguments["listen"] = f"127.0.0.23:{ports[moved.name]}"
        write_hosts()
        moved.start()
        eventually(lambda: all_know(fleet), pause=0.05)
        assert moved.call("put", "k", "v", timeout=PATIENCE)
