"""Views against a model, over a member that is a fake and over real ones: whole, current, and never in between two revisions."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import Closed, Compacted, Delete, DiskFull, NoLeader, Put, Replica, WaitTimeout
from replkv.aio import AsyncReplica
from replkv.valuecodec import JSON, Undecodable, key_to_text
from replkv.values import Event, KeyValue, Synced
from replkv.view import Change, Source, View

PATIENCE = 20.0


class FakeMember:
    """A history, and the watches of it that a view opens.  What is in ``meanwhile`` happens one by one, before each look."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 1
        self.history: list[Event] = []
        self.state: dict[bytes, KeyValue] = {}
        self.meanwhile: list[Callable[[], object]] = []
        self.failure: Exception | None = None
        self.opened: list[int | None] = []
        self.age = 0.0

    def check(self) -> None:
        pass

    def age_at(self, revision: int) -> float:
        assert revision == self.revision
        return self.age

    def write(self, *changes: tuple[bytes, bytes | None]) -> None:
        changes = tuple((key, value) for key, value in changes if value is not None or key in self.state)
        self.revision += bool(changes)
        for key, value in changes:
            kv = KeyValue(key, value or b"", 1, self.revision, 1)
            if value is None:
                del self.state[key]
            else:
                self.state[key] = kv
            self.history.append(Event("put" if value is not None else "delete", kv, None, self.revision))

    def compact(self) -> None:
        self.compacted = self.revision
        self.history = [event for event in self.history if event.revision >= self.compacted]

    def has_news(self, revision: int) -> bool:
        return revision != self.revision or bool(self.meanwhile) or self.failure is not None

    def follow(self, prefix: bytes, start_revision: int | None = None) -> FakeWatch:
        self.opened.append(start_revision)
        return FakeWatch(self, prefix, start_revision)

    def alarm(self, kind: object, prefix: bytes | None, start_revision: int) -> FakeWatch:
        return FakeWatch(self, prefix or b"", start_revision)

    def view(self, prefix: bytes = b"", codec: Any = JSON) -> View[Any]:
        return View(cast("Source", self), prefix, codec)


class FakeWatch:
    def __init__(self, member: FakeMember, prefix: bytes, start_revision: int | None) -> None:
        self.member = member
        self.prefix = prefix
        self.revision = start_revision or 0
        self.passed = 0
        self.present: list[KeyValue] | None = None
        self.at = 0

    def next(self, timeout: float) -> Event | Synced | None:
        assert timeout == 0
        if self.member.meanwhile:
            self.member.meanwhile.pop(0)()
        if self.member.failure is not None:
            raise self.member.failure
        if self.revision == 0:
            return self.next_of_present()
        if self.revision < self.member.compacted:
            raise Compacted("compacted", self.member.compacted)
        coming = [event for event in self.member.history if event.revision >= self.revision]
        for event in coming[self.passed :]:
            self.passed = self.passed + 1 if event.revision == self.revision else 1
            self.revision = event.revision
            if event.key.startswith(self.prefix):
                return event
        self.revision, self.passed = self.member.revision + 1, 0
        return None

    def next_of_present(self) -> Event | Synced:
        if self.present is None:
            self.at = self.member.revision
            self.present = [kv for key, kv in sorted(self.member.state.items()) if key.startswith(self.prefix)]
        if self.at < self.member.compacted:
            raise Compacted("compacted", self.member.compacted)
        if self.present:
            kv = self.present.pop(0)
            return Event("put", kv, None, kv.mod_revision)
        self.revision = self.at + 1
        return Synced(self.at)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Model:
    """What the consumer of some changes knows."""

    def __init__(self, view: View[Any]) -> None:
        self.values = dict(view.items())
        self.revision = view.revision
        self.changes = view.changes(timeout=0)

    def take(self, count: int | None = None) -> None:
        for change in itertools.islice(self.changes, count):
            assert change.revision >= self.revision
            assert change.previous == self.values.get(change.key)
            assert (change.kind == "put") or change.key in self.values
            self.revision = change.revision
            if change.kind == "put":
                self.values[change.key] = change.value
            else:
                assert change.value is None
                del self.values[change.key]


def expected(member: FakeMember, prefix: bytes) -> list[tuple[str, Any]]:
    found = sorted((key[len(prefix) :], kv.value) for key, kv in member.state.items() if key.startswith(prefix))
    return [(key_to_text(key), JSON.decode(value)) for key, value in found]


