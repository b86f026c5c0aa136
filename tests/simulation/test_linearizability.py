"""The judge that looks from outside must be just: odd histories that are legal pass, illegal ones are found."""

from __future__ import annotations

import random
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from tales import tale
from tiny_store import TinyStore

from replkv.testing import ordering
from replkv.testing.blackbox import Call
from replkv.testing.history import Violation
from replkv.testing.linearizability import Undecided, check_history
from replkv.testing.ordering import Search

LEGAL = {
    "nothing happened": "",
    "a write, then a read": "put k 1 = 2; get k = 1@2",
    "nothing is there before it is written": "get k = -; put k 1 = 2",
    "a read that overlaps a write does not see it": "a: put k 1; get k = -; a = 2",
    "a read that overlaps a write sees it": "a: put k 1; get k = 1@2; a = 2",
    "reads that overlap a write see it or not, in this order": "a: put k 1; get k = -; get k = 1@2; a = 2",
    "reads that overlap see the old after the new": "a: get k; b: get k; put k 1 = 2; a = 1@2; b = -",
    "writes that overlap take effect in the other order": "a: put k 1; b: put k 2; a = 3; b = 2; get k = 1@2/3/2",
    "a long read sees what was written long ago": "a: get k; put k 1 = 2; put k 2 = 3; put k 3 = 4; a = 2@2/3/2",
    "a long write takes effect early, and its caller learns late": "a: put k 1; get k = 1@2; put k 2 = 3; delete k = 4; get k = -; a = 2",
    "an unknown write never takes effect": "a: put k 1; a ?; get k = -; put k 2 = 2; get k = 2@2",
    "an unknown write takes effect at once": "a: put k 1; a ?; get k = 1@2",
    "an unknown write takes effect much later": "a: put k 1; a ?; get k = -; put k 2 = 2; get k = 2@2; get k = 1@2/3/2",
    "an unknown write is overwritten unseen, and its version counts": "a: put k 1; a ?; put k 2 = 3; get k = 2@2/3/2",
    "an unknown write does not count": "a: put k 1; a ?; put k 2 = 2; get k = 2@2/2/1",
    "a write that never returned is seen": "a: put k 1; put j 1 = 2; get k = 1@3",
    "one of two unknown writes takes effect": "a: put k 1; a ?; b: put k 2; b ?; get k = 2@2",
    "both of two unknown writes take effect": "a: put k 1; a ?; b: put k 2; b ?; get k = 2@2/3/2",
    "unknown writes take effect in the order they were not called in": "a: put k 1; a ?; b: put k 2; b ?; get k = 2@2; get k = 1@2/3/2",
    "an unknown addition is seen in the next one": "add n 1 = 2 1; a: add n 5; a ?; add n 1 = 4 7",
    "an unknown addition is not seen yet": "add n 1 = 2 1; a: add n 5; a ?; add n 1 = 3 2; get n = 7@2/4/3",
    "some of many unknown additions took effect": "a: add n 1; a ?; b: add n 2; b ?; c: add n 4; c ?; get n = 5@2/3/2",
    "an unknown delete took effect": "put k 1 = 2; a: delete k; a ?; get k = -; put k 2 = 4; get k = 2@4",
    "an unknown delete had nothing to delete": "a: delete k; a ?; put k 2 = 2; get k = 2@2",
    "an unknown transaction took one branch": "put k 1 = 2; a: if k.value==1 then put j 2 else put j 3; a ?; get j = 2@3",
    "an unknown guarded put did not match": "put k 1 = 2; a: put k 2 if 7; a ?; get k = 1@2",
    "an unknown guarded put matched": "put k 1 = 2; a: put k 2 if 2; a ?; get k = 2@2/3/2",
    "a failed write leaves nothing": "a: put k 1; a !; get k = -",
    "a failed read says nothing": "put k 1 = 2; a: get k; a !",
    "a refused put changes nothing": "put k 1 = 2; put k 2 if 0 = conflict 1@2; get k = 1@2",
    "a guarded put that expects nothing meets nothing": "put k 1 if 0 = 2; put k 2 if 2 = 3; get k = 2@2/3/2",
    "a guarded put that expects something meets nothing": "put k 1 if 5 = conflict -",
    "one of two guarded puts wins": "put k 1 = 2; a: put k 2 if 2; b: put k 3 if 2; a = conflict 3@2/3/2; b = 3",
    "a delete of nothing makes no revision": "delete k = 1 none; put k 1 = 2; delete k = 3; delete k = 3 none; get k = -",
    "a key that was deleted begins anew": "put k 1 = 2; delete k = 3; put k 2 = 4; get k = 2@4",
    "a guarded delete is refused": "put k 1 = 2; delete k if 9 = conflict 1@2; delete k if 2 = 3",
    "a guarded put is done while the lock is held": "put l a = 2; put k 1 held l@2 = 3; delete l = 4; put k 2 held l@2 = lost; get k = 1@3",
    "a lock that was written to is the same lock": "put l a = 2; put l b = 3; delete k held l@2 = 3 none; put k 1 held l@2 = 4",
    "a guarded put is refused by another lock of that name": "put l a = 2; delete l = 3; put l b = 4; put k 1 held l@2 = lost; get k = -",
    "an unknown write took the lock away": "put l a = 2; a: delete l; a ?; put k 1 held l@2 = lost; put l b = 4",
    "an unknown guarded put came in time": "put l a = 2; a: put k 1 held l@2; a ?; delete l = 4; get k = 1@3",
    "an unknown guarded put came too late": "put l a = 2; a: put k 1 held l@2; a ?; delete l = 3; get k = -",
    "a guard takes a transaction with it": "put l a = 2; if true then put j 1, put k 1 held l@3 = lost; get j = -",
    "what was replaced is told": "put k 1 prev = 2 prev -; put k 2 prev = 3 prev 1@2",
    "additions of contenders are all counted": "a: add n 1; b: add n 1; c: add n 1; c = 2 1; a = 4 3; b = 3 2",
    "an addition keeps the lease": "put n 1 lease L = 2; add n 1 = 3 2; revoke L = 1; get n = -",
    "an unknown addition to a text is none": "put k x = 2; a: add k 1; a ?; put k y = 3; get k = y@2/3/2",
    "an unknown delete empties a scan": "put ka 1 = 2; put kb 1 = 3; a: delete ka; a ?; scan k = 4: kb 1@3",
    "an unknown guarded transaction acted before its condition changed": (
        "put j 1 = 2; a: if j.version>0 then put k 1; a ?; delete j = 4; put k 2 = 5; get k = 2@3/5/2"
    ),
    "of two unknown writes the later one, as its condition tells": (
        "a: put k 1; a ?; b: put k 2; b ?; if k.value==2 then put j 9 = 3 yes: 3"
    ),
    "of two unknown writes to a counter the later one, as its value tells": (
        "a: put n 5; a ?; b: put n 6; b ?; c: add n 1; c ?; get n = 6@2"
    ),
    "a transaction sees its own writes": "if true then put k 1, get k = 2 yes: 2, 1@2",
    "a transaction writes several keys at one revision": "if true then put k 1, put j 2 = 2 yes: 2, 2; get j = 2@2; get k = 1@2",
    "a transaction takes the other branch": "put k 1 = 2; if k.version==0 then put k 2 else get k = 2 no: 1@2",
    "a transaction compares values and versions": "put k b = 2; if k.value>a and k.version<2 and k.mod!=5 then put k c = 3 yes: 3",
    "a value of nothing compares to nothing": "if k.value!=a then put k c else get k = 1 no: -",
    "a transaction is refused by a put in it": "put k 1 = 2; if true then put j 1, put k 2 if 9 = conflict 1@2; get j = -",
    "a read-only transaction sees both keys or none": (
        "a: if true then put k 1, put j 1; if true then get k, get j = 1 yes: -, -; a = 2 yes: 2, 2"
    ),
    "a scan sees a prefix": "put ka 1 = 2; put kb 2 = 3; put j 3 = 4; scan k = 4: ka 1@2, kb 2@3",
    "a scan that overlaps a write tells which side of it it is on": "a: put k 1; scan k = 1:; scan k = 2: k 1@2; a = 2",
    "a scan of nothing": "put j 1 = 2; scan k = 2:",
    "a local read may be old": "put k 1 = 2; put k 2 = 3; get k local = 1@2; get k local = -",
    "a local read tells what was committed by then": "a: put k 1; a ?; get k local = 1@2; get k = 1@2",
    "a leased key goes by itself": "put k 1 lease L = 2; get k = 1@2; get k = -; put k 2 = 4",
    "a leased key stays": "put k 1 lease L = 2; get k = 1@2",
    "all keys of a lease go with it": "put k 1 lease L = 2; put j 2 lease L = 3; revoke L = 1; get k = -; get j = -; put k 3 = 5",
    "a revocation makes one revision, and none where nothing hangs": (
        "put k 1 lease L = 2; put j 1 lease M = 3; revoke L = 1; revoke L = 1; get k = -; get j = 1@3; put i 1 = 5"
    ),
    "a key that was put again without its lease stays": "put k 1 lease L = 2; put k 2 = 3; revoke L = 1; get k = 2@2/3/2",
    "an unknown revocation is as good as none": "put k 1 lease L = 2; a: revoke L; a ?; get k = 1@2; get k = -",
    "writes on two keys that overlap are seen in either order": "a: put k 1; b: put j 1; get j = 1@2; get k = -; b = 2; a = 3; get k = 1@3",
}

