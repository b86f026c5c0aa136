"""``admission.py``: no more under way than is allowed, and who waits gets in, in order, as soon as there is room."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from caller import Caller
from hasty import hasty_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv.admission import Admission
from replkv.errors import Closed
from replkv.proposals import Call


def lined_up(admission: Admission, *sizes: int) -> list[Caller]:
    callers = [Caller(b"x") for _ in sizes]
    for caller, size in zip(callers, sizes, strict=True):
        admission.line_up(caller, size)
    return callers


def let_in(callers: list[Caller]) -> list[int]:
    return [caller.finished for caller in callers]


# -- room -----------------------------------------------------------------------------------------------------------------------------


def test_commands_are_counted() -> None:
    admission = Admission(2, 1000)
    assert [admission.enter(1) for _ in range(3)] == [True, True, False]
    admission.leave(1, 1)
    assert [admission.enter(1) for _ in range(2)] == [True, False]
    assert (admission.commands, admission.bytes) == (2, 2)


def test_bytes_are_counted() -> None:
    admission = Admission(100, 10)
    assert [admission.enter(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
    admission.leave(1, 6)
    assert [admission.enter(size) for size in (7, 6)] == [False, True]


def test_a_command_larger_than_all_room_goes_alone() -> None:
    admission = Admission(100, 10)
    assert admission.enter(50)
    assert not admission.enter(0)
    admission.leave(1, 50)
    assert admission.enter(1)
    assert not admission.enter(50)
    (large,) = lined_up(admission, 50)
    assert large.finished == 0
    admission.leave(1, 1)
    assert large.finished == 1


def test_the_members_own_commands_are_let_in_anyway_and_counted() -> None:
    admission = Admission(1, 10)
    admission.enter_anyway(8)
    admission.enter_anyway(8)
    assert (admission.commands, admission.bytes) == (2, 16)
    assert not admission.enter(1)
    admission.leave(2, 16)
    assert admission.enter(1)


# -- the line -------------------------------------------------------------------------------------------------------------------------


def test_those_in_line_are_let_in_in_their_order() -> None:
    admission = Admission(2, 1000)
    assert admission.enter(1)
    assert admission.enter(1)
    callers = lined_up(admission, 1, 1, 1)
    assert let_in(callers) == [0, 0, 0]
    admission.leave(1, 1)
    assert let_in(callers) == [1, 0, 0]
    admission.leave(2, 2)
    assert let_in(callers) == [1, 1, 1]
    assert (admission.commands, admission.bytes) == (2, 2)


def test_nobody_overtakes_the_line_however_small() -> None:
    admission = Admission(100, 10)
    assert admission.enter(6)
    callers = lined_up(admission, 6, 1)
    assert not admission.enter(1)
    assert let_in(callers) == [0, 0]
    admission.leave(1, 6)
    assert let_in(callers) == [1, 1]
    assert admission.enter(1)


def test_who_lines_up_where_there_is_room_by_now_is_let_in_at_once() -> None:
    """Between being refused and lining up, the last one under way may have left: nobody would come to wake it."""
    admission = Admission(1, 10)
    assert admission.enter(1)
    assert not admission.enter(1)
    admission.leave(1, 1)
    (caller,) = lined_up(admission, 1)
    assert caller.finished == 1


def test_who_gives_up_is_not_let_in_and_who_was_let_in_can_not_give_up() -> None:
    admission = Admission(1, 10)
    assert admission.enter(1)
    first, second = lined_up(admission, 1, 1)
    assert admission.give_up(first, 1)
    assert not admission.give_up(first, 1)
    admission.leave(1, 1)
    assert let_in([first, second]) == [0, 1]
    assert not admission.give_up(second, 1)
    assert admission.commands == 1


def test_who_gives_up_makes_way_for_those_behind() -> None:
    """They waited on, until the next command left, although there was room for them."""
    admission = Admission(100, 10)
    assert admission.enter(5)
    large, small, another = lined_up(admission, 8, 3, 3)
    assert let_in([large, small, another]) == [0, 0, 0]
    assert admission.give_up(large, 8)
    assert let_in([large, small, another]) == [0, 1, 0]


def test_at_the_end_everybody_in_line_is_told_once() -> None:
    admission = Admission(1, 10)
    assert admission.enter(1)
    callers = lined_up(admission, 1, 1)
    closed = Closed("closed")
    admission.fail_all(closed)
    admission.fail_all(closed)
    admission.leave(1, 1)
    assert let_in(callers) == [1, 1]
    assert all(caller.error is closed for caller in callers)
    assert admission.commands == 0


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.lists(st.tuples(st.sampled_from("elgo"), st.integers(0, 9)), max_size=40))
def test_whatever_comes_and_goes_the_bound_holds_and_nobody_waits_beside_room(
    most: int, most_bytes: int, moves: list[tuple[str, int]]
) -> None:
    admission = Admission(most, most_bytes)
    inside: list[int] = []
    line: list[tuple[Caller, int]] = []
    for move, number in moves:
        if move == "e" and admission.enter(number):
            inside.append(number)
        elif move == "l":
            line.append((Caller(b"x"), number))
            admission.line_up(*line[-1])
        elif move == "g" and line:
            assert admission.give_up(*line.pop(number % len(line)))
        elif move == "o" and inside:
            admission.leave(1, inside.pop(number % len(inside)))
        while line and line[0][0].finished:
            inside.append(line.pop(0)[1])
        assert not any(caller.finished for caller, _ in line), "in their order"
        assert (admission.commands, admission.bytes) == (len(inside), sum(inside))
        assert len(inside) <= most
        assert sum(inside) <= most_bytes or len(inside) == 1
        assert not line or (inside and (len(inside) == most or sum(inside) + line[0][1] > most_bytes)), "there is room for who is first"


# -- threads --------------------------------------------------------------------------------------------------------------------------


class Woken(Call):
    """A caller on a thread of its own."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        super().__init__(b"x")
        self.event = threading.Event()

    def finish(self) -> None:
        self.event.set()


