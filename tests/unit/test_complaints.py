"""Who goes on doing wrong does not fill the log, and is counted."""

from __future__ import annotations

from replkv.complaints import EVERY, Complaints


def test_what_is_not_said_is_counted_until_it_is() -> None:
    complaints = Complaints()
    assert [complaints.due(now) for now in (100.0, 100.1, 100.0 + EVERY - 0.1, 100.0 + EVERY, 101.0 + EVERY)] == [1, 0, 0, 3, 0]
    assert complaints.due(1000.0) == 2
