"""Histories of real processes are written down as they happen, survive who wrote them, and say what replkv's own calls said."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tales import tale

from replkv import Add, Conflict, Delete, Get, Guard, Key, LockLost, NoLeader, OutcomeUnknown, Put, Replica, Scan, Txn
from replkv.ops import KEEP, Operation
from replkv.testing.blackbox import Call, Journal, Recorder, describe, read_history, write_history
from replkv.testing.cycles import check_transactions
from replkv.testing.linearizability import check_history
from replkv.testing.locks import check_locks

TALE = (
    "put k 1 prev = 2 prev -; a: add n 3; b: if k.mod==2 then put k 2, get n else get k; b ?; scan k = 3: k 1@2; a = 3 3; c: put k 9; c !"
)


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    calls = sorted(tale(TALE), key=lambda call: call.called)
    write_history(tmp_path / "history", calls)
    assert read_history(tmp_path / "history") == calls


def test_a_call_is_told_in_a_line() -> None:
    told = [str(call) for call in sorted(tale(TALE), key=lambda call: call.called)]
    assert told == [
        "p0: put k value='1' prev_kv=True → {'revision': 2, 'prev': None}",
        "a: add n delta=3 → {'revision': 3, 'value': 3}",
        "b: if k.mod_revision == 2 then put k value='2', get n else get k → unknown",
        "p4: scan k → {'revision': 3, 'pairs': {'k': ['1', 2, 2, 1]}}",
        "c: put k value='9' → failed",
    ]


def test_a_call_counts_as_it_was_noted_last(tmp_path: Path) -> None:
    begun = Call("a", "get", {"key": "k"}, 10)
    with Journal(tmp_path / "history") as journal:
        journal.note(begun)
        journal.note(Call("b", "get", {"key": "k"}, 10))
        journal.note(Call("a", "get", {"key": "k"}, 10, 20, "ok", None))
    assert read_history(tmp_path / "history") == [Call("a", "get", {"key": "k"}, 10, 20, "ok", None), Call("b", "get", {"key": "k"}, 10)]


def test_what_a_killed_process_left_of_its_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write_history(path, tale("put k 1 = 2; get k = 1@2"))
    whole = path.read_text()
    for length in range(len(whole.splitlines()[0]) + 1, len(whole) - 2):
        path.write_text(whole[:length])
        assert len(read_history(path)) == 1
    path.write_text(whole[:-1])
    assert len(read_history(path)) == 2


def test_damage_amid_a_history_is_no_history(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('{"process":"a"\n{}\n')
    with pytest.raises(ValueError, match="delimiter"):
        read_history(path)


class Scripted:
    """Does what it is told, by a clock that ticks with each look."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.noted, self.now = outcome, list[Call](), 0

    def run(self, operation: Operation) -> Any:
        return Recorder("a", self.perform, self.noted.append, self.tick).run(operation)

    def perform(self, operation: Operation) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def tick(self) -> int:
        self.now += 1
        return self.now


@pytest.mark.parametrize(
    ("error", "ending", "result"),
    [
        (Conflict("taken", None), "ok", {"conflict": None}),
        (LockLost("gone"), "ok", {"lost": True}),
        (NoLeader("nobody"), "failed", None),
        (OutcomeUnknown("who knows"), "unknown", None),
        (BrokenPipeError("the process is gone"), "unknown", None),
    ],
)
def test_what_an_error_says_of_a_write_is_noted(error: Exception, ending: str, result: Any) -> None:
    scripted = Scripted(error)
    with pytest.raises(type(error)):
        scripted.run(Put("k", "1", if_mod_revision=0))
    begun, ended = scripted.noted
    assert (begun.called, begun.returned, begun.outcome) == (1, None, "unknown")
    assert (ended.called, ended.returned, ended.outcome, ended.result) == (1, 2, ending, result)


@pytest.mark.parametrize(
    "operation",
    [
        Get("k", revision=3),
        Scan(start="a", end="c"),
        Scan(prefix="k", limit=3),
        Scan(prefix="k", keys_only=True),
        Scan(prefix="k", sort_by="mod"),
        Scan(prefix="k", min_mod_revision=3),
        Put("k", KEEP, lease=7),
        Put("k", "1", lease=KEEP),
        Delete(prefix="k"),
        Txn(then=[Txn(then=[Get("k")])]),
        Txn(compare=[Key("k").mod_revision > 3], then=[Get("k")]),
        Txn(compare=[Key(prefix="k").version == 3], then=[Get("k")]),
        Txn(compare=[Key("k").lease == 3], then=[Get("k")]),
    ],
)
def test_what_a_history_cannot_tell_is_refused(operation: Operation) -> None:
    with pytest.raises(ValueError, match="a history can't tell"):
        describe(operation)


def test_a_key_with_a_time_to_live_hangs_on_a_lease_of_its_own() -> None:
    assert describe(Put("k", "v1", ttl=3.0)) == ("put", {"key": "k", "value": "v1", "lease": "of v1"})
    assert describe(Put("k", "v1", lease=7)) == ("put", {"key": "k", "value": "v1", "lease": 7})


def test_a_guard_is_told_with_its_key_and_revision() -> None:
    guard = Guard("l", 5)
    assert describe(Put("k", "v1", guard=guard)) == ("put", {"key": "k", "value": "v1", "guard": ["l", 5]})
    assert describe(Delete("k", guard=guard)) == ("delete", {"key": "k", "guard": ["l", 5]})
    assert describe(Txn(compare=[guard]))[1]["compare"] == [["l", "create_revision", "==", 5]]


def work(replica: Replica, name: str, noted: list[Call]) -> None:
    """Use everything a history can tell."""
    recorder = Recorder(name, lambda operation: replica.submit(operation).result(10.0), noted.append)
    for number in range(40):
        value = f"{name}{number}"
        seen = recorder.run(Get("k"))
        for operation in (
            Put("k", value, prev_kv=True),
            Put("k", value + "'", if_mod_revision=0 if seen is None else seen.mod_revision),
            Add("n", 2),
            Txn(compare=[Key("k").value != value], then=[Put("j", value), Get("n")], otherwise=[Delete("k"), Get("j")]),
            Scan(prefix="k"),
            Scan(),
            Put("guarded", value, guard=Guard("k", 2 if seen is None else seen.create_revision)),
            Delete("j", if_mod_revision=0),
            Txn(then=[Get("k"), Get("j"), Scan(prefix="n")]),
            Put(f"leased{number % 3}", value, if_mod_revision=0, ttl=60.0),
        ):
            try:
                recorder.run(operation)
            except (Conflict, LockLost):
                continue


def test_what_a_member_answers_to_many_threads_is_linearizable() -> None:
    noted: list[Call] = []
    with Replica() as replica:
        replica.wait_ready()
        threads = [threading.Thread(target=work, args=(replica, name, noted)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    calls = [call for call in noted if call.returned is not None]
    assert len(calls) == 3 * 40 * 11
    assert {call.outcome for call in calls} == {"ok"}
    check_history(calls)
    check_transactions(calls)
    check_locks(calls)
