"""Whole clients at the doors of whole members, in virtual time: members crash, connections break, and everything goes on."""

from __future__ import annotations

import random
from typing import Any

import pytest
from caller import Caller
from test_door_random import House
from visitors import Hall

from replkv import ops
from replkv.config import Config
from replkv.feed import MORE, Wanted
from replkv.plans import Read
from replkv.remote import Remote
from replkv.transport import Arrived, PipeDown, PipeUp
from replkv.values import Span, Synced

CALLS = 60


class Corridor:
    """A connection to a door."""

    waiting = 0

    def __init__(self, hall: Hall) -> None:
        hall.pipes += 1
        self.hall, self.pipe = hall, hall.pipes
        self.transport = hall.transport
        self.transport.frames[self.pipe] = []
        self.transport.events.append(PipeUp(self.pipe))
        self.cut = False

    def send(self, body: bytes) -> None:
        self.transport.events.append(Arrived(self.pipe, body))

    def close(self) -> None:
        if self.transport.frames.pop(self.pipe, None) is not None:
            self.transport.events.append(PipeDown(self.pipe))


class Corridors:
    """The way of one client to the doors."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.links: list[Corridor] = []

    def open(self, target: str, attempt: int) -> Corridor:
        del attempt
        hall = self.house.halls.get(target[-1])
        if hall is None:
            raise ConnectionError("connection refused")
        self.links.append(Corridor(hall))
        return self.links[-1]

    def poll(self, timeout: float) -> list[tuple[Any, list[bytes], Exception | None]]:
        del timeout
        found: list[tuple[Any, list[bytes], Exception | None]] = []
        for link in self.links:
            frames = link.transport.frames.get(link.pipe)
            if frames is None or link.cut or link.hall not in self.house.halls.values():
                link.close()
                found.append((link, [], ConnectionError("reset")))
            elif frames:
                link.transport.frames[link.pipe] = []
                found.append((link, frames, None))
        self.links = [link for link in self.links if link.pipe in link.transport.frames]
        return found

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class Guest:
    """A client that counts, watches what all count, and holds a lease."""

    def __init__(self, house: House, number: int) -> None:
        self.house, self.rng = house, random.Random(number)
        self.ways = Corridors(house)
        targets = [f"tcp://127.0.0.1:70{number}1/{name}" for name in "abc"]
        self.rng.shuffle(targets)
        self.remote = Remote(targets, Config(), self.ways, lambda: house.cluster.now, random.Random(number), anywhere=False)
        self.remote._targets.learn({})
        self.key = f"k/{number}"
        self.calls: list[Caller] = []
        self.reads: list[tuple[int, Caller]] = []  # how much was known to be counted when it was asked
        self.feeds = [
            self.remote.feed(Wanted.of(Span.of(prefix="k/"), start_revision=2), lambda: None),
            self.remote.feed(Wanted.of(Span.of(prefix="k/"), initial=True), lambda: None),
        ]
        self.seen: list[list[Any]] = [[] for _ in self.feeds]
        self.granted = self.write(ops.Grant(0, 20_000_000, self.remote.keeper.number))
        self.held: Any = None
        self.begun = house.cluster.now

    def write(self, operation: ops.Packable[Any]) -> Caller:
        call = Caller.of(operation)
        self.remote.admission.enter_anyway(len(call.command or b""))
        self.remote.submit(call)
        return call

    def ask(self) -> None:
        call = Caller()
        counted = max((call.answer[2] for call in self.calls if call.answer is not None), default=0)
        self.reads.append((counted, call))
        self.remote.ask(Read(ops.Get(self.key), b"", self.rng.choice(("linearizable", "lease", "local"))), call)

    def turn(self) -> None:
        self.remote.turn(0.0)
        if self.granted.finished and self.held is None:
            assert self.granted.answer is not None
            self.held = self.remote.keeper.hold(self.granted.answer[1], 20.0, self.begun, kept=True)
        if len(self.calls) < CALLS and self.rng.random() < 0.2:
            self.calls.append(self.write(ops.Add(self.key, 1)))
        if len(self.reads) < CALLS and self.rng.random() < 0.1:
            self.ask()
        if self.rng.random() < 0.3:
            self.look()

    def look(self) -> None:
        for feed, seen in zip(self.feeds, self.seen, strict=True):
            while (found := feed.look(whole=False)) is not None:
                seen.extend(found if found is not MORE else ())

    @property
    def done(self) -> bool:
        return all(call.finished for call in [*self.calls, *(call for _, call in self.reads)]) and len(self.calls) == CALLS


@pytest.mark.parametrize("seed", range(12))
def test_clients_lose_nothing_repeat_nothing_and_keep_their_leases(seed: int) -> None:
    house, rng = House(seed), random.Random(seed)
    house.cluster.run(house.cluster.leader)
    guests = [Guest(house, number) for number in range(3)]

    def turn() -> None:
        house.turn()
        for guest in guests:
            guest.turn()

    for _ in range(1500):
        house.stir()
        for link in [link for guest in guests for link in guest.ways.links if rng.random() < 0.003]:
            link.cut = True
        turn()
    house.heal()
    limit = house.cluster.now + 60
    while not all(guest.done for guest in guests):
        assert house.cluster.now < limit
        turn()
    nodes = list(house.cluster.nodes.values())
    newest = max(guest.remote.revision for guest in guests)
    while any(node.published.revision < newest for node in nodes) or any(guest.feeds[0].revision <= newest for guest in guests):
        assert house.cluster.now < limit + 60
        turn()
    store = nodes[0].machine.store
    records = [record for record in store.events if record[0].startswith(b"k/")]
    for guest in guests:
        assert all(call.finished == 1 and call.error is None for call in guest.calls)
        assert sorted(call.answer[2] for call in guest.calls if call.answer is not None) == list(range(1, CALLS + 1))
        assert store.newest[guest.key.encode()][1] == b"%d" % CALLS
        guest.look()
        events, state = guest.seen
        assert [(event.key, event.value, event.revision) for event in events] == [(key, value, mod) for key, value, _, mod, *_ in records]
        (synced,) = [found for found in state if isinstance(found, Synced)]
        behind = state[state.index(synced) + 1 :]
        assert behind == [event for event in events if event.revision > synced.revision]
        for counted, read in guest.reads:
            assert read.error is None
            assert read.answer is not None
            assert int(read.answer[1][1] if read.answer[1] else 0) >= counted, "each sees what was counted before it was asked"
        assert not guest.held.lost
        assert guest.held.id in nodes[0].machine.leases
