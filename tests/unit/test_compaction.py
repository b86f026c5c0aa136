"""``compaction.py``: when history goes by itself, and that removing it leaves the thread to others."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from caller import Caller
from fake_network import FakeCluster
from test_machine import Log

from replkv import history, ops
from replkv.compaction import ALMOST_FULL, SAMPLES, SCRUB_PAUSE, SCRUB_SLICE, Compactor, Scrubbing
from replkv.config import Settings
from replkv.kv import Store

HOUR = 3_600_000_000
OFF: dict[str, Any] = {"compact_age": 0, "compact_revisions": 0, "compact_bytes": 0}


class Filled:
    """A machine in a cluster with these settings, and what the compactor says of it."""

    def __init__(self, **options: Any) -> None:
        chosen = {**OFF, **options}
        self.log = Log(None, **chosen)
        self.compactor = Compactor(Settings(**chosen))
        self.session = self.log.open()
        self._sequence = 0

    def do(self, *operations: ops.Packable[Any]) -> None:
        self._sequence += 1
        outcome = self.log.execute(self.session, self._sequence, *operations)
        assert outcome.answers is not None
        assert all(answer[0] == 0 for answer in outcome.answers)

    def target(self, time: int = 0) -> int | None:
        return self.compactor.target(self.log.machine, time)

    def compact(self) -> int:
        """Do what is asked for; return what history is left, in bytes."""
        target = self.target()
        assert target is not None
        self.do(ops.Compact(target))
        assert self.target() is None, "it is enough"
        return self.log.machine.store.size - self.log.machine.store.live


def puts(count: int, size: int = 36) -> list[ops.Packable[Any]]:
    """Puts of one key, each of which makes ``size`` + 64 bytes of history of the one before."""
    return [ops.Put("k", bytes(size - 1)) for _ in range(count)]


# -- by age ---------------------------------------------------------------------------------------------------------------------------


def test_history_goes_when_it_is_older_than_wanted() -> None:
    filled = Filled(compact_age=3600.0)
    targets = []
    for minute in range(150):
        filled.do(ops.Put("k", str(minute)))
        time = minute * HOUR // 60
        filled.compactor.note(time, filled.log.machine.store.revision)
        if (target := filled.target(time)) is not None:
            targets.append((minute, minute - (target - 2)))
            filled.do(ops.Compact(target))
    assert targets[0] == (60, 60)
    assert all(60 <= age < 60 + 60 / SAMPLES + 1 for _, age in targets), "what is younger stays, what is much older does not"
    assert len(targets) > 20


def test_nothing_is_too_old_for_a_member_that_has_just_started() -> None:
    filled = Filled(compact_age=3600.0)
    filled.do(*puts(10))
    assert filled.target(100 * HOUR) is None
    filled.compactor.note(100 * HOUR, 11)
    assert filled.target(100 * HOUR) is None
    assert filled.target(101 * HOUR - 1) is None
    assert filled.target(101 * HOUR) == 11


def test_a_member_that_does_not_lead_remembers_no_more_than_it_needs() -> None:
    """It took note for as long as it followed, and forgot nothing: only a leader did."""
    compactor = Compactor(Settings(compact_age=1.0))
    for number in range(1000):
        compactor.note(number * 250_000, number)
    assert len(compactor._samples) <= SAMPLES + 2
    log = Log()
    log.machine.store.revision = 2000
    assert compactor.target(log.machine, 999 * 250_000) == 995


def test_age_counts_however_often_it_is_noted() -> None:
    filled = Filled(compact_age=16.0)
    filled.do(*puts(30))
    for micros in range(0, 40_000_000, 10_000):
        filled.compactor.note(micros, 2 + micros // 2_000_000)
    assert filled.target(40_000_000) == 2 + 24 // 2


# -- by number, bytes and room --------------------------------------------------------------------------------------------------------


def test_history_goes_by_its_number_of_revisions_a_tenth_at_a_time() -> None:
    filled = Filled(compact_revisions=100)
    filled.do(*puts(109))
    assert filled.log.machine.store.revision == 110
    assert filled.target() is None
    filled.do(ops.Put("k", ""))
    assert filled.target() == 11
    filled.compact()
    filled.do(*puts(10))
    assert filled.target() is None
    filled.do(ops.Put("k", ""))
    assert filled.target() == 22


def test_history_goes_by_its_bytes_down_to_about_half() -> None:
    filled = Filled(compact_bytes=10_000)
    filled.do(*puts(101))
    assert filled.target() is None
    filled.do(*puts(1))
    assert 4500 <= filled.compact() <= 5500


def test_history_of_very_unequal_revisions_goes_in_several_steps() -> None:
    filled = Filled(compact_bytes=10_000)
    filled.do(*puts(50, 50), *puts(10, 5000), ops.Put("k", ""))
    for _ in range(20):
        target = filled.target()
        if target is None:
            break
        filled.do(ops.Compact(target))
    assert filled.log.machine.store.size - filled.log.machine.store.live <= 10_000


def test_one_large_revision_is_compacted_too() -> None:
    filled = Filled(compact_bytes=100)
    filled.do(ops.Put("k", bytes(500)), ops.Put("k", ""))
    assert filled.target() == 3
    filled.compact()


def test_history_makes_room_when_the_store_is_almost_full() -> None:
    filled = Filled(compact_revisions=1_000_000, max_bytes=20_000)
    while filled.log.machine.size <= ALMOST_FULL * 20_000:
        assert filled.target() is None
        filled.do(*puts(1))
    assert filled.target() == filled.log.machine.store.revision
    assert filled.compact() == 0


def test_a_store_that_is_full_of_what_is_alive_keeps_its_history() -> None:
    filled = Filled(compact_revisions=1_000_000, max_bytes=20_000)
    filled.do(*(ops.Put(f"{number}", bytes(1000)) for number in range(16)), ops.Put("k", ""), ops.Put("k", bytes(1000)))
    assert filled.log.machine.size > ALMOST_FULL * 20_000
    assert filled.target() is None, "it would not help"


def test_where_all_is_off_nothing_is_compacted_even_when_the_store_is_full() -> None:
    filled = Filled(max_bytes=20_000)
    while filled.log.machine.size <= 19_900:
        filled.do(*puts(1))
    for time in range(0, 100 * HOUR, HOUR):
        filled.compactor.note(time, 5)
        assert filled.target(time) is None


def test_an_empty_store_has_nothing_to_compact() -> None:
    filled = Filled(compact_age=1.0, compact_revisions=1, compact_bytes=1, max_bytes=1)
    filled.compactor.note(0, 1)
    filled.compactor.note(HOUR, 1)
    assert filled.target(2 * HOUR) in (None, 1)


# -- removing -------------------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass with every look."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def compacted_store(count: int = 5000) -> Store:
    store = Store()
    for number in range(count):
        store.put(b"%d" % (number % 10), b"x")
        store.commit()
    store.compact(store.revision)
    return store


def test_removing_works_in_slices_and_leaves_four_fifths_of_the_time_to_others() -> None:
    clock = Clock(SCRUB_SLICE / 4)
    store, scrubbing = compacted_store(), Scrubbing(clock)
    worked = turns = 0
    while store.unscrubbed:
        before, next_at = clock.now, scrubbing.next_at
        scrubbing.go_on(store)
        if scrubbing.next_at != next_at:
            worked += 1
            assert clock.now - before <= 2 * SCRUB_SLICE
            assert scrubbing.next_at > clock.now + SCRUB_PAUSE - SCRUB_SLICE
        turns += 1
    assert worked >= 4
    assert turns > 3 * worked
    assert not store.older


def test_nothing_is_left_to_let_go_of_when_all_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the history that was cut stayed in memory until the next compaction."""
    monkeypatch.setattr(history, "RUN", 8)
    clock = Clock(SCRUB_SLICE / 4)
    store, scrubbing = compacted_store(), Scrubbing(clock)
    while store.unscrubbed:
        scrubbing.go_on(store)
    assert scrubbing._steps is None
    assert len(store.events) == 1


