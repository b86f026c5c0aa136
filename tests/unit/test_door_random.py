"""Clients that go from door to door while members crash, connections break and frames are lost: what they did counts once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fake_network import FakeCluster
from visitors import Hall, Visitor

from replkv import codec, letters, ops
from replkv.errors import Unavailable
from replkv.letters import Batch, Failed, Hello, Outcome, Pull

ADDS = 150
"""What each client adds, one after the other."""


class House:
    """Three members, each with a door, as long as it lives."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.crashes = 0
        self.cluster = FakeCluster("abc")
        self.halls = {name: self._hall(name) for name in "abc"}

    def _hall(self, name: str) -> Hall:
        return Hall(name, cluster=self.cluster)

    def turn(self) -> None:
        self.cluster.turn()
        for hall in self.halls.values():
            hall.door.turn(0.0)

    def stir(self) -> None:
        """Let something go wrong, or end."""
        cluster, rng = self.cluster, self.rng
        what = rng.random()
        missing = [name for name in "abc" if name not in self.halls]
        if missing and what < 0.02:
            cluster.start(missing[0])
            self.halls[missing[0]] = self._hall(missing[0])
        elif not missing and what < 0.01:
            self.crashes += 1
            name = rng.choice("abc")
            del self.halls[name]
            cluster.crash(name)
        elif what < 0.04 and cluster.network.pipes:
            cluster.network.cut(*rng.choice(sorted(cluster.network.pipes)))

    def heal(self) -> None:
        for name in [name for name in "abc" if name not in self.halls]:
            cluster = self.cluster
            cluster.start(name)
            self.halls[name] = self._hall(name)


class Guest:
    """A client that asks for one thing at a time, and goes to another door when it is tired of waiting."""

    def __init__(self, house: House, identity: int) -> None:
        self.house = house
        self.identity = identity
        self.number = 10
        self.at: Visitor | None = None
        self.hall: Hall | None = None
        self.asked: Callable[[int], Any] | None = None
        self.sent = False
        self.waited = 0

    def ask(self, make: Callable[[int], Any]) -> None:
        self.asked = make
        self.sent = False

    def step(self) -> Any:
        """Return the reply, if it is there; else go on waiting, at the same door or another."""
        self.waited += 1
        gone = self.hall is None or self.hall not in self.house.halls.values() or (self.at is not None and self.at.kicked)
        if gone or self.waited > self.house.rng.randrange(20, 2000) or self.house.rng.random() < 0.01:
            self._go()
        elif not self.sent:
            self._send()
        assert self.at is not None
        found = [reply for reply in self.at.listen() if reply.number == self.number]
        return found[0] if found else None

    def _go(self) -> None:
        if self.at is not None and self.hall in self.house.halls.values():
            self.at.hall.transport.frames.pop(self.at.pipe, None)  # without a word; the door finds out
        self.hall = self.house.rng.choice(list(self.house.halls.values()))
        self.at = self.hall.stranger()
        self._say(Hello(1, letters.VERSION, self.identity))
        self._send()

    def _send(self) -> None:
        assert self.asked is not None
        self.number += 1
        self._say(self.asked(self.number))
        self.sent, self.waited = True, 0

    def _say(self, letter: Any) -> None:
        assert self.at is not None
        self.at.post(letter)


class Adder(Guest):
    """Counts up, and notes what it was told."""

    def __init__(self, house: House, identity: int) -> None:
        super().__init__(house, identity)
        self.session = 0
        self.sequence = 0
        self.values: list[int] = []
        self.ask(lambda number: Batch(number, codec.pack_batch(0, identity, 0, (), ("", 0))))

    @property
    def done(self) -> bool:
        return len(self.values) == ADDS

    def go_on(self) -> None:
        reply = None if self.done else self.step()
        if isinstance(reply, Outcome):
            if self.session:
                assert reply.answers
                assert not reply.expired
                self.values.append(reply.answers[0][2])
            self.session = self.session or reply.opened
            self.sequence += 1
            command = codec.pack(ops.Add("n", 1).to_wire())
            data = codec.pack_batch(self.session, self.sequence, self.sequence, [command], ("", 0))
            self.ask(lambda number: Batch(number, data))
        elif reply is not None:
            assert isinstance(reply, Failed)
            assert isinstance(reply.error, Unavailable)
            self._go()


class Watcher(Guest):
    """Watches what the others count."""

    def __init__(self, house: House) -> None:
        super().__init__(house, 99)
        self.seen: list[int] = []
        self.place: tuple[int, int, bool] = (1, 0, False)
        self._pull()

    def _pull(self) -> None:
        revision, passed, synced = self.place
        self.ask(lambda number: Pull(number, b"n", b"n\0", revision, passed, synced=synced))

    def go_on(self) -> None:
        reply = self.step()
        if isinstance(reply, letters.Events):
            self.seen += [int(event.kv.text) for event in reply.events]
            self.place = (reply.revision, reply.passed, reply.caught_up)
            self._pull()
        else:
            assert reply is None, reply


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_write_counts_once_and_each_is_watched_once(seed: int) -> None:
    house = House(seed)
    adders = [Adder(house, identity) for identity in (1, 2, 3)]
    watcher = Watcher(house)
    for turn in range(60_000):
        house.turn()
        if turn < 6_000:
            house.stir()
        elif turn == 6_000:
            house.heal()
        for adder in adders:
            adder.go_on()
        watcher.go_on()
        if all(adder.done for adder in adders) and len(watcher.seen) == 3 * ADDS:
            break
    assert house.crashes > 1
    values = [value for adder in adders for value in adder.values]
    assert sorted(values) == list(range(1, 3 * ADDS + 1))
    assert watcher.seen == list(range(1, 3 * ADDS + 1))