def check(view: View[Any], member: FakeMember) -> None:
    items = expected(member, view.prefix)
    assert list(view.items()) == items
    assert list(view) == list(view.keys()) == [key for key, _ in items]
    assert list(view.values()) == [value for _, value in items]
    assert len(view) == len(items)
    assert view == dict(items) == dict(view)
    assert view.revision == member.revision
    for key, value in items:
        assert key in view
        assert view.get(key) == value
    assert "nothing" not in view


# -- against the model ---------------------------------------------------------------------------------------------------------------

keys = st.sampled_from([b"a/1", b"a/2", b"a/\xff", b"a/\xef\xbf\xbf", b"a/", b"b", b"a", b"\xff"])
changes = st.lists(st.tuples(keys, st.none() | st.sampled_from([b"1", b"2", b"[3]"])), min_size=1, max_size=3, unique_by=lambda one: one[0])
happenings = st.lists(st.one_of(changes, changes, st.none()), max_size=4)
Step = tuple[Any, ...]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("write"), changes),
    st.tuples(st.just("write"), changes),
    st.tuples(st.just("compact")),
    st.tuples(st.just("check")),
    st.tuples(st.just("read"), keys),
    st.tuples(st.just("follow")),
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("meanwhile"), happenings),
)


def happen(member: FakeMember, change: list[tuple[bytes, bytes | None]] | None) -> None:
    if change is None:
        member.compact()
    else:
        member.write(*change)


def do(step: Step, member: FakeMember, view: View[Any], followers: list[Model]) -> None:
    match step:
        case "write", change:
            happen(member, change)
        case ("compact",):
            happen(member, None)
        case ("check",):
            while member.meanwhile:
                view.get("1")
            check(view, member)
        case "read", key:
            view.get(key_to_text(key))
        case ("follow",):
            member.meanwhile.clear()
            followers.append(Model(view))
        case "take", count:
            for follower in followers:
                follower.take(count)
        case "meanwhile", these:
            member.meanwhile += [lambda change=change: happen(member, change) for change in these]  # type: ignore[misc]
        case _:
            raise AssertionError(step)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([b"", b"a", b"a/"]), st.lists(steps, max_size=25))
def test_a_view_is_the_state_and_its_changes_lead_from_one_to_the_next(prefix: bytes, todo: list[Step]) -> None:
    member = FakeMember()
    view = member.view(prefix)
    followers: list[Model] = []
    for step in todo:
        do(step, member, view, followers)
    do(("check",), member, view, followers)
    for follower in followers:
        follower.take()
        if follower.values != dict(view.items()):  # it had ended before the last change
            assert list(follower.changes) == []
            assert follower.revision < view.revision


def test_all_changes_come_in_order_each_with_the_values_around_it() -> None:
    member = FakeMember()
    member.write((b"a", b"1"))
    view = member.view()
    changes = view.changes(timeout=0)
    member.write((b"a", b"2"), (b"b", b"null"))
    member.write((b"a", None))
    assert [told(change) for change in changes] == [
        ("a", "put", 2, 1, 3),
        ("b", "put", None, None, 3),
        ("a", "delete", None, 2, 4),
    ]
    assert list(changes) == [], "it has ended"
    member.write((b"c", b"1"))
    assert repr(list(view.changes(timeout=0))) == "[]", "they begin now"


def test_a_change_says_what_it_is() -> None:
    member = FakeMember()
    changes = member.view().changes(timeout=0)
    member.write((b"a", b"1"))
    assert repr(next(changes)) == "Change(key='a', revision=2)"


def told(change: Change[Any]) -> tuple[str, str, Any, Any, int]:
    return change.key, change.kind, change.value, change.previous, change.revision


# -- when history is gone --------------------------------------------------------------------------------------------------------------


