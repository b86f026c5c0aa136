"""Processes whose leader changes while they write: by a call, because it closes, because it leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from cluster import PATIENCE, CallError, eventually
from fleet import CALM, Fleet, Writer

from replkv import connect


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("three"), "abc") as fleet:
        fleet.start()
        yield fleet


def test_no_write_fails_while_leadership_goes_round(three: Fleet) -> None:
    with ExitStack() as ending:
        client = ending.enter_context(connect(three["a"].data_dir, config=CALM))
        writers = [ending.enter_context(Writer.at(member)) for member in three]
        writers.append(ending.enter_context(Writer.of(client, "client")))
        for asked in ("leader", "follower", "client", "anybody"):
            leader = three.leader()
            heir, other = three.others(leader)
            if asked == "client":
                client.transfer_leadership(heir.name)
            else:
                at = {"leader": leader, "follower": other, "anybody": heir}[asked]
                at.call("transfer_leadership", None if asked == "anybody" else heir.name)
            assert three.leader().name == heir.name or asked == "anybody"
            assert three.leader() is not leader
            for writer in writers:
                writer.goes_on()


def test_no_write_of_the_others_fails_when_the_leader_closes(three: Fleet) -> None:
    for turn in range(2):
        leader = three.leader()
        with ExitStack() as ending:
            writers = [Writer.at(member) for member in three.others(leader)]
            for writer in writers:
                writer.key += f"/{turn}"
                ending.enter_context(writer).goes_on()
            assert leader.stop() < 3.0
            for writer in writers:
                writer.goes_on()
        leader.start().call("wait_ready", PATIENCE)


def test_members_leave_under_load_and_nobody_is_left_in_doubt(three: Fleet) -> None:
    first = three.leader()
    second, last = three.others(first)
    for gone, rest in ((first, [second, last]), (second, [last])):
        with ExitStack() as ending:
            own, *writers = [Writer.at(member) for member in (gone, *rest)]
            for writer in (own, *writers):
                writer.key += f"/until/{gone.name}"
                ending.enter_context(writer).goes_on()
            began = time.monotonic()
            gone.call("leave")
            assert time.monotonic() - began < 4.0
            for writer in writers:
                writer.goes_on()
            eventually(lambda: own.failure)  # noqa: B023  # it is waited for here
        assert isinstance(own.failure, CallError)
        assert own.failure.kind in ("Removed", "Closed"), "it was not done, and its caller knows"
        assert rest[0].call("get", own.key)[1] == str(len(own.counted))
        assert [member["name"] for member in rest[-1].call("members")] == [member.name for member in rest]
        gone.stop()
    with pytest.raises(CallError) as refused:
        first.start().call("wait_ready", 10.0)
    assert refused.value.kind == "Removed"
