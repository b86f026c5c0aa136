"""The log as the Raft core sees it, with runs so short that most of it is packed."""

from __future__ import annotations

import pytest

from replkv.codec import make_entry
from replkv.errors import InvariantBroken
from replkv.messages import Configuration, Entry, EntryKind, Position, SnapshotMeta
from replkv.raftlog import RaftLog

TERMS = (1, 1, 1, 2, 2, 5, 5, 5, 5, 6)


def entry(index: int, term: int) -> Entry:
    return make_entry(index, term, EntryKind.BLOCK, 0, bytes(20))


def log_of(*terms: int) -> RaftLog:
    """Return a log behind a snapshot at entry 10 of term 1."""
    log = RaftLog(SnapshotMeta(10, 1, Configuration(())), ())
    log.put([entry(index, term) for index, term in enumerate(terms, 11)])
    return log


def terms(log: RaftLog) -> list[int | None]:
    return [log.term_at(index) for index in range(log.base_index - 1, log.last_index + 2)]


@pytest.fixture(autouse=True, params=[1, 3, 4096])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkv.entries.RUN", request.param)


def test_terms_are_known_from_the_base_to_the_end() -> None:
    log = log_of(*TERMS)
    assert terms(log) == [None, 1, *TERMS, None]
    assert log.end == Position(6, 20)
    log.trim(14)
    assert terms(log) == [None, 2, *TERMS[4:], None]
    log.trim(20)
    assert terms(log) == [None, 6, None]
    assert log.end == Position(6, 20)
    log.put([entry(21, 6), entry(22, 7)])
    assert terms(log) == [None, 6, 6, 7, None]


@pytest.mark.parametrize("trimmed", range(10, 20))
def test_what_a_new_leader_replaces_is_gone_wherever_it_begins(trimmed: int) -> None:
    for first in range(trimmed + 1, 22):
        log = log_of(*TERMS)
        log.trim(trimmed)
        log.put([entry(first, 9)])
        assert terms(log) == [None, *((1, *TERMS)[trimmed - 10 : first - 10]), 9, None]
        assert log.end == Position(9, first)
        assert [each.index for each in log.between(trimmed + 1, first)] == list(range(trimmed + 1, first + 1))


def test_the_end_is_right_after_entries_that_do_not_fit() -> None:
    log = log_of(*TERMS)
    with pytest.raises(InvariantBroken, match="where 15"):
        log.put([entry(14, 6), entry(16, 6)])
    assert log.end == Position(1, 13), "what they were to replace is gone, as much as before this was checked"
    assert terms(log) == [None, 1, *TERMS[:3], None]


def test_those_who_are_behind_are_sent_as_much_as_fits() -> None:
    log = log_of(*TERMS)
    size = len(entry(11, 1).encoded)
    for first in range(11, 21):
        for count in range(1, 12):
            got = [each.index for each in log.run(first, count * size)]
            assert got == list(range(first, min(21, first + count)))
        assert [each.index for each in log.run(first, 1)] == [first]


def test_agreement_is_found_among_packed_entries() -> None:
    log = log_of(*TERMS)
    for index in range(11, 21):
        for term in range(8):
            fitting = [at for at in range(10, index + 1) if (log.term_at(at) or 0) <= term]
            assert log.agreement(index, term) == (fitting[-1] if fitting else 9)
