"""What a scan returns: a value like any other, which makes its pairs only when somebody looks at them."""

from __future__ import annotations

import copy
import pickle

import pytest
from attrs import asdict, evolve
from attrs.exceptions import FrozenInstanceError

from replkv.values import KeyValue, ScanResult

RECORDS = tuple((b"k%d" % number, b"v", number + 2, number + 2, 1, 0) for number in range(4))
PAIRS = tuple(KeyValue(*record) for record in RECORDS)


@pytest.fixture
def found() -> ScanResult:
    return ScanResult(RECORDS, 9, True, 7)


def test_a_scan_result_is_a_sequence_of_pairs(found: ScanResult) -> None:
    assert len(found) == 4
    assert found[1] == PAIRS[1]
    assert type(found[-1]) is KeyValue
    assert found[1:3] == PAIRS[1:3]
    assert all(type(pair) is KeyValue for pair in (*found, *found[:2], *found.kvs))
    assert tuple(found) == found.kvs == PAIRS
    with pytest.raises(IndexError):
        found[4]


def test_a_scan_result_is_a_value(found: ScanResult) -> None:
    other = ScanResult(PAIRS, 9, True, 7)
    assert found == other
    assert hash(found) == hash(other)
    assert repr(found) == repr(other)
    assert found != evolve(found, count=10)
    assert asdict(found, recurse=False) == {"kvs": PAIRS, "count": 9, "more": True, "revision": 7}
    for same in (pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found)):
        assert same == other
        assert len(same) == 4
    match found:
        case ScanResult(kvs, count, more, revision):
            assert (kvs, count, more, revision) == (PAIRS, 9, True, 7)
    with pytest.raises(FrozenInstanceError):
        found.count = 3  # type: ignore[misc]
    with pytest.raises(AttributeError, match="no attribute 'keys'"):
        found.keys  # type: ignore[attr-defined]  # noqa: B018