ILLEGAL = {
    "a write is not seen": "put k 1 = 2; get k = -",
    "an older write is seen": "put k 1 = 2; put k 2 = 3; get k = 1@2",
    "a write is seen before it was called": "get k = 1@2; put k 1 = 2",
    "the new is seen before the old": "a: put k 1; get k = 1@2; get k = -; a = 2",
    "what nobody wrote is seen": "get k = 1@2",
    "what nobody wrote under this key is seen": "put j 1 = 2; get k = 1@2",
    "a failed write is seen": "a: put k 1; a !; get k = 1@2",
    "a failed write is seen by its version": "put k 1 = 2; a: put k 2; a !; put k 3 = 4; get k = 3@2/4/3",
    "an unknown write is seen, and then not": "a: put k 1; a ?; get k = 1@2; get k = -",
    "an unknown write takes effect twice": "a: put k 1; a ?; get k = 1@2; put k 2 = 3; get k = 1@2/4/3",
    "an unknown write counts twice": "a: put k 1; a ?; put k 2 = 4; get k = 2@2/4/3",
    "an unknown write is seen before its call": "get k = 1@2; a: put k 1; a ?",
    "an unknown addition is seen before its call": "get n = 2@2; a: add n 2; a ?",
    "an unknown addition is seen, and called too late to be": "get n = 2@2; a: add n 2; a ?; get n = 2@2; get n = -",
    "an unknown addition counts twice": "add n 1 = 2 1; a: add n 5; a ?; add n 1 = 5 12",
    "additions are lost": "a: add n 1; b: add n 1; a = 2 1; b = 3 1",
    "an addition is counted twice": "add n 1 = 2 1; add n 1 = 3 3",
    "an addition to a text": "put k x = 2; add k 1 = 3 1",
    "of unknown additions none makes this sum": "a: add n 1; a ?; b: add n 2; b ?; c: add n 4; c ?; get n = 8@2/3/2",
    "a wrong revision": "put k 1 = 2; get k = 1@2/3",
    "a wrong version": "put k 1 = 2; put k 2 = 3; get k = 2@2/3/3",
    "a wrong creation": "put k 1 = 2; put k 2 = 3; get k = 2@3/3/2",
    "a key that was deleted has not begun anew": "put k 1 = 2; delete k = 3; put k 2 = 4; get k = 2@2/4/2",
    "a delete is not seen": "put k 1 = 2; delete k = 3; get k = 1@2",
    "a delete found nothing where something was": "put k 1 = 2; delete k = 2 none",
    "a delete found something where nothing was": "delete k = 2",
    "a refused put took effect": "put k 1 = 2; put k 2 if 0 = conflict 1@2; get k = 2@2/3/2",
    "a put was refused although its revision was right": "put k 1 = 2; put k 2 if 2 = conflict 1@2",
    "a guarded put was done although its revision was wrong": "put k 1 = 2; put k 2 if 7 = 3",
    "a guarded put was done although the lock was gone": "put l a = 2; delete l = 3; put k 1 held l@2 = 4",
    "a guarded put was done although the lock was never there": "put k 1 held l@2 = 2",
    "a guarded put was refused although the lock was held": "put l a = 2; put k 1 held l@2 = lost",
    "a guarded put that was refused took effect": "put l a = 2; put k 1 held l@3 = lost; get k = 1@3",
    "an unknown guarded put came when the lock was gone": "put l a = 2; delete l = 3; a: put k 1 held l@2; a ?; get k = 1@4",
    "both of two guarded puts won": "put k 1 = 2; a: put k 2 if 2; b: put k 3 if 2; a = 3; b = 4",
    "a conflict tells of something else": "put k 1 = 2; put k 2 if 0 = conflict 1@2/2/5",
    "what was replaced is told wrongly": "put k 1 = 2; put k 2 = 3; put k 3 prev = 4 prev 1@2",
    "what was replaced is told of nothing": "put k 1 prev = 2 prev 0@1",
    "revisions against time": "put k 1 = 3; put k 2 = 2",
    "revisions of several keys against time": "put k 1 = 3; put j 2 = 2",
    "one revision twice": "a: put k 1; b: put j 2; a = 2; b = 2",
    "a revision that nobody made": "put k 1 = 2; put k 2 = 4",
    "two revisions that nobody made, and one that could have": "a: put j 1; a ?; put k 1 = 2; put k 2 = 5",
    "a read of one key that is older than a read of another": "a: put k 1; put j 1 = 3; get k = -; a = 2",
    "a later write was seen, and then not the earlier one": "a: put k 1; b: put j 1; get j = 1@3; get k = -; a = 2; b = 3",
    "a write took effect after it was seen by its revision": "a: put k 1; put j 1 = 3; b: put k 2; get k = 2@4; b = 2; a = 4",
    "half of a transaction": "if true then put k 1, put j 2 = 2 yes: 2, 2; get k = 1@2; get j = -",
    "half of an unknown transaction": "a: if true then put k 1, put j 2; a ?; get k = 1@2; get j = -",
    "a transaction with two revisions": "if true then put k 1, put j 2 = 3 yes: 2, 3",
    "the wrong branch": "put k 1 = 2; if k.mod==2 then put k 2 else put k 3 = 3 no: 3",
    "a transaction is blind for its own writes": "if true then put k 1, get k = 2 yes: 2, -",
    "a read-only transaction sees two moments": (
        "put k 1 = 2; put j 1 = 3; a: if true then get k, get j; put k 2 = 4; put j 2 = 5; a = 4 yes: 1@2, 2@3/5/2"
    ),
    "a read-only transaction tells another revision than it saw": "put k 1 = 2; put k 2 = 3; if true then get k = 2 yes: 2@2/3/2",
    "a scan leaves something out": "put ka 1 = 2; put kb 2 = 3; scan k = 3: ka 1@2",
    "a scan sees what was deleted": "put ka 1 = 2; delete ka = 3; scan k = 3: ka 1@2",
    "a scan sees two moments": "put ka 1 = 2; a: scan k; delete ka = 3; put kb 2 = 4; a = 4: ka 1@2, kb 2@4",
    "a scan tells an old revision": "put k 1 = 2; put k 2 = 3; scan j = 2:",
    "a scan tells a revision that was not yet": "put k 1 = 2; scan j = 3:; put k 2 = 3",
    "a lost update under a guard": "put k 0 = 2; a: if k.mod==2 then put k 1; b: if k.mod==2 then put k 2; a = 3 yes: 3; b = 4 yes: 4",
    "a revoked lease's key is still there": "put k 1 lease L = 2; revoke L = 1; get k = 1@2",
    "a revocation makes no revision": "put k 1 lease L = 2; revoke L = 1; put k 3 = 3; get k = 3@3/3/1",
    "a revocation makes two revisions": "put k 1 lease L = 2; put j 1 lease L = 3; revoke L = 1; put k 3 = 6",
    "a key without a lease goes by itself": "put k 1 = 2; get k = -",
    "a leased key goes and comes back": "put k 1 lease L = 2; get k = -; get k = 1@2",
    "an unseen local read's write is forgotten": "a: put k 1; a ?; get k local = 1@2; get k = -",
    "what was known to be there when a later revision was known is missing": "a: put k 1; a ?; scan j = 2:; get k = -; get k = 1@2",
}