def test_a_new_store_is_begun_with_afresh() -> None:
    clock = Clock(SCRUB_SLICE)
    old, new, scrubbing = compacted_store(), compacted_store(), Scrubbing(clock)
    scrubbing.go_on(old)
    assert old.unscrubbed
    while new.unscrubbed:
        clock.now += SCRUB_PAUSE
        scrubbing.go_on(new)
    assert old.unscrubbed
    assert not new.older


def test_what_was_removed_altogether_is_held_no_longer() -> None:
    scrubbing = Scrubbing(Clock(0.0))
    store = compacted_store()
    scrubbing.next_at = 0.0
    scrubbing.go_on(store)
    assert not store.unscrubbed
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


# -- whole members --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"compact_age": 2.0}, {"compact_revisions": 20}, {"compact_bytes": 2000}])
def test_the_members_of_a_cluster_compact_by_themselves_alike_and_remove_it(settings: dict[str, Any]) -> None:
    cluster = FakeCluster(settings=Settings(**{**OFF, **settings}))
    cluster.run(cluster.leader)
    name = next(name for name in "abc" if name != cluster.leader())
    node = cluster.nodes[name]
    for number in range(60):
        call = Caller.of(ops.Put(f"k{number % 3}", bytes(100)))
        assert node.proposals.admission.enter(len(call.command or b""))
        node.submit(call)
        cluster.run(lambda: call.finished)  # noqa: B023
    stores = [node.machine.store for node in cluster.nodes.values()]
    cluster.run(lambda: all(store.compacted > 30 and not store.unscrubbed for store in stores))
    until = cluster.now + 5.0
    cluster.run(lambda: cluster.now >= until)
    assert len({(store.compacted, store.size, len(store.events)) for store in stores}) == 1
    assert len({node.machine.digest() for node in cluster.nodes.values()}) == 1


def test_nothing_is_removed_while_the_state_is_dumped() -> None:
    cluster = FakeCluster("a", settings=Settings(**{**OFF, "compact_revisions": 10}))
    cluster.run(cluster.leader)
    node = cluster.nodes["a"]
    node.snapshots._taking = True
    for number in range(40):
        call = Caller.of(ops.Put("k", str(number)))
        assert node.proposals.admission.enter(len(call.command or b""))
        node.submit(call)
        cluster.run(lambda: call.finished)  # noqa: B023
    cluster.run(lambda: node.machine.store.compacted > 20)
    cluster.rest(50)
    assert node.machine.store.unscrubbed
    node.snapshots._taking = False
    cluster.run(lambda: not node.machine.store.unscrubbed)
