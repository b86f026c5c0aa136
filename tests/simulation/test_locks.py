"""Locks that lock pass, however odd their history; locks that don't are found.

The lock is ``l``, ``d`` is what it guards.
"""

from __future__ import annotations

import pytest
from tales import tale

from replkv.testing.history import Violation
from replkv.testing.locks import check_locks

LEGAL = {
    "nothing happened": "",
    "taken and given back": "put l a if 0 lease A = 2; delete l if 2 = 3; put l b if 0 lease B = 4",
    "taken when its lease was over": "put l a if 0 lease A = 2; put l b if 0 lease B = 4",
    "refused while it is held": "put l a if 0 lease A = 2; put l b if 0 lease B = conflict a@2",
    "one of two who want it": "a: put l a if 0 lease A; b: put l b if 0 lease B; b = 2; a = conflict b@2",
    "a guarded write": "put l a if 0 lease A = 2; if l.create==2 then put d 1 = 3 yes: 3",
    "a write with a guard": "put l a if 0 lease A = 2; put d 1 held l@2 = 3",
    "a write with a guard that came too late": "put l a if 0 lease A = 2; put l b if 0 lease B = 4; put d 1 held l@2 = lost",
    "a guarded write that came too late": (
        "put l a if 0 lease A = 2; put l b if 0 lease B = 4; if l.create==2 then put d 1 else get l = 4 no: b@4"
    ),
    "a guarded write that overlaps the end": (
        "put l a if 0 lease A = 2; a: if l.create==2 then put d 1; put l b if 0 lease B = 5; a = 3 yes: 3"
    ),
    "writes of one holder after the other": (
        "put l a if 0 lease A = 2; if l.create==2 then put d 1 = 3 yes: 3; delete l if 2 = 4; "
        "put l b if 0 lease B = 5; if l.create==5 then put d 2 = 6 yes: 6"
    ),
    "taken by a transaction, with something else": (
        "if l.version==0 then put l a lease A, put d 1 = 2 yes: 2, 2; if l.mod==2 then put d 2 = 3 yes: 3"
    ),
    "given back with the last write": (
        "put l a if 0 lease A = 2; if l.create==2 then put d 1, delete l = 3 yes: 3, 3; put l b if 0 lease B = 4"
    ),
    "its holder notes something in it": "put l a if 0 lease A = 2; put l a2 if 2 lease A = 3; if l.create==2 then put d 1 = 4 yes: 4",
    "an unknown taking that was one": "a: put l a if 0 lease A; a ?; get l = a@2; if l.create==2 then put d 1 = 3 yes: 3",
    "an unknown taking that was none": "a: put l a if 0 lease A; a ?; put l b if 0 lease B = 2",
    "revoked by its holder": "put l a if 0 lease A = 2; if l.create==2 then put d 1 = 3 yes: 3; revoke A = 1; put l b if 0 lease B = 5",
    "a guarded read": "put l a if 0 lease A = 2; if l.create==2 then get d = 2 yes: -",
    "used without being seen to be taken": "if l.create==7 then put d 1 = 8 yes: 8; put l b if 0 lease B = 10",
}

ILLEGAL = {
    "two holders of one revision": "a: put l a if 0 lease A; b: put l b if 0 lease B; a = 2; b = 2",
    "a write under a token that another one replaced": (
        "put l a if 0 lease A = 2; a: if l.create==2 then put d 1; put l b if 0 lease B = 4; a = 5 yes: 5"
    ),
    "a write with a guard that another one took": "put l a if 0 lease A = 2; a: put d 1 held l@2; put l b if 0 lease B = 4; a = 5",
    "a write with a guard that was given back": "put l a if 0 lease A = 2; delete l if 2 = 3; delete d held l@2 = 4",
    "a write under a token that was given back": "put l a if 0 lease A = 2; delete l if 2 = 3; if l.create==2 then put d 1 = 4 yes: 4",
    "given back by who held it before": "put l a if 0 lease A = 2; put l b if 0 lease B = 4; delete l if 2 = 5",
    "given back twice": "put l a if 0 lease A = 2; a: delete l if 2; b: delete l if 2; a = 3; b = 4",
    "a token that is smaller than the one before": "put l a if 0 lease A = 5; put l b if 0 lease B = 3",
    "writes in another order than their tokens": (
        "put l a if 0 lease A = 2; a: if l.create==2 then put d 1; put l b if 0 lease B = 4; "
        "if l.create==4 then put d 2 = 5 yes: 5; a = 6 yes: 6"
    ),
    "a write that began after another one's taking was known, and counts as before": (
        "put l a if 0 lease A = 2; put l b if 0 lease B = 4; if l.create==2 then put d 1 = 3 yes: 3"
    ),
    "a write after the lease was revoked": "put l a if 0 lease A = 2; revoke A = 1; if l.create==2 then put d 1 = 3 yes: 3",
    "a read after the lease was revoked": "put l a if 0 lease A = 2; revoke A = 1; if l.create==2 then get d = 2 yes: -",
    "an unknown taking that was seen, and another one's write": (
        "a: put l a if 0 lease A; a ?; get l = a@4; b: if l.create==2 then put d 1; put l b if 0 lease B = 2; b = 5 yes: 5"
    ),
    "a lock that was taken in a transaction and is used under an older token": (
        "put l a if 0 lease A = 2; if l.version==0 then put l b lease B = 4 yes: 4; if l.mod==2 then put d 1 = 5 yes: 5"
    ),
}


@pytest.mark.parametrize("text", LEGAL.values(), ids=LEGAL)
def test_a_lock_that_locks_passes(text: str) -> None:
    check_locks(tale(text))


@pytest.mark.parametrize("text", ILLEGAL.values(), ids=ILLEGAL)
def test_a_lock_that_does_not_lock_is_found(text: str) -> None:
    with pytest.raises(Violation, match="K1: lock l") as caught:
        check_locks(tale(text))
    assert caught.value.rule == "K1"


def test_a_failed_taking_that_was_seen_is_found() -> None:
    with pytest.raises(Violation, match="X1"):
        check_locks(tale("a: put l a if 0 lease A; a !; get l = a@2"))


def test_each_lock_is_judged_by_itself() -> None:
    check_locks(tale("put l a if 0 lease A = 2; put m b if 0 lease B = 3; if l.create==2 and m.create==3 then put d 1 = 4 yes: 4"))
