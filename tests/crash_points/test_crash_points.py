from __future__ import annotations

import random

import pytest
from damages import damages, short_log
from log_life import LogLife, entries, entry
from member_protocols import founders
from member_stage import CALM, Stage
from scenarios import SCENARIOS, Effort, Scenario
from stopping import End, Stop, StoppingDisk, Tally, legal_parts, outcomes, stopped

from replkv.errors import StorageError
from replkv.messages import UNKNOWN, Configuration
from replkv.testing.disk import SimulatedCrash

SHARE = Effort(limit=5, points=2, again=1)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_or_invented_wherever_it_stops(scenario: Scenario) -> None:
    assert scenario.run(SHARE).recoveries


@pytest.mark.parametrize("seed", range(16))
def test_a_member_with_many_lives_never_forgets_or_invents(seed: int) -> None:
    rng = random.Random(seed)
    disk = StoppingDisk()
    disk.rng = rng
    life = LogLife(disk)
    for _ in range(25):
        disk.crash_in = rng.randrange(60) if rng.random() < 0.7 else None
        disk.fail_sync_in = rng.randrange(15) if rng.random() < 0.2 else None
        life = LogLife(disk, life.memory)
        power = True
        try:
            live(life, rng)
            power = rng.random() < 0.7
        except SimulatedCrash:
            pass
        except StorageError:
            power = rng.random() < 0.3
        disk.crash(power=power, keep=disk._draw())
        disk.fail_sync_in = None


def live(life: LogLife, rng: random.Random) -> None:
    life.start()
    if not life.noted.entries:
        life.found()
    for _ in range(rng.randrange(30)):
        term, last, covered = life.noted.hard_state.term, len(life.noted.entries), life.noted.covered
        match rng.randrange(10):
            case 0:
                life.prepare()
            case 1 if last > covered:
                life.sync()
                life.take_snapshot(rng.randint(covered + 1, last), keep=rng.randrange(2))
            case 2 if rng.random() < 0.3:
                life.sync()
                life.install_snapshot(rng.randint(covered + 1, last + 9), term + 1)
            case 3 if last > max(covered, 1):
                life.append(term + 1, *entries(rng.randint(max(covered, 1) + 1, last), last + 1, term + 1))
            case 4 | 5:
                life.sync()
            case _:
                life.append(term + 1, entry(last + 1, term + 1, rng.choice((10, 300, 1500, 6000))))


# -- what was found so ---------------------------------------------------------------------------------------------------------------------


def test_a_file_that_a_killed_process_had_just_named_stays_when_power_is_lost_later() -> None:
    """The next life found the segment by its name and used it; that the name was not durable it could not see."""
    life = LogLife(StoppingDisk(Stop(End.KILL, 3)))  # behind the renaming, before the directory is synced
    with pytest.raises(SimulatedCrash):
        life.start()
    (disk,) = outcomes(stopped(life.disk), 1, Tally())
    assert disk.waiting
    life = LogLife(StoppingDisk(like=disk))
    life.begin()
    life.disk.crash(keep=[False] * life.disk.unsynced)
    LogLife(life.disk, life.memory).start()


def test_a_salvage_finishes_although_one_before_it_left_a_file_of_the_same_name_unfinished() -> None:
    """It wanted to remove that file, which had become the new segment meanwhile, and the member stopped."""
    damage = next(damage for damage in damages(short_log()) if damage.name.startswith("wal"))
    damage.ground.disk.lose(max(name for name in damage.ground.disk.seen if name.startswith("wal")))  # prepared, and would be used
    life = LogLife(StoppingDisk(Stop(End.KILL, 2), damage.ground.disk), damage.ground.memory)
    with pytest.raises(SimulatedCrash):
        life.start()
    assert any(name.endswith(".tmp") for name in life.disk.seen)
    life.disk.crash(power=False)
    LogLife(life.disk, life.memory).start()


def test_members_speak_again_with_one_whose_replacement_was_taken_back() -> None:
    """The connections followed the configurations that were appended, not those that came back when an entry was replaced."""
    stage = Stage(CALM)
    leader = stage.begin()
    stage.write(leader)
    stage.cut_off("a")
    stage.cluster.observers.clear()  # that a leader begins anew with a member of another incarnation is no news to them
    index = stage.configure(leader, Configuration(("a", "b"), (), ("c",), {**founders(stage), "c": 12345}))
    stage.wait(lambda: stage.raft("a").durable_index >= index, "a has written it down")
    stage.leader("bc")
    stage.reconnect()
    stage.wait(lambda: stage.leads(stage.leader("bc").name), "a follows, too")
    stage.wait(lambda: leader.process.links.members == founders(stage), "a knows all members")


def test_what_was_found_after_a_failed_sync_is_durable_although_the_cache_called_it_clean() -> None:
    life = LogLife(StoppingDisk())
    life.begin()
    life.append(1, entry(2))
    life.disk.stop = Stop(End.KEPT, life.disk.syncs)
    with pytest.raises(StorageError):
        life.sync()
    life.disk.crash(power=False)
    assert not life.disk.unsynced
    life = LogLife(life.disk, life.memory)
    life.start()
    assert len(life.noted.entries) == 2
    life.disk.crash(keep=[False] * life.disk.unsynced)
    LogLife(life.disk, life.memory).start()


# -- what is tried -------------------------------------------------------------------------------------------------------------------------


def test_damage_in_front_of_the_last_flush_leaves_no_doubt() -> None:
    ground = short_log()
    name, begin = ground.flushes[-1].name, ground.flushes[-1].begin
    in_front = [
        damage for damage in damages(ground) if damage.name == name and damage.what == "bit flipped" and damage.offset < begin - 512
    ]
    assert in_front
    for damage in in_front:
        life = LogLife(StoppingDisk(like=damage.ground.disk), damage.ground.memory)
        life.start()
        assert life.noted.floor not in (UNKNOWN, ground.memory.noted.floor)


def test_all_parts_of_few_pieces_are_tried_and_the_telling_ones_of_many() -> None:
    assert len(list(legal_parts([0] * 8, 256))) == 256
    some = list(legal_parts([0] * 9 + [1], 256))
    assert len(some) == len({tuple(part) for part in some}) == 256
    for part in ([True] * 10, [False] * 10, [True] * 9 + [False], [False] * 9 + [True], [True] * 4 + [False] * 6):
        assert part in some
    assert [True, True, False] in legal_parts(["one page", "one page", "another"], 4)


@pytest.mark.parametrize("end", [End.KEPT, End.REVERTED, End.DIRTY])
def test_a_failed_sync_leaves_what_file_systems_leave(end: End) -> None:
    disk = StoppingDisk()
    door = disk.open()
    door.lock()
    door.allocate("f", 512)
    door.sync("f")
    door.sync_directory()
    disk.stop = Stop(end, disk.syncs)
    door.write("f", 0, b"new")
    with pytest.raises(StorageError):
        door.sync("f")
    lost, reached = outcomes(stopped(disk), 2, Tally())
    assert bytes(lost.platter["f"].platter[:3]) == bytes(3)
    assert bytes(reached.platter["f"].platter[:3]) == b"new"
    assert bytes(lost.seen["f"].seen[:3]) == (bytes(3) if end is End.REVERTED else b"new")
    assert bool(lost.unsynced) == (end is End.DIRTY)
