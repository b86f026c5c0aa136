"""Circles of dependencies are found and called by their names; what has none passes."""

from __future__ import annotations

import random
import time

import pytest
from tales import tale
from tiny_store import TinyStore

from replkv.testing.blackbox import Call
from replkv.testing.cycles import check_transactions
from replkv.testing.history import Violation

LEGAL = {
    "nothing happened": "",
    "a write and its readers": "put k 1 = 2; a: get k; b: get k; b = 1@2; a = 1@2",
    "a chain of appends": (
        "put k 1 = 2; if k.mod==2 then put k 1,2 = 3 yes: 3; if k.mod==3 then put k 1,2,3 = 4 yes: 4; get k = 1,2,3@2/4/3"
    ),
    "one of two updates is refused": "put k 1 = 2; a: put k 2 if 2; b: put k 3 if 2; a = conflict 3@2/3/2; b = 3",
    "a read that is late, but not too late": "put k 1 = 2; a: get k; put k 2 = 3; get k = 2@2/3/2; a = 1@2",
    "overlapping writes in the other order": "a: put k 1; b: put k 2; a = 3; b = 2; get k = 1@2/3/2",
    "an unknown write that was seen": "a: put k 1; a ?; get k = 1@2; put k 2 = 3",
    "an unknown write that never was": "a: put k 1; a ?; put k 2 = 2; get k = 2@2",
    "an unknown addition that was seen": "a: add n 2; a ?; get n = 2@2; add n 1 = 3 3",
    "a key that went and came back": "put k 1 = 2; delete k = 3; get k = -; put k 2 = 4; get k = 2@4",
    "a key that was not there yet": "a: put k 1; get k = -; a = 2",
    "a leased key that went by itself": "put k 1 lease L = 2; get k = -; put k 2 = 4",
    "two keys written together and read together": (
        "if true then put x 1, put y 1 = 2 yes: 2, 2; if true then get x, get y = 2 yes: 1@2, 1@2"
    ),
    "reading one's own write": "if true then put k 1, get k = 2 yes: 2, 1@2",
    "a transaction that did not match": "put k 1 = 2; if k.mod==7 then put k 2 else get k = 2 no: 1@2",
    "a scan between two writes": "put k 1 = 2; a: scan k; put k 2 = 3; a = 2: k 1@2",
    "an old local read": "put k 1 = 2; put k 2 = 3; get k local = 1@2",
    "a version is no revision": "put k 1 = 2; put k 2 = 3; put k 3 = 4; if k.version==3 then put j 1 = 5 yes: 5",
    "a value is no revision": "put k 3 = 2; put k 0 = 3; if k.value==0 then put j 1 = 4 yes: 4",
    "disjoint updates of one snapshot, one after the other": (
        "put x 0 = 2; if x.mod==2 then put y 1 = 3 yes: 3; if y.mod==3 then put x 1 = 4 yes: 4"
    ),
}