def test_after_a_compaction_the_view_reads_the_present_state_anew() -> None:
    member = FakeMember()
    member.write((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    view = member.view()
    check(view, member)
    member.write((b"a", b"2"))
    member.write((b"b", None), (b"d", b"4"))
    member.compact()
    check(view, member)
    assert member.opened == [None, None]


def test_changes_beyond_a_compaction_are_told_as_differences() -> None:
    member = FakeMember()
    member.write((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    view = member.view()
    changes = view.changes(timeout=0)
    member.write((b"d", b"1"))
    member.write((b"a", b"2"))
    member.write((b"b", None))
    member.write((b"d", b"2"))
    member.write((b"x", None), (b"a", b"3"))
    member.compact()
    assert [told(change) for change in changes] == [
        ("d", "put", 2, None, 6),
        ("a", "put", 3, 1, 7),
        ("b", "delete", None, 1, 7),
    ]


def test_the_old_state_is_read_until_the_new_one_is_whole() -> None:
    member = FakeMember()
    member.write((b"a", b"1"), (b"b", b"1"))
    view = member.view()
    assert dict(view.items()) == {"a": 1, "b": 1}
    member.write((b"a", b"2"))
    member.write((b"b", None), (b"c", b"2"))
    member.compact()
    seen = []

    def look() -> None:
        seen.append({key: entry.value for key, entry in view._state.entries.items()})

    member.meanwhile = [look] * 4
    assert dict(view.items()) == {"a": 2, "c": 2}
    assert seen == [{"a": 1, "b": 1}] * 4


def test_a_new_state_that_is_outrun_by_a_compaction_is_begun_once_more() -> None:
    member = FakeMember()
    member.write((b"a", b"1"), (b"b", b"1"))
    view = member.view()

    assert view == {"a": 1, "b": 1}

    def outrun() -> None:
        member.write((b"a", b"4"))
        member.write((b"a", b"5"), (b"b", None))
        member.compact()

    member.meanwhile = [outrun, lambda: None, outrun]
    assert view["a"] == 5
    check(view, member)
    assert member.opened == [None, None, None]


def test_what_did_not_change_beyond_a_compaction_is_not_decoded_again() -> None:
    member = FakeMember()
    member.write((b"a", b"[1]"))
    member.write((b"b", b"[1]"))
    view = member.view()
    kept, replaced = view["a"], view["b"]
    member.write((b"b", b"[1]"))
    member.compact()
    assert view["a"] is kept
    assert view["b"] == replaced
    assert view["b"] is not replaced


# -- values ----------------------------------------------------------------------------------------------------------------------------


class Counting:
    def __init__(self) -> None:
        self.decoded: list[bytes] = []

    def encode(self, value: str, /) -> bytes:
        raise AssertionError

    def decode(self, data: bytes, /) -> str:
        self.decoded.append(data)
        return data.decode()


def test_values_are_decoded_once_when_they_are_asked_for() -> None:
    member, codec = FakeMember(), Counting()
    member.write((b"a", b"1"), (b"b", b"2"))
    view = member.view(codec=codec)
    assert len(view) == 2
    assert "a" in view
    assert list(view) == ["a", "b"]
    assert codec.decoded == []
    assert [view["a"], view["a"]] == ["1", "1"]
    assert codec.decoded == [b"1"]
    assert dict(view.items()) == {"a": "1", "b": "2"}
    assert codec.decoded == [b"1", b"2"]
    member.write((b"a", b"3"))
    assert view["a"] == "3"
    assert codec.decoded == [b"1", b"2", b"3"]


def test_an_undecodable_value_is_told_with_its_key_and_hinders_no_other() -> None:
    member = FakeMember()
    view = member.view(b"v/")
    changes = view.changes(timeout=0)
    member.write((b"v/bad", b"\xff"), (b"v/good", b"1"))
    for read in (
        lambda: view["bad"],
        lambda: view.get("bad"),
        lambda: list(view.values()),
        lambda: dict(view.items()),
        lambda: view["bad"],
    ):
        with pytest.raises(Undecodable, match="JSON can't read the value of 'v/bad'") as caught:
            read()
        assert caught.value.key == b"v/bad"
    assert view["good"] == 1
    assert list(view) == ["bad", "good"]
    bad, good = changes
    assert (bad.key, bad.kind, bad.previous, good.value) == ("bad", "put", None, 1)
    with pytest.raises(Undecodable):
        _ = bad.value
    member.write((b"v/bad", b"2"))
    assert dict(view.items()) == {"bad": 2, "good": 1}


def test_a_view_is_read_only_and_what_is_no_key_is_not_in_it() -> None:
    view = FakeMember().view()
    assert not hasattr(view, "__setitem__")
    nothings: list[Any] = [5, b"a", None, "\ud800"]
    for nothing in nothings:
        assert nothing not in view
        with pytest.raises(KeyError):
            view[nothing]
    with pytest.raises(TypeError, match="prefix must be bytes or str"):
        FakeMember().view(5)  # type: ignore[arg-type]


# -- state and end of the member -----------------------------------------------------------------------------------------------------


def test_a_view_that_is_as_new_as_its_member_does_not_look() -> None:
    member = FakeMember()
    member.write((b"a", b"1"))
    view = member.view()
    assert view["a"] == 1
    view._state.watch = None  # type: ignore[assignment]
    assert view["a"] == 1


def test_a_view_says_how_old_it_is_and_what() -> None:
    member = FakeMember()
    view = member.view(b"a/")
    member.age = 2.5
    assert view.age == 2.5
    assert view.revision == 1
    assert repr(view) == "<View b'a/' JSON at revision 1>"


def test_a_member_that_fails_is_told_to_all_who_read_and_iterate() -> None:
    member = FakeMember()
    view = member.view()
    changes = view.changes(timeout=0)
    assert view == {}
    member.failure = ValueError("broken")
    for read in (lambda: view["a"], lambda: len(view), lambda: list(view), lambda: view.revision, lambda: next(changes), view.changes):
        with pytest.raises(ValueError, match="broken"):
            read()


def test_iterating_ends_when_the_member_is_closed() -> None:
    member = FakeMember()
    changes = member.view().changes()
    member.failure = Closed("closed")
    assert list(changes) == []


# -- real members --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as member:
        member.wait_ready(PATIENCE)
        yield member


def test_a_view_follows_a_member(replica: Replica) -> None:
    replica.put("v/a", "1")
    view = replica.view("v/", "json")
    assert dict(view.items()) == {"a": 1}
    replica.put("v/b", "2")
    assert view["b"] == 2
    replica.put("beside", "3")
    assert view.revision == replica.revision == 4
    replica.txn(then=[Delete("v/a"), Put("v/c", "[3]")])
    assert dict(view.items()) == {"b": 2, "c": [3]}
    assert view.age < PATIENCE


def test_a_view_in_a_namespace_has_its_keys_only(replica: Replica) -> None:
    outer = replica.namespace("n/")
    inner = outer.view("v/", "text")
    whole = outer.view("", "text")
    changes = inner.changes(timeout=0)
    replica.put("v/a", "outside")
    outer.put("v/a", "inside")
    outer.put("a", "beside")
    assert dict(inner.items()) == {"a": "inside"}
    assert dict(whole.items()) == {"a": "beside", "v/a": "inside"}
    assert [told(change) for change in changes] == [("a", "put", "inside", None, 3)]
    outer.put("v/a", b"\xff")
    with pytest.raises(Undecodable) as caught:
        inner["a"]
    assert caught.value.key == b"v/a"
    replica.put("far/away", "")
    inner.wait(replica.revision, 0)


def test_a_view_survives_compactions(replica: Replica) -> None:
    view = replica.view("v/", "json")
    assert view == {}
    changes = view.changes(timeout=0)
    for number in range(10):
        replica.put(f"v/{number % 3}", str(number))
    replica.delete("v/2")
    replica.compact(replica.revision)
    assert dict(view.items()) == {"0": 9, "1": 7}
    assert {change.key: change.value for change in changes} == {"0": 9, "1": 7}


def move_money(replica: Replica, names: list[str]) -> None:
    """Write 300 revisions that each keep the sum of the balances, and compact now and then."""
    balance = dict.fromkeys(names, 10)
    for turn in range(300):
        source, target = names[turn % 8], names[(turn * 3 + 1) % 8]
        balance[source] -= 1
        balance[target] += 1
        if source != target:
            replica.txn(then=[Put(f"v/{source}", str(balance[source])), Put(f"v/{target}", str(balance[target]))])
        if turn % 20 == 19:
            replica.compact(replica.revision)


def sums(view: View[Any], done: threading.Event) -> Iterator[tuple[int, int]]:
    while not done.is_set():
        yield sum(view.values()), view.revision


def test_readers_never_see_half_a_revision_while_it_is_written_and_compacted(replica: Replica) -> None:
    names = [str(number) for number in range(8)]
    replica.txn(then=[Put(f"v/{name}", "10") for name in names])
    view = replica.view("v/", "json")
    changes, followed = view.changes(), dict(view.items())
    done = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(lambda: list(sums(view, done))) for _ in range(2)]
        follower = pool.submit(lambda: followed.update((change.key, change.value) for change in changes))
        writer = pool.submit(move_money, replica, names)
        writer.add_done_callback(lambda _: done.set())
        for reader in readers:
            seen = reader.result(PATIENCE)
            assert {total for total, _ in seen} == {80}
            assert seen == sorted(seen), "revisions only grow"
        writer.result(PATIENCE)
        final = {kv.key.decode()[2:]: int(kv.value) for kv in replica.scan(prefix="v/")}
        assert dict(view.items()) == final
        replica.close()
        follower.result(PATIENCE)
    assert followed == final


def test_wait_waits_for_any_revision_of_the_store(replica: Replica) -> None:
    view = replica.view("v/", "json")
    view.wait(replica.revision, 0)
    coming = replica.revision + 2
    with pytest.raises(WaitTimeout, match=f"did not come to revision {coming} in time"):
        view.wait(coming, 0)
    waiting = threading.Thread(target=view.wait, args=(coming,), daemon=True)
    waiting.start()
    replica.put("beside", "1")
    replica.put("beside", "2")
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert view.revision >= coming
    replica.compact(coming)
    view.wait(2, 0)
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match="revision must be an int"):
            view.wait(wrong)  # type: ignore[arg-type]


def test_changes_wait_for_what_comes(replica: Replica) -> None:
    view = replica.view("v/", "json")
    changes = view.changes()
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(told(change) for change in itertools.islice(changes, 2)), daemon=True)
    reader.start()
    replica.put("v/a", "1")
    replica.put("beside", "1")
    replica.put("v/a", "2")
    reader.join(PATIENCE)
    assert found == [("a", "put", 1, None, 2), ("a", "put", 2, 1, 4)]


def test_a_view_works_without_a_quorum(tmp_path: Path) -> None:
    lone = {"a": "inproc://replkv-test-view-a", "b": "127.0.0.1:1"}
    with Replica("a", data_dir=tmp_path, cluster=lone) as member:
        view = member.view("", "json")
        assert view == {}
        assert view.age == float("inf")
        with pytest.raises(WaitTimeout):
            view.wait(7, 0)
        with pytest.raises(NoLeader):
            member.get("a", timeout=0)


def test_a_closed_member_is_told() -> None:
    with Replica() as member:
        member.wait_ready(PATIENCE)
        member.put("v/a", "1")
        view = member.view("v/", "json")
        assert view["a"] == 1
        pool = ThreadPoolExecutor(1)
        blocked = pool.submit(view.wait, 100)
    with pytest.raises(Closed):
        blocked.result(PATIENCE)
    pool.shutdown()
    for use in (lambda: view["a"], lambda: len(view), lambda: view.revision, view.changes, lambda: view.wait(1), lambda: view.age):
        with pytest.raises(Closed):
            use()


def test_the_age_of_a_view_of_a_stopped_member_is_what_stopped_it_not_a_number() -> None:
    with Replica() as member:
        member.wait_ready(PATIENCE)
        view = member.view("v/")
        assert view.age < PATIENCE
        node = member._running()
        node.failure = DiskFull("no space left")
        node.hub.end()
        with pytest.raises(DiskFull, match="no space left"):
            _ = view.age
        node.failure = None
    with pytest.raises(Closed, match="is closed"):
        _ = view.age


@pytest.mark.parametrize(("timeout", "error"), [("x", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)])
def test_a_wrong_timeout_is_refused_by_the_call_not_when_it_is_first_waited(timeout: Any, error: type[Exception]) -> None:
    with Replica() as member:
        member.wait_ready(PATIENCE)
        view = member.view("v/")
        with pytest.raises(error, match="timeout must be"):
            view.changes(timeout)
        with pytest.raises(error, match="timeout must be"):
            view.wait(1, timeout)

    async def test(member: AsyncReplica) -> None:
        view = member.view("v/")
        with pytest.raises(error, match="timeout must be"):
            view.changes(timeout)
        with pytest.raises(error, match="timeout must be"):
            await view.wait(1, timeout)

    with_async_member(test)


def test_changes_that_a_thread_waits_for_can_be_ended_by_another() -> None:
    with Replica() as member:
        member.wait_ready(PATIENCE)
        changes = member.view("v/", "json").changes()
        member.put("v/a", "1")
        assert told(next(changes)) == ("a", "put", 1, None, 2)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, changes)
            while changes._alarm is None:
                member.put("beside", "1")
            changes.close()
            assert rest.result(PATIENCE) == []
        member.put("v/b", "1")
        assert list(changes) == []


