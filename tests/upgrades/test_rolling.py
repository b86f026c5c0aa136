"""Clusters of real processes that are upgraded one member after the other: from pinned versions to today's, from today's to the next.

The pinned packages are those of ``replkv-level-*.tar.zst`` beside this file, one for each feature level.  The last one is pinned anew, by
``python tests/upgrades/pinned.py``, for as long as no release has that level.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pinned
import pytest
from cluster import PATIENCE, CallError, Cluster, Member, eventually, free_ports
from ledger import Load
from versions import TODAY, Spectator, Version, future, lead, progress, run

from replkv import features


@pytest.fixture(params=pinned.archives(), ids=lambda path: path.name.removesuffix(".tar.zst"))
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    """A version of before."""
    return Version(*pinned.unpack(request.param, tmp_path / "before"))


@pytest.fixture
def after(tmp_path: Path) -> Version:
    """A version to come."""
    return future(tmp_path / "after")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        yield made


def start(cluster: Cluster, version: Version) -> None:
    for member in cluster:
        member.code, member.program = version
    cluster.start()


def levels(cluster: Cluster) -> list[int]:
    """The feature level, as each member knows it."""
    return [member.call("status")["level"] for member in cluster]


# -- from what was pinned to today's --------------------------------------------------------------------------------------------------


def test_a_cluster_is_upgraded_under_load_one_member_after_the_other_and_nothing_is_lost(cluster: Cluster, before: Version) -> None:
    start(cluster, before)
    with Spectator(cluster["c"]) as spectator:
        with Load(cluster, per_member=1) as load:
            progress(load)
            for name, old in (("a", "b"), ("b", "c"), ("c", "")):
                run(cluster[name], TODAY)
                for leader in (name, old, name) if old else (name,):
                    lead(cluster, leader)
                    progress(load, 30)
        spectator.check(load)
    assert load.check()["acknowledged"] > 200
    assert set(levels(cluster)) == {features.LEVEL}


def test_a_member_goes_back_to_the_version_of_before_and_forth_again(cluster: Cluster, before: Version) -> None:
    start(cluster, before)
    with Load(cluster, per_member=1) as load:
        for version in (TODAY, before, TODAY, before):
            run(cluster["b"], version)
            progress(load, 30)
            lead(cluster, "b")
            progress(load, 30)
            lead(cluster, "a")
    load.check()
    assert {member.call("status")["failure"] for member in cluster} == {""}


# -- from today's to the next ---------------------------------------------------------------------------------------------------------


def test_the_level_rises_when_all_members_support_it_and_until_then_each_can_go_back(cluster: Cluster, after: Version) -> None:
    start(cluster, TODAY)
    with Load(cluster, per_member=1) as load:
        for name, version in (("a", after), ("b", after), ("b", TODAY), ("c", after)):
            run(cluster[name], version)
            lead(cluster, "a")
            progress(load, 30)
        assert set(levels(cluster)) == {features.LEVEL}, "b does not support more"
        run(cluster["b"], after)
        eventually(lambda: set(levels(cluster)) == {features.LEVEL + 1})
        progress(load, 30)
    load.check()


def test_who_goes_back_when_the_level_has_risen_stops_with_its_directory_whole(cluster: Cluster, after: Version) -> None:
    start(cluster, after)
    eventually(lambda: set(levels(cluster)) == {features.LEVEL + 1})
    cluster["a"].call("put", "k", "v")
    member = cluster["c"]
    member.stop()
    member.code, member.program = TODAY
    member.start()
    text = eventually(lambda: member.call("failure"))
    too_high = f"the cluster is at feature level {features.LEVEL + 1}, and this version supports {features.LEVEL} only: upgrade this member"
    assert text == f"Incompatible: {too_high}"
    member.stop()
    run(member, after)
    cluster["a"].call("put", "k", "w")
    cluster.state()
    assert member.call("get", "k")[1] == "w"


def test_a_newcomer_that_does_not_support_the_level_is_not_let_in(cluster: Cluster, after: Version, tmp_path: Path) -> None:
    start(cluster, after)
    eventually(lambda: set(levels(cluster)) == {features.LEVEL + 1})
    place = f"127.0.0.1:{free_ports(1)[0]}"
    cluster["a"].call("change_members", add={"d": place}, timeout=PATIENCE)
    newcomer = Member("d", tmp_path, listen=place, join=[*cluster.addresses.values()])
    try:
        newcomer.code, newcomer.program = TODAY
        newcomer.start()
        with pytest.raises(CallError, match=f"level {features.LEVEL + 1}, and d supports {features.LEVEL} only: upgrade d"):
            newcomer.call("wait_ready", timeout=3)
        run(newcomer, after)
        assert newcomer.call("status")["level"] == features.LEVEL + 1
    finally:
        newcomer.discard()