@pytest.mark.parametrize("text", LEGAL.values(), ids=LEGAL)
def test_an_odd_history_that_is_legal_passes(text: str) -> None:
    check_history(tale(text), seconds=5)
    check_history(tale(text), seconds=5, complete=False)


@pytest.mark.parametrize("text", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_history_is_found(text: str) -> None:
    with pytest.raises(Violation) as caught:
        check_history(tale(text), seconds=5)
    assert not isinstance(caught.value, Undecided)


CONTRADICTIONS = {
    "a: put k 1; a !; get k = 1@2": "X1: a write that failed was seen at revision 2: a: put k",
    "a: put k 1; a ?; get k = 1@2; put k 2 = 3; get k = 1@2/4/3": r"X2: one write was seen at the revisions \[2, 4\]: a: put k",
    "a: if true then put j 1, put k 1; a ?; get k = 1@2; get j = 1@3": r"X2: one write was seen at the revisions \[2, 3\]: a: if true",
    "a: put k 1; b: put j 2; a = 2; b = 2": "T1: two calls made revision 2:\n  a: put k .*\n  b: put j",
    "put k 1 = 2; get k = 1@2; get k = 7@2": r"T1: k was seen as \['1', 2, 2, 1\], and as \['7', 2, 2, 1\]: p2: get k",
    "put k 1 = 3; put k 2 = 2": "T1: revision 2 is older than what had returned before its call:\n  p0: put k .*\n  p1: put k",
    "if true then put k 1, put j 2 = 3 yes: 2, 3": "T1: the writes of a transaction have several revisions: p0: if true",
}


@pytest.mark.parametrize(("text", "said"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_called_so(text: str, said: str) -> None:
    assert re.match(said, check(tale(text)))


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="only tell whether they are equal"):
        check_history(tale("if k.mod<7 then put k 1 = 2 yes: 2"))
    with pytest.raises(ValueError, match="no history"):
        check_history([Call("a", "get", {"key": "k"}, 10, 5, "ok", None)])


def test_what_happens_in_the_same_nanosecond_overlaps() -> None:
    put = Call("a", "put", {"key": "k", "value": "1"}, 0, 10, "ok", {"revision": 2})
    check_history([put, Call("b", "get", {"key": "k"}, 10, 20, "ok", None)])
    check_history([put, Call("b", "get", {"key": "k"}, 0, 0, "ok", ["1", 2, 2, 1])])
    check_history([put, Call("b", "put", {"key": "k", "value": "2"}, 10, 10, "ok", {"revision": 3})])
    check([put, Call("b", "get", {"key": "k"}, 11, 20, "ok", None)])


def check(calls: list[Call], **options: Any) -> str:
    """What the judge says of a history that is illegal."""
    with pytest.raises(Violation) as caught:
        check_history(calls, **options)
    return str(caught.value)


def test_it_is_shown_how_far_an_order_goes_and_what_cannot_be_next() -> None:
    told = check(
        tale("put k 1 = 2; put j 7 = 3; a: put k 2; b: get k; get k = 2@2/4/2; b = 2@2/4/2; get k = 1@2; a = 4; put k 3 = 5")
    ).splitlines()
    assert told[0] == "T1: 1 of the calls on k can be put in order, and none of 3 can be next:"
    assert "p0: put k value='1' → {'revision': 2}" in told[1]
    assert told[1].endswith(" 1.")
    assert "a: put k value='2' → {'revision': 4}" in told[2]
    assert " ✗ would replace k at 2 before p6: get k → ['1', 2, 2, 1]" in told[2]
    assert told[3].endswith("✗ would be answered ['1', 2, 2, 1]")
    assert told[4].endswith("✗ would be answered ['1', 2, 2, 1]")
    assert len(told) == 5  # what is about other keys, or came later, is left out


def test_it_is_shown_who_knew_of_a_call_before_it_returned() -> None:
    told = check(tale("a: put j 1; put k 1 = 3; get j = -; a = 2"))
    assert "a: put j value='1' → {'revision': 2}" in told
    assert "1. known by the return of p1: put k value='1' → {'revision': 3}" in told
    assert "✗ would be answered ['1', 2, 2, 1]" in told


def test_a_revision_that_has_passed_is_shown() -> None:
    assert "no call made revision 3, which had passed when this returned: p1: put k" in check(tale("put k 1 = 2; put k 2 = 4"))
    assert "nobody can have made a revision that was made" in check(tale("put k 1 = 2; a: delete j; a ?; put k 2 = 4"))


def test_what_others_wrote_is_no_gap() -> None:
    check_history(tale("put k 1 = 2; put k 2 = 4; put j 1 = 9; get k = 2@2/4/2"), complete=False)
    assert "would replace k at 2" in check(tale("put k 1 = 2; put k 2 = 4; get k = 1@2"), complete=False)


def additions(total: int, count: int) -> list[Call]:
    """So many additions of powers of two that nobody answered, and a counter that half of them have brought to a total."""
    lost = [Call(f"a{at}", "add", {"key": "n", "delta": 2 << at}, at) for at in range(count)]
    return [*lost, Call("b", "get", {"key": "n"}, 100, 101, "ok", [str(total), 2, count // 2 + 1, count // 2])]


def test_what_takes_too_long_is_undecided_and_no_success() -> None:
    check_history(additions(sum(2 << at for at in range(4)), 8))
    assert "get n" in check(additions(1, 8))
    with pytest.raises(Undecided, match="undecided: 27 calls on n after") as caught:
        check_history(additions(1, 26), seconds=0.3)
    assert isinstance(caught.value, Violation)


@pytest.mark.parametrize("complete", [True, False])
def test_a_violation_that_was_found_stays_one_when_there_is_no_time_to_explain_it(complete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Search.run

    def run_and_be_late(search: Search) -> bool:
        found = run(search)
        monkeypatch.setattr(ordering, "LOOK_EVERY", 1)
        monkeypatch.setattr(ordering, "time", SimpleNamespace(monotonic=lambda: float("inf")))
        return found

    monkeypatch.setattr(Search, "run", run_and_be_late)
    with pytest.raises(Violation) as caught:
        check_history(additions(1, 8), complete=complete)
    assert not isinstance(caught.value, Undecided)
    assert "get n" in str(caught.value)


@pytest.mark.parametrize(("keys", "clients", "doubt"), [(10, 8, 0.03), (1, 8, 0.03), (30, 16, 0.01)])
def test_three_thousand_calls_are_judged_in_a_fraction_of_a_minute(keys: int, clients: int, doubt: float) -> None:
    calls = TinyStore(random.Random(7), keys, clients, doubt).run(3000)
    began = time.process_time()
    check_history(calls)
    assert time.process_time() - began < 20.0


def test_keys_are_judged_one_by_one_where_others_write_too() -> None:
    """So that hundreds of writes that nobody answered are no matter."""
    calls = TinyStore(random.Random(7), keys=40, clients=8, doubt=0.2, joined=False).run(3000)
    assert sum(call.outcome == "unknown" for call in calls) > 500
    check_history(calls, complete=False)
