"""More keys and events than either store handles in one go, on etcd and on replkv."""

from __future__ import annotations

import random

import pytest
from play import Play
from steps import Compact, Compare, Delete, Grant, Put, Relation, Revoke, Scan, TimeToLive, Txn, Watch, Where

KEYS = [b"%04d" % number for number in range(1500)]
A_TXN = 100
MIDDLE = Where(start=b"0200", end=b"1300")


@pytest.fixture
def many(both: Play) -> Play:
    """Both stores with 1,500 keys, a hundred per revision in random order, every third of them on a lease."""
    both.do(Grant(7))
    keys = random.Random(1).sample(KEYS, len(KEYS))
    for at in range(0, len(keys), A_TXN):
        puts = (Put(key, b"%d" % place, lease=7 * (place % 3 == 0)) for place, key in enumerate(keys[at : at + A_TXN], at))
        both.do(Txn(then=tuple(puts)))
    return both


def test_scans_of_many_keys_are_equal_whatever_their_limit(many: Play) -> None:
    for limit in (0, 1, 255, 256, 257, 511, 512, 513, 1099, 1100, 1101):
        for descending in (False, True):
            many.do(Scan(MIDDLE, limit=limit, descending=descending))
            many.do(Scan(MIDDLE, limit=limit, descending=descending, sort_by="value", keys_only=True))  # all values differ
            many.do(Scan(Where(), limit=limit, descending=descending, revision=9, min_mod_revision=3, max_create_revision=7))
    many.do(Scan(MIDDLE, count_only=True))


def test_deletes_of_many_keys_are_equal_and_so_is_what_is_left(many: Play) -> None:
    many.do(TimeToLive(7))
    many.do(Delete(MIDDLE, prev_kv=True))
    many.do(TimeToLive(7))
    many.do(Revoke(7))
    for revision in (None, 15, 16, 17):
        many.do(Scan(Where(), revision=revision))
    many.do(Compact(16))
    for revision in (15, 16, 17):
        many.do(Scan(Where(), revision=revision))


def test_a_compare_of_many_keys_looks_at_all_of_them(many: Play) -> None:
    relations: tuple[tuple[Relation, int], ...] = (("==", 7), ("!=", 7), ("<", 8), (">", 6))
    for relation, operand in relations:
        many.do(Txn((Compare(MIDDLE, "lease", relation, operand),), then=(Delete(MIDDLE),)))
        many.do(Txn((Compare(Where(), "mod_revision", relation, operand),), then=(Scan(Where(), limit=300),)))


def test_a_watch_of_many_events_sees_them_all(many: Play) -> None:
    many.do(Delete(MIDDLE))
    many.do(Revoke(7))
    for watch in (
        Watch(Where(), start_revision=1, prev_kv=True),
        Watch(MIDDLE, start_revision=1, prev_kv=True),
        Watch(MIDDLE, start_revision=9, kinds=("delete",)),
        Watch(Where(), start_revision=16, kinds=("put",)),
        Watch(Where(key=b"0700"), start_revision=1),
    ):
        ours, theirs = many.replkv.watch(watch), many.etcd.watch(watch)
        many.require_equal_views(watch, ours, theirs, many.touch(watch))