ILLEGAL = {
    "G0: two transactions overwrite each other": (
        "G0",
        (
            "a: if true then put x 1, put y 1; a ?; b: if true then put x 2, put y 2; b ?; "
            "get x = 1@5; get y = 1@8/8/1; get x = 2@5/6/2; get y = 2@7"
        ),
    ),
    "G1a: what failed is seen": ("G1a", "a: put k 1; a !; get k = 1@2"),
    "G1a: what failed in a transaction is seen": ("G1a", "a: if true then put x 1, put y 1; a !; get y = 1@2"),
    "G1c: two transactions see each other": (
        "G1c",
        "a: if true then get x, put y 1; b: if true then get y, put x 2; a = 2 yes: 2@3, 2; b = 3 yes: 1@2, 3",
    ),
    "G-single: a lost update": ("G-single", "put k 0 = 2; a: put k 1 if 2; b: put k 2 if 2; a = 3; b = 4"),
    "G-single: a lost update in transactions": (
        "G-single",
        "put k 0 = 2; a: if k.mod==2 then put k 1; b: if k.mod==2 then put k 2; a = 3 yes: 3; b = 4 yes: 4",
    ),
    "G-single: half of a transaction is seen": (
        "G-single",
        "a: if true then put x 1, put y 1; b: if true then get x, get y; a = 2 yes: 2, 2; b = 2 yes: 1@2, -",
    ),
    "G-single: a key is created twice": ("G-single", "a: put k 1 if 0; b: put k 2 if 0; a = 2; b = 3"),
    "G-single: a key is created twice in transactions": (
        "G-single",
        "a: if k.version==0 then put k 1; b: if k.create==0 then put k 2; a = 2 yes: 2; b = 3 yes: 3",
    ),
    "G2: write skew": (
        "G2",
        (
            "put x 0 = 2; put y 0 = 3; a: if x.mod==2 and y.mod==3 then put x 1; b: if x.mod==2 and y.mod==3 then put y 2; "
            "a = 4 yes: 4; b = 5 yes: 5"
        ),
    ),
    "G2: two readers see two writes in opposite orders": (
        "G2",
        (
            "a: put x 1; b: put y 1; c: if true then get x, get y; d: if true then get x, get y; "
            "c = 1 yes: 1@2, -; d = 1 yes: -, 1@3; a = 2; b = 3"
        ),
    ),
    "real time: revisions against time": ("G0-realtime", "put k 1 = 3; put k 2 = 2"),
    "real time: seen before it was called": ("G1c-realtime", "get k = 1@2; put k 1 = 2"),
    "real time: an old version is read": ("G-single-realtime", "put k 1 = 2; put k 2 = 3; get k = 1@2"),
    "real time: a write is not seen": ("G-single-realtime", "put k 1 = 2; get k = -"),
    "real time: the new is seen before the old": ("G-single-realtime", "a: put k 1; get k = 1@2; get k = -; a = 2"),
    "real time: a scan leaves out what was there": (
        "G-single-realtime",
        "put ka 1 = 2; put kb 1 = 3; if true then get ka, get kb = 2 yes: 1@2, -",
    ),
    "real time: an unknown write is seen and then not": ("G-single-realtime", "a: put k 1; a ?; get k = 1@2; get k = -"),
    "revisions: two keys' writes against time": ("G0-revision", "put k 1 = 3; put j 2 = 2"),
    "revisions: a later write was known": ("G-single-revision", "a: put j 1; put k 1 = 3; get j = -; a = 2"),
    "revisions: a read is behind what it says": ("G-single-revision", "put k 1 = 2; a: scan k; put k 2 = 3; a = 3: k 1@2"),
    "revisions: a read is ahead of what it says": ("G1c-revision", "put k 1 = 2; a: scan k; put k 2 = 3; a = 2: k 2@2/3/2"),
    "real time: an absence that was over by then": (
        "G-single-realtime",
        "put k 1 = 2; delete k = 3; put k 2 = 4; a: if k.mod==0 then put j 1; a = 5 yes: 5",
    ),
    "a version that nobody wrote": ("T1", "get k = 1@2"),
    "a version of another key": ("T1", "put j 1 = 2; get k = 1@2"),
    "one write at two revisions": ("X2", "a: put k 1; a ?; get k = 1@2; put k 2 = 3; get k = 1@2/4/3"),
}


@pytest.mark.parametrize("text", LEGAL.values(), ids=LEGAL)
def test_what_has_no_circle_passes(text: str) -> None:
    check_transactions(tale(text))


@pytest.mark.parametrize(("name", "text"), ILLEGAL.values(), ids=ILLEGAL)
def test_an_anomaly_is_found_and_called_by_its_name(name: str, text: str) -> None:
    with pytest.raises(Violation) as caught:
        check_transactions(tale(text))
    assert caught.value.rule == name


def test_a_circle_is_told_with_its_calls_and_why_each_comes_before_the_next() -> None:
    with pytest.raises(Violation) as caught:
        check_transactions(tale("put k 0 = 2; a: put k 1 if 2; b: put k 2 if 2; a = 3; b = 4; get k = 2@2/4/3"))
    told = str(caught.value).splitlines()
    assert told[0] == "G-single: 2 calls come each before the next one, and the last before the first:"
    assert "b: put k value='2' if_mod_revision=2 → {'revision': 4}" in told[1]
    assert told[1].endswith("rw: k at 2, replaced at 3")
    assert "a: put k value='1' if_mod_revision=2 → {'revision': 3}" in told[2]
    assert told[2].endswith("ww: k at 3, then 4")
    assert len(told) == 3


def test_a_long_circle_is_found_among_many_calls() -> None:
    """Appends one after the other, but for one that was made on what had been replaced a thousand calls before."""
    calls = [Call("p", "put", {"key": "k", "value": "0"}, 0, 5, "ok", {"revision": 2})]
    for at in range(1, 2000):
        calls.append(
            Call("p", "put", {"key": "k", "value": str(at), "if_mod_revision": at + 1}, 10 * at, 10 * at + 5, "ok", {"revision": at + 2})
        )
    check_transactions(calls)
    calls[1500].args["if_mod_revision"] = 500
    with pytest.raises(Violation) as caught:
        check_transactions(calls)
    assert caught.value.rule == "G-single"


@pytest.mark.parametrize("seed", range(3))
def test_long_histories_are_judged_in_the_time_it_takes_to_read_them(seed: int) -> None:
    calls = TinyStore(random.Random(seed), keys=5, clients=8, doubt=0.02).run(3000)
    began = time.process_time()
    check_transactions(calls)
    assert time.process_time() - began < 5.0