def test_changes_that_are_closed_before_they_begin_yield_nothing(replica: Replica) -> None:
    changes = replica.view("v/", "json").changes()
    replica.put("v/a", "1")
    changes.close()
    assert list(changes) == []


def test_a_forked_child_is_told_even_if_its_parent_was_reading() -> None:
    program = """
import os, sys
from replkv import ForkedProcess, Replica
replica = Replica()
replica.wait_ready(10)
replica.put("a", "1")
view = replica.view("")
assert dict(view.items()) == {"a": b"1"}
view._lock.acquire()
if os.fork() == 0:
    if replica.ready:
        os._exit(98)
    for use in (lambda: view["a"], lambda: len(view), lambda: view.revision, view.changes, lambda: view.wait(1), lambda: view.age):
        try:
            use()
        except ForkedProcess:
            continue
        os._exit(99)
    os._exit(7)
status = os.waitstatus_to_exitcode(os.wait()[1])
view._lock.release()
assert view["a"] == b"1"
replica.close()
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


# -- asyncio ---------------------------------------------------------------------------------------------------------------------------


def with_async_member(test: Callable[[AsyncReplica], Any]) -> None:
    async def main() -> None:
        async with AsyncReplica() as member:
            await member.wait_ready(PATIENCE)
            await test(member)

    asyncio.run(main())


def test_an_async_view_is_read_as_any_dictionary() -> None:
    async def test(member: AsyncReplica) -> None:
        await member.put("v/a", "1")
        view = member.view("v/", "json")
        assert dict(view.items()) == {"a": 1}
        await member.put("v/b", "2")
        assert view["b"] == 2
        assert view.revision == member.revision
        assert repr(view) == "<AsyncView b'v/' JSON at revision 3>"

    with_async_member(test)


def test_awaiting_an_async_view_takes_in_all_keys_and_lets_others_run() -> None:
    async def test(member: AsyncReplica) -> None:
        for start in range(0, 3000, 100):
            await member.txn(then=[Put(f"v/{number}", str(number)) for number in range(start, start + 100)])
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        view = await member.view("v/", "json")
        assert turns >= 10
        task.cancel()
        assert len(view) == 3000
        assert (await view) is view

    with_async_member(test)


def test_async_changes_and_waits() -> None:
    async def test(member: AsyncReplica) -> None:
        view = member.view("v/", "json")
        changes = view.changes()
        assert [change async for change in view.changes(timeout=0)] == []
        coming = asyncio.ensure_future(anext(changes))
        waiting = asyncio.ensure_future(view.wait(4))
        await asyncio.sleep(0)
        assert not coming.done()
        await member.put("beside", "1")
        await member.put("v/a", "1")
        assert told(await coming) == ("a", "put", 1, None, 3)
        assert not waiting.done()
        await member.put("beside", "2")
        await asyncio.wait_for(waiting, PATIENCE)
        assert view.revision == 4
        await view.wait(2)
        with pytest.raises(WaitTimeout):
            await view.wait(100, timeout=0)
        for number in range(5):
            await member.put("v/a", str(number))
        await member.compact(member.revision)
        await view.wait(2)
        last: Any = 1
        seen = 5
        while last != 4:  # one by one as far as the history is still there, or all at once
            change = await anext(changes)
            assert (change.key, change.kind, change.previous) == ("a", "put", last)
            assert change.revision >= seen
            last, seen = change.value, change.revision
        assert seen == 9

    with_async_member(test)


def test_a_closed_async_member_ends_its_iterators_and_is_told() -> None:
    async def main() -> None:
        member = AsyncReplica()
        async with member:
            await member.wait_ready(PATIENCE)
            view = await member.view("v/", "json")

            async def all_changes() -> list[Any]:
                return [told(change) async for change in view.changes()]

            following = asyncio.create_task(all_changes())
            waiting = asyncio.create_task(view.wait(100))
            await asyncio.sleep(0)
            await member.put("v/a", "1")
        assert await following == [("a", "put", 1, None, 2)]
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            view["a"]

    asyncio.run(main())


def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    async def test(member: AsyncReplica) -> None:
        view = member.view("v/")
        waiting = asyncio.create_task(view.wait(100))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await member.put("v/a", "1")
        assert dict(view.items()) == {"a": b"1"}

    with_async_member(test)
