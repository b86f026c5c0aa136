"""Where a client may find members: what it was given, and what members told it; whom to try next, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from replkv.address import is_loopback

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from replkv.errors import ReplkvError

FIRST_PAUSE: Final = 0.05
"""Seconds, about, between the first two rounds in which nobody could be reached; each further pause is twice as long."""
LONGEST_PAUSE: Final = 1.0


@define(eq=False)
class Target:
    """A place where a member may be.

    Attributes:
        where: a url, or a data directory.
        name: of the member that answered there; empty: none has yet.
        attempts: how often it was tried.
        failed_at: when it was left, or not reached, last.
        reason: why that was.
        excluded: why it is never tried again.
    """

    where: str
    name: str = ""
    attempts: int = 0
    failed_at: float = float("-inf")
    reason: str = ""
    excluded: ReplkvError | None = None

    def __str__(self) -> str:
        at = f"{self.name} at {self.where}" if self.name else self.where
        return f"{at} ({self.reason})" if self.reason else at


@define(eq=False, repr=False)
class Targets:
    """All of them.

    Args:
        given: what the user named.
        anywhere: addresses beyond this machine may be used, as all is encrypted, or although nothing is.
        rng: for pauses, so that many clients don't come back at once.
    """

    given: Sequence[str]
    anywhere: bool
    rng: random.Random
    next_at: float = field(default=float("-inf"), init=False)
    """When the next one may be tried."""
    _all: dict[str, Target] = field(init=False)
    _left: int = field(default=0, init=False)  # how many may be tried before the next pause
    _pause: float = field(default=FIRST_PAUSE, init=False)

    def __attrs_post_init__(self) -> None:
        self._all = {where: Target(where) for where in self.given}
        self._left = len(self._all)

    @property
    def usable(self) -> list[Target]:
        """Those that may be tried."""
        return [target for target in self._all.values() if target.excluded is None]

    @property
    def verdict(self) -> ReplkvError | None:
        """Why there is no sense in trying any more, if there is none."""
        return None if self.usable else next((target.excluded for target in self._all.values()), None)

    def learn(self, addresses: Mapping[str, str]) -> None:
        """Take note of the addresses that a member told; those it knows no more are forgotten, but for the ones that were given."""
        urls = {url: name for name, url in addresses.items() if self.anywhere or is_loopback(url)}
        for url in [url for url in self._all if url not in urls and url not in self.given]:
            del self._all[url]
        for url, name in urls.items():
            self._all.setdefault(url, Target(url)).name = name

    def choose(self, now: float, but: Target | None = None) -> Target | None:
        """Return the one to try now: the one that failed longest ago, None if it is too early.

        Args:
            now: in seconds.
            but: not this one.
        """
        usable = [target for target in self.usable if target is not but]
        if not usable or now < self.next_at:
            return None
        chosen = min(usable, key=lambda target: target.failed_at)
        chosen.attempts += 1
        return chosen

    def failed(self, target: Target, reason: str, now: float, stood: float = 0.0) -> None:
        """Take note that a member was left or not reached; when all have failed since one was of use, there is a pause.

        Args:
            target: where it is.
            reason: why.
            now: in seconds.
            stood: for how many of them it had answered.  One that lets clients in and sends them away is not tried on and on.
        """
        target.failed_at, target.reason = now, reason
        if stood > LONGEST_PAUSE:
            self._left, self._pause = len(self.usable), FIRST_PAUSE
        self._left -= 1
        if self._left <= 0:
            self.next_at = now + self._pause * self.rng.uniform(0.5, 1.0)
            self._pause, self._left = min(2 * self._pause, LONGEST_PAUSE), len(self.usable)

    def reached(self, target: Target, name: str) -> None:
        """Take note that a member has answered."""
        target.name, target.reason = name, ""

    def explain(self) -> str:
        """Say what is wrong with whom; empty: nothing is known to be.  Any thread."""
        wrong = [target for target in list(self._all.values()) if target.reason]
        return f"; not reachable: {', '.join(map(str, wrong))}" if wrong else ""

    def names(self) -> tuple[str, ...]:
        """Return who can't be reached: names as far as they are known, else where they should be.  Any thread."""
        return tuple(sorted({target.name or target.where for target in list(self._all.values()) if target.reason}))