@pytest.fixture
def hurried() -> Iterator[None]:
    with hasty_threads():
        yield


class Crowd:
    """Threads that enter, stay for a little, and leave; some lose patience in line."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: list[int] = []
        self.waited = self.done = self.given_up = 0
        self.wrong: list[str] = []
        self._gate = threading.Lock()

    def come(self, size: int, *, patient: bool) -> bool:
        """Get in; False: gave up."""
        if self.admission.enter(size):
            return True
        caller = Woken()
        self.admission.line_up(caller, size)
        self.waited += 1  # about
        if not patient and self.admission.give_up(caller, size):
            return False
        if not caller.event.wait(20.0):
            self.wrong.append("a wake-up was lost")
        return True

    def stay(self, size: int) -> None:
        with self._gate:
            self.inside.append(size)
            if len(self.inside) > 3 or (sum(self.inside) > 20 and len(self.inside) > 1):
                self.wrong.append(f"all of {self.inside} are inside")
        for _ in range(50):
            pass
        with self._gate:
            self.inside.remove(size)
            self.done += 1
        self.admission.leave(1, size)

    def work(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2000):
            size = rng.randrange(25)
            if self.come(size, patient=rng.random() < 0.8):
                self.stay(size)
            else:
                with self._gate:
                    self.given_up += 1


@pytest.mark.usefixtures("hurried")
def test_no_wake_up_is_lost_among_threads() -> None:
    admission = Admission(3, 20)
    crowd = Crowd(admission)
    threads = [threading.Thread(target=crowd.work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowd.wrong == []
    assert crowd.done + crowd.given_up == 16_000
    assert (admission.commands, admission.bytes, len(admission._line)) == (0, 0, 0)
