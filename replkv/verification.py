"""Are the members still alike?  They tell each other hashes of what they applied; the odd one stops rather than give wrong answers.

The chained hash costs almost nothing and is compared at every 256th entry and when nothing goes on; the hash of the whole state is
taken in the background at compactions.  Both are compared at equal index only, so a member that is behind raises no alarm.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field

from replkv.errors import InvariantBroken

if TYPE_CHECKING:
    from replkv.messages import Configuration, Digest

logger = logging.getLogger(__name__)

EVERY = 256
"""Entries between two comparisons of the chained hash."""
KEPT = 32
"""How many places of the log are remembered until the others have told theirs."""
FULL_EVERY = 60_000_000
"""Microseconds of cluster time: in each such stretch the whole state is hashed once."""

_Place: TypeAlias = tuple[int, bool]  # index, and whether the hash is that of the whole state


@define(eq=False, repr=False)
class Verification:
    """What one member knows of the others' hashes.

    Args:
        name: of this member.
    """

    name: str
    _hashes: dict[_Place, dict[str, bytes]] = field(factory=dict, init=False)
    _reported: set[tuple[str, _Place]] = field(factory=set, init=False)

    def note(self, member: str, digest: Digest, configuration: Configuration, leader: str | None) -> None:
        """Take in a hash, this member's own or another's, and compare.

        Args:
            member: whose it is.
            digest: the place in the log, and the hash.
            configuration: who decides what is right: a majority.
            leader: in a cluster of two it is right.

        Raises:
            InvariantBroken: this member is the odd one.
        """
        place = (digest.index, digest.full)
        hashes = self._hashes.setdefault(place, {})
        hashes[member] = digest.hash
        while len(self._hashes) > KEPT:
            oldest = min(self._hashes)
            del self._hashes[oldest]
            self._reported = {(name, where) for name, where in self._reported if where != oldest}
        own = hashes.get(self.name)
        if own is None or len(set(hashes.values())) == 1:
            return
        self._judge(place, own, hashes, configuration, leader)

    def _judge(self, place: _Place, own: bytes, hashes: dict[str, bytes], configuration: Configuration, leader: str | None) -> None:
        voters = [name for name in configuration.voters if name in hashes]
        common, number = max(Counter(hashes[name] for name in voters).items(), key=lambda item: item[1], default=(own, 0))
        decided = 2 * number > len(configuration.voters)
        right = common if decided else hashes.get(leader or "") if len(configuration.voters) == 2 else None
        evidence = ", ".join(f"{name} has {value.hex()}" for name, value in sorted(hashes.items()))
        what = f"the {'state' if place[1] else 'chain'} at entry {place[0]}"
        if right is not None and own != right:
            raise InvariantBroken(
                f"{self.name} went astray: {what} differs from the others' ({evidence}); it stopped rather than give wrong answers. "
                "Keep its data directory for a report, and let it begin anew with an empty one"
            )
        for name, value in hashes.items():
            if value != own and (name, place) not in self._reported:
                self._reported.add((name, place))
                logger.error("%s: %s went astray: %s differs (%s)", self.name, name, what, evidence)
