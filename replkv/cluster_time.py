"""Cluster time as one member knows it: microseconds that pass only while a leader does its work.

It is stamped on entries and Appends by leaders and carried on by their successors; the clocks of two machines are never compared.
"""

from __future__ import annotations


class ClusterTime:
    """The newest stamp, and when by this member's own clock (seconds) it was that late.

    Args:
        stamp: microseconds.
        now: seconds.
    """

    def __init__(self, stamp: int, now: float) -> None:
        self.stamp = stamp
        self._at = now

    def pass_on(self, now: float, most: float) -> None:
        """Let a leader's time pass, but no more than ``most`` seconds at once: a stall must not expire anybody."""
        elapsed = now - self._at
        if elapsed > most:
            elapsed = most
            self._at = now - elapsed
        passed = int(elapsed * 1e6)
        self.stamp += passed
        self._at += passed / 1e6

    def hear(self, stamp: int, now: float) -> None:
        """Take a leader's stamp, unless a later one is known."""
        if stamp > self.stamp:
            self.stamp, self._at = stamp, now

    def adopt(self, stamp: int, now: float) -> None:
        """Take the stamp of a new leader, also where this member was ahead: what began with its time must not end by another's."""
        self.stamp, self._at = stamp, now

    def take_over(self, least: int, now: float) -> None:
        """Go on as leader from the newest stamp, with what has passed since by this member's own clock."""
        self.stamp = max(self.stamp + int((now - self._at) * 1e6), least)
        self._at = now

    def moment(self, stamp: int) -> float:
        """Return when it will be that late by this member's clock, if it leads and works without a stall."""
        return self._at + (stamp - self.stamp) / 1e6
